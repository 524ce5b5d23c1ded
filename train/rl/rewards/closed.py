"""Yes or no, or one of several choices: exactly one of them is said, and it is the right one."""

import re
from dataclasses import dataclass

from train.rl.guards import POLES, negated
from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.text import answer_of, starts_of, tokens, words

HEDGES = {"maybe", "perhaps", "possibly", "probably", "either", "or", "both", "unsure", "unclear", "uncertain"} | {
    "unknown",
    "idea",
    "clue",
    "comment",
    "cannot",
    "neither",
    "depends",
    "doubt",
    "guess",
    "any",
    "all",
}
"""Words with which an answer is not one choice."""
MOST_WORDS = 20
"""Words of a closed answer at most; what goes on longer is not one."""
_LETTERED = re.compile(r"(?<!\w)\(?([A-H])[).:]\s*(.+?)(?=[,;]?\s*(?<!\w)\(?[A-H][).:]\s|[?\n]|$)")
_LETTER = re.compile(r"^\W*([A-H])\W*$|\(([A-H])\)|(?<!\w)([A-H])[).:](?=\s|$)")
_LISTED = re.compile(
    r"(?:[:,]|\b(?:is|are|it|this|that|the)\b)?\s*((?:[^\s,:?]+,\s*)*[^\s,:?]+,?\s+or\s+[^\s,:?]+)\s*\??", re.I
)


def choices_in(question: str, reference: str) -> tuple[str, ...]:
    """The choices that a question offers or its reference implies; none where the question is open."""
    wanted = words(answer_of(reference))
    for pair in POLES:
        if wanted in ([pair[0]], [pair[1]]):
            found: tuple[str, ...] = pair
            break
    else:
        found = ()
    if lettered := dict(_LETTERED.findall(question)):
        return tuple(text.strip() for text in lettered.values())
    for listed in _LISTED.findall(question):
        offered = tuple(
            one
            for one in re.split(r",\s*(?:or\s+)?|\s+or\s+", listed.strip())
            if words(one) and one.lower() not in _AFTER_NO
        )
        if wanted in [words(one) for one in offered]:
            return offered
    return found


@dataclass(frozen=True)
class Closed(Reward):
    """1 where exactly one choice is named, on word boundaries, not negated, not hedged, and it is the reference."""

    choices: tuple[str, ...] = ()
    """What may be said; empty: what the question offers, else the reference and its opposite."""
    name: str = "closed"

    def unfit(self, question: str, reference: str) -> str:
        offered = self.choices or choices_in(question, reference)
        known = [words(one) for one in offered]
        wanted, letters = words(answer_of(reference)), dict(_LETTERED.findall(question))
        if wanted in known or answer_of(reference).strip(" ().:") in letters:
            return ""
        return "the question is open: its reference is none of the choices"

    def weigh(self, case: Case) -> Verdict:
        said = answer_of(case.completion)
        spoken, wanted = words(said), words(answer_of(case.reference))
        letters = {key: words(text) for key, text in _LETTERED.findall(case.question)}
        wanted = letters.get(answer_of(case.reference).strip(" ().:"), wanted)
        offered = [words(one) for one in self.choices or choices_in(case.question, case.reference)]
        if len(spoken) > MOST_WORDS:
            return Verdict(0.0, f"a closed answer has at most {MOST_WORDS} words")
        if hedge := next((w for w in tokens(said) if w in HEDGES and w not in wanted), ""):
            return Verdict(0.0, f"the answer says {hedge}: that is no choice")
        named = _named(spoken, offered)
        if letters:
            named += [letters[key] for found in _LETTER.findall(said) if (key := "".join(found)) in letters]
        distinct = sorted({tuple(one) for one in named})
        if not distinct:
            return Verdict(0.0, "the answer names none of the choices")
        if len(distinct) > 1:
            return Verdict(0.0, f"the answer names {len(distinct)} choices")
        if list(distinct[0]) != wanted:
            return Verdict(0.0, "the answer names another choice")
        if wanted in (["yes"], ["no"]) and spoken[0] != wanted[0]:
            return Verdict(0.0, f"{wanted[0]} has to be the first word of the answer")
        if wanted == ["no"] and len(spoken) > 1 and spoken[1] not in _AFTER_NO and not _BREAK.match(said.lower()):
            return Verdict(0.0, "this no belongs to the next word and answers nothing")
        if not negated(wanted) and negated(spoken):
            return Verdict(0.0, "the answer negates what it names")
        if negated(wanted) and wanted != ["no"] and negated([w for w in spoken if w not in wanted]):
            return Verdict(0.0, "the answer negates what it names")
        return Verdict(1.0, "the answer names the right choice and no other")


_BREAK = re.compile(r"\W*no\s*[,.;:!\u2013\u2014-]")
_AFTER_NO = {"there", "it", "this", "that", "they", "he", "she", "i"}


def _named(spoken: list[str], offered: list[list[str]]) -> list[list[str]]:
    """The choices among the words, the longest first, so that a choice inside another is not named by it."""
    rest, found = list(spoken), []
    for one in sorted(offered, key=len, reverse=True):
        while places := starts_of(one, rest):
            found.append(one)
            rest[places[0] : places[0] + len(one)] = [""]
    return found
