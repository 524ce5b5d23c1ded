"""What no reward pays for, whatever else is right: nothing said, the same again, both sides at once, the question back.

These are the ways in which policies cheat rewards that look for words (METHODS 1.7, 3.4). Where an honest answer and a
cheat look alike, the honest one loses: a reward that is sometimes missed costs a sample, one that is cheated the model.
"""

from collections import Counter

from train.rl.text import answer_of, answers_of, starts_of, words

SIDES = ("left", "right")
"""Never both where the reference has one, however long it is."""
POLES = (
    ("yes", "no"),
    SIDES,
    ("present", "absent"),
    ("positive", "negative"),
    ("normal", "abnormal"),
    ("true", "false"),
    ("benign", "malignant"),
    ("anterior", "posterior"),
    ("superior", "inferior"),
    ("upper", "lower"),
    ("increased", "decreased"),
    ("hyperintense", "hypointense"),
    ("unilateral", "bilateral"),
    ("male", "female"),
)
"""Words of which a short answer means one."""
NEGATIONS = {"no", "not", "without", "never", "none", "neither", "nor", "cannot", "absent", "negative"}
"""Words that turn a finding round; those in -n't too."""
SHORT = 8
"""Words of a reference at most that is one statement, so that its negation and its poles are the whole answer's."""
COPY = 3
"""Words in the question's own order from which on they can be a copy."""


def idle(question: str, reference: str, completion: str) -> str:
    """Why an answer earns nothing from any reward; empty where it says something."""
    answers = answers_of(completion)
    said, wanted = words(answers[-1]), words(answer_of(reference))
    if not said:
        return "the answer is empty"
    if len({tuple(words(one)) for one in answers}) > 1:
        return "several final answers are given, and they differ"
    if repeats(said, wanted) or repeats(words(completion), wanted):
        return "the answer repeats itself"
    if pair := both_poles(said, wanted):
        return f"the answer says both {pair[0]} and {pair[1]}"
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


def both_poles(said: list[str], wanted: list[str]) -> tuple[str, str] | None:
    """The two opposite words of which an answer says both and the reference does not."""
    for pair in POLES if len(wanted) <= SHORT else (POLES[0], SIDES):
        if set(pair) <= set(said) and not set(pair) <= set(wanted):
            return pair
    return None


def opposed(said: list[str], wanted: list[str]) -> str:
    """Why an answer says the opposite of its reference, whatever words they share; empty where it does not."""
    for pair in POLES if len(wanted) <= SHORT else (SIDES,):
        for one, other in (pair, pair[::-1]):
            if one in wanted and other not in wanted and other in said:
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
    for n in range(1, len(said) // 2 + 1):
        if any(said[i : i + n] == said[i + n : i + 2 * n] for i in range(min(len(said) - 2 * n + 1, 200))):
            return True
    return False
