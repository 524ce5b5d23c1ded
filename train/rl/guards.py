"""What no reward pays for, whatever else is right: nothing said, the same again, both sides at once, the question back.

These are the ways in which policies cheat rewards that look for words (METHODS 1.7, 3.4). Where an honest answer and a
cheat look alike, the honest one loses: a reward that is sometimes missed costs a sample, one that is cheated the model.
"""

import re
from collections import Counter
from itertools import groupby

from train.rl.poles import ANSWERS, POLES, SIDES, poled
from train.rl.text import (
    FILLERS,
    after_answer,
    answer_of,
    answers_of,
    before_answer,
    normalised,
    starts_of,
    tokens,
    untagged,
    words,
)

NEGATIONS = {"no", "not", "without", "never", "none", "neither", "nor", "cannot", "absent", "negative"} | {
    *("nothing", "nope", "nah", "nay"),
}
"""Words that turn a finding round; those in -n't too."""
SHORT = 8
"""Words of a reference at most that is one statement, so that its negation and its poles are the whole answer's."""
COPY = 3
"""Words in the question's own order from which on they can be a copy."""
PERIOD = 32
"""Words of a passage from which on it never stands twice in an honest text; shorter ones not behind one another."""
_SAYS_NO = re.compile(
    r"\bno\b(?=\s*(?:[,.;:!?\u2013\u2014]|-\s|$))|\b(?:nope|nah|nay)\b"
    r"|(?:^|[.!?;:\n])\s*no\s+(?:it|this|that|there|they|he|she|i)\b"
)


def idle(question: str, reference: str, completion: str) -> str:
    """Why an answer earns nothing from any reward; empty where it says something."""
    answers = answers_of(completion)
    said, wanted, whole = words(answers[-1]), words(answer_of(reference)), untagged(completion)
    if not said:
        return "the answer is empty"
    if tokens(after_answer(completion)):
        return "something is said behind the final answer"
    if len({tuple(words(one)) for one in answers}) > 1:
        return "several final answers are given, and they differ"
    if repeats(said, wanted) or repeats(words(whole), wanted) or drones(whole, reference):
        return "the answer repeats itself"
    if pair := both_poles(said, wanted):
        return f"the answer says both {pair[0]} and {pair[1]}"
    if other := contradicted(before_answer(completion), wanted):
        return f"before the answer stands {other}"
    if said != wanted and any(copies(said, words(line)) for line in [question, *question.splitlines()]):
        return "the answer is the question again"
    return ""


def repeats(said: list[str], wanted: list[str]) -> bool:
    """Whether words come again and again as they do not in the reference."""
    if said == wanted:
        return False
    if _stutters(said) and not _stutters(wanted):
        return True
    counts, allowed = Counter(said), Counter(wanted)
    if any(n >= 3 and n > allowed[w] and n > len(said) / 4 for w, n in counts.items()):
        return True
    return len(said) >= 4 and len(counts) <= len(said) / 2 and len(allowed) > len(wanted) / 2


def drones(completion: str, reference: str) -> bool:
    """Whether articles and the like, which count as no words, fill an answer up."""
    said, wanted = tokens(completion), tokens(reference)
    if said == wanted:
        return False
    if _stutters(said) and not _stutters(wanted):
        return True
    if any(filler and len(list(run)) >= 3 for filler, run in groupby(said, lambda word: word in FILLERS)):
        return True
    counts = Counter(wanted)
    return any(3 <= n > max(counts[w], len(said) / 2) for w, n in Counter(said).items() if w in FILLERS)


def contradicted(before: str, wanted: list[str]) -> str:
    """The opposite of a short reference that a completion says before its answer; empty where it says none.

    Yes, no and the other side are never said there; of other opposites a rationale may name both. "No" counts where it
    is an answer, not where it denies the next word, as in "no midline shift".
    """
    if len(wanted) > SHORT:
        return ""
    said, right = poled(words(before)), poled(wanted)
    for one, other in (two for pair in POLES for two in (pair, pair[::-1])):
        if one not in right or other in right:
            continue
        found = bool(_SAYS_NO.search(normalised(before))) if other == "no" else other in said
        if found and ({one, other} in ({*ANSWERS}, {*SIDES}) or one not in said):
            return other
    return ""


def both_poles(said: list[str], wanted: list[str]) -> tuple[str, str] | None:
    """The two opposite words of which an answer says both and the reference does not."""
    found, right = poled(said), poled(wanted)
    for pair in POLES if len(wanted) <= SHORT else (ANSWERS, SIDES):
        if {*pair} <= found and not {*pair} <= right:
            return pair
    return None


def opposed(said: list[str], wanted: list[str]) -> str:
    """Why an answer says the opposite of its reference, whatever words they share; empty where it does not."""
    found, right = poled(said), poled(wanted)
    for pair in POLES if len(wanted) <= SHORT else (SIDES,):
        for one, other in (pair, pair[::-1]):
            if one in right and other not in right and other in found:
                return f"the answer says {other}, the reference {one}"
    if len(wanted) <= SHORT and negated(said) != negated(wanted):
        return f"the {'answer' if negated(said) else 'reference'} is a negation and the other is not"
    return ""


def negated(said: list[str]) -> bool:
    """Whether a word among them negates."""
    return any(w in NEGATIONS or w.endswith("n't") for w in said)


def copies(said: list[str], asked: list[str]) -> bool:
    """Whether an answer is the question, has all of it inside, or is half of it or more in its own order."""
    if not said or len(asked) < COPY:
        return said == asked
    if sorted(said) == sorted(asked) or starts_of(asked, said):
        return True
    return len(said) >= max(COPY, len(asked) / 2) and bool(starts_of(said, asked))


def _stutters(said: list[str]) -> bool:
    """Whether a passage stands twice: a short one behind itself, a long one anywhere. Linear in the words."""
    for n in range(1, min(PERIOD, len(said) // 2) + 1):
        same = 0
        for one, other in zip(said, said[n:], strict=False):
            same = same + 1 if one == other else 0
            if same == n:
                return True
    passages = [tuple(said[i : i + PERIOD]) for i in range(len(said) - PERIOD + 1)]
    return len({*passages}) < len(passages)
