"""Yes or no, or one of several choices: exactly one of them is said, and it is the right one."""

import re
from dataclasses import dataclass

from train.rl.choices import AFTER_NO, HEDGES, choices_in, lettered_in, letters_of, named
from train.rl.guards import negated
from train.rl.poles import SIDES
from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.text import answer_of, tokens, words

MOST_WORDS = 20
"""Words of a closed answer at most; what goes on longer is not one."""
_BREAK = re.compile(r"\W*no\s*[,.;:!\u2013\u2014-]")
_CLAIM = re.compile(r"\bthere(?:\s+(?:is|are|was|were)|'s)\b")
_CLAIMS = {"present", "positive", "visible", "see", "seen", "does", "do", "did", "indeed", "exists"}
_BESIDES = {"bilateral", "opposite", "contralateral", "other", "others"}
_ASKING = {
    "is",
    "are",
    "was",
    "were",
    "be",
    "been",
    "do",
    "does",
    "did",
    "has",
    "have",
    "had",
    "can",
    "could",
    "there",
} | {
    *(
        "it",
        "this",
        "that",
        "these",
        "those",
        "any",
        "some",
        "of",
        "to",
        "with",
        "and",
        "or",
        "from",
        "for",
        "by",
        "as",
    ),
    *("you", "i", "we", "one", "image", "picture", "scan", "slice"),
}


@dataclass(frozen=True)
class Closed(Reward):
    """1 where exactly one choice is named, on word boundaries, not negated, not hedged, and it is the reference."""

    choices: tuple[str, ...] = ()
    """What may be said; empty: what the question offers, else the reference and its opposite."""
    name: str = "closed"

    def unfit(self, question: str, reference: str) -> str:
        offered = self.choices or choices_in(question, reference)
        known = [words(one) for one in offered]
        wanted, letters = words(answer_of(reference)), lettered_in(question)
        if (wanted and wanted in known) or answer_of(reference).strip(" ().:") in letters:
            return ""
        return "the question is open: its reference is none of the choices"

    def weigh(self, case: Case) -> Verdict:
        said = answer_of(case.completion)
        spoken, wanted = words(said), words(answer_of(case.reference))
        letters = {key: words(text) for key, text in lettered_in(case.question).items()}
        wanted = letters.get(answer_of(case.reference).strip(" ().:"), wanted)
        offered = [words(one) for one in self.choices or choices_in(case.question, case.reference)]
        if len(spoken) > MOST_WORDS:
            return Verdict(0.0, f"a closed answer has at most {MOST_WORDS} words")
        if hedge := next((w for w in tokens(said) if w in HEDGES and w not in wanted), ""):
            return Verdict(0.0, f"the answer says {hedge}: that is no choice")
        if wanted in ([SIDES[0]], [SIDES[1]]) and (beside := _BESIDES & {*spoken}):
            return Verdict(0.0, f"the answer says {min(beside)} beside the side")
        distinct = sorted({tuple(one) for one in [*named(spoken, offered), *letters_of(said, letters)]})
        if not distinct:
            return Verdict(0.0, "the answer names none of the choices")
        if len(distinct) > 1:
            return Verdict(0.0, f"the answer names {len(distinct)} choices")
        if list(distinct[0]) != wanted:
            return Verdict(0.0, "the answer names another choice")
        if wanted in (["yes"], ["no"]) and spoken[0] != wanted[0]:
            return Verdict(0.0, f"{wanted[0]} has to be the first word of the answer")
        if wanted == ["no"] and len(spoken) > 1 and spoken[1] not in AFTER_NO and not _BREAK.match(said.lower()):
            return Verdict(0.0, "this no belongs to the next word and answers nothing")
        if wanted == ["no"] and _affirmed(said, case.question):
            return Verdict(0.0, "the answer says no, and then that it is so")
        if not negated(wanted) and negated(spoken):
            return Verdict(0.0, "the answer negates what it names")
        if negated(wanted) and wanted != ["no"] and negated([w for w in spoken if w not in wanted]):
            return Verdict(0.0, "the answer negates what it names")
        return Verdict(1.0, "the answer names the right choice and no other")


def _affirmed(said: str, question: str) -> bool:
    """Whether what follows a "no" claims what was asked: "No, there is a mass"."""
    rest = words(said)[1:]
    if not rest or negated(rest):
        return False
    asked = {*words(question)} - _ASKING
    return bool(_CLAIM.search(said.lower()) or _CLAIMS & {*rest} or (asked and asked <= {*rest}))
