"""The five kinds of rules."""

from dataclasses import dataclass

from train.rl.rules.rule import Found, Rule, Terms, claimed, said
from train.rl.text import answer_of, words
from train.rl.units import quantities, unit_of

CONNECTING = {"and", "with", "of", "to", "from", "for", "by", "is", "are", "it", "there", "this", "that", "as", "no"}
CONNECTING |= {"yes", "not", "without", "be", "has", "have", "seen", "shows", "which"}
"""Words that every vocabulary allows."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary(Rule):
    """Words that an answer may have: the score is their share."""

    allowed: Terms
    """Words or phrases, one of which has to be there."""

    def weigh(self, question: str, reference: str, completion: str) -> Found:
        found = words(answer_of(completion))
        if not said(self.allowed, answer_of(completion)):
            return Found(0.0, f"none of the words that are allowed is there: {', '.join(self.allowed)}")
        known = CONNECTING | {w for term in self.allowed for w in words(term)}
        strange = [w for w in found if w not in known]
        if not strange:
            return Found(1.0, "each word is allowed")
        return Found(1 - len(strange) / len(found), f"not in the vocabulary: {', '.join(strange[:5])}")

    def told(self) -> str:
        return f"answers have only these words: {', '.join(self.allowed)}"


@dataclass(frozen=True, kw_only=True)
class Contradiction(Rule):
    """Two findings that exclude each other, within an answer or between answer and reference."""

    one: Terms
    """Spellings of the one."""
    other: Terms
    """Spellings of the other."""

    def weigh(self, question: str, reference: str, completion: str) -> Found:
        here = claimed(self.one, completion), claimed(self.other, completion)
        if all(here):
            return Found(0.0, f"says both {here[0]} and {here[1]}")
        right = claimed(self.one, reference), claimed(self.other, reference)
        for mine, theirs in ((here[0], right[1]), (here[1], right[0])):
            if mine and theirs and not all(right):
                return Found(0.0, f"says {mine}, the reference {theirs}")
        return Found(1.0, "no contradiction")

    def told(self) -> str:
        return f"never both of {' / '.join(self.one)} and {' / '.join(self.other)}"


@dataclass(frozen=True, kw_only=True)
class Implication(Rule):
    """A finding that is in certain regions only."""

    finding: Terms
    """Spellings of the finding."""
    region: Terms
    """Where it is; one has to stand in the answer or in the question."""
    elsewhere: Terms = ()
    """Where it never is."""

    def weigh(self, question: str, reference: str, completion: str) -> Found:
        finding = claimed(self.finding, completion)
        if not finding:
            return Found(1.0, "the finding is not claimed")
        if wrong := claimed(self.elsewhere, completion):
            return Found(0.0, f"{finding} is not in the {wrong}")
        if where := claimed(self.region, completion) or said(self.region, question):
            return Found(1.0, f"{finding} with its region, {where}")
        return Found(0.0, f"{finding} without its region: {', '.join(self.region)}")

    def told(self) -> str:
        never = f"; never with {' / '.join(self.elsewhere)}" if self.elsewhere else ""
        return f"{' / '.join(self.finding)} goes with {' / '.join(self.region)}{never}"


@dataclass(frozen=True, kw_only=True)
class Laterality(Rule):
    """The side of question, answer and reference is one."""

    left: Terms = ("left", "left-sided")
    """Spellings of left."""
    right: Terms = ("right", "right-sided")
    """Spellings of right."""

    def weigh(self, question: str, reference: str, completion: str) -> Found:
        asked, wanted, given = self._of(question), self._of(reference), self._of(completion)
        if given - wanted and wanted:
            return Found(0.0, f"says {_sides(given)}, the reference {_sides(wanted)}")
        if len(asked) == 1 and given - asked and not wanted:
            return Found(0.0, f"says {_sides(given)}, but {_sides(asked)} is asked about")
        if missing := wanted - given - (asked if len(asked) == 1 else set()):
            return Found(0.0, f"the side is missing: {_sides(missing)}")
        return Found(1.0, "the side is the reference's" if given else "no side is needed")

    def told(self) -> str:
        return f"the side of question, answer and reference is one: {' / '.join(self.left)}, {' / '.join(self.right)}"

    def _of(self, text: str) -> set[str]:
        return {side for side, terms in (("left", self.left), ("right", self.right)) if said(terms, text)}


@dataclass(frozen=True, kw_only=True)
class Range(Rule):
    """Numbers of a kind, between two bounds."""

    unit: str
    """Such as mm; empty for a count."""
    low: float
    """The least, in that unit."""
    high: float
    """The most."""

    def weigh(self, question: str, reference: str, completion: str) -> Found:
        found = quantities(answer_of(completion))
        if not found:
            missing = bool(quantities(answer_of(reference)))
            return Found(float(not missing), "the number is missing" if missing else "no number is needed")
        kind, size = (unit_of(self.unit) if self.unit else None) or ("", 1.0)
        for one in found:
            if one.kind != kind:
                return Found(
                    0.0, f"a number is not in {self.unit}, nor in a unit like it" if kind else "a unit is not due"
                )
            if not self.low <= one.value / size <= self.high:
                return Found(0.0, f"{one.value / size:g} {self.unit} is not from {self.low:g} to {self.high:g}")
        return Found(1.0, "each number is in range")

    def told(self) -> str:
        return f"numbers are from {self.low:g} to {self.high:g} {self.unit}".rstrip()


def _sides(found: set[str]) -> str:
    return " and ".join(sorted(found))
