"""A number that is near enough, in any unit of its kind."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from train.rl.guards import negated, opposed
from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.text import answer_of, tokens, words
from train.rl.units import UNITS, quantities, spelt

MOST = 0.5
"""Tolerance at most: with more, twice as much is still right."""
_BOUNDS = {
    "an upper bound": r"[<≤≲]|\b(?:less|fewer|(?:smaller|lower) than|under|below|most|up to|maxim\w*|max)\b",
    "a lower bound": r"[>≥≳]|\+(?!\s*\d)|\b(?:more|(?:larger|greater|bigger|higher) than|over|above|exceed\w*)\b"
    r"|\b(?:beyond|least|minim\w*)\b|(?<!\d)(?<!\d )\bmin\b(?=\.?\s*\d)",
    "no one number": r"[±~≈]|\b(?:(?:rather|other) than|between|to|till|or|either|any|rang\w+|plus|minus)\b"
    r"|\b(?:maybe|perhaps|possibly|guess|unsure|unknown|unclear)\b",
}
"""What an answer gives where it is not a number alone."""
_CHANGED = re.compile(
    r"\b(?:(?:thir|four|fif|six|seven|eigh|nine)teen\w*|(?:twen|thir|for|fif|six|seven|eigh|nine)t(?:y|ies|ieth\w*)"
    r"|few|many|several|hundred\w*|thousand\w*|\w*illion\w*|dozens?|couple|pairs?|half|halves|thirds|quarters?|tenths?|twice|thrice"
    r"|double\w*|triple\w*|times|fold|squared|cubed|(?:square|cubic|sq)(?!\s*(?:mm|cm|m)\b)|each|every"
    r"|hourly|daily|weekly|monthly|yearly|wrong|false|incorrect|untrue)\b"
    r"|(?<![^\W\d_])(?:k|mio|mln|bn|tn)\b|(?<=\d)\s*x(?!\s*\d)(?!\w)|[\^*]|(?<=\d)_"
)
"""Words and signs that make another number of the one beside them, or that say it is another."""


@dataclass(frozen=True)
class Number(Reward):
    """1 where the answer has the reference's numbers, as many, in its order, each within the tolerance and of its kind.

    A number without a unit where the reference has one earns nothing: 12 may be mm or cm, which is a tenfold error.
    """

    tolerance: float = 0.05
    """Share of the reference's number that it may be off."""
    name: str = "number"

    def unfit(self, question: str, reference: str) -> str:
        return "" if quantities(answer_of(reference)) else "the reference has no number"

    def weigh(self, case: Case) -> Verdict:
        said, wanted = answer_of(case.completion), answer_of(case.reference)
        found, right = quantities(said), quantities(wanted)
        if len(found) != len(right):
            return Verdict(0.0, f"the answer has {len(found)} numbers, the reference {len(right)}")
        if (bound := _bounds(said)) and bound != _bounds(wanted):
            return Verdict(0.0, f"the answer gives {' and '.join(sorted(bound))}")
        here, there = (Counter(_CHANGED.findall(_plain(text))) for text in (said, wanted))
        if here != there:
            return Verdict(0.0, f"{min((here - there) + (there - here)).strip()!r} makes another number of it")
        if _loose_unit(said) and not _loose_unit(wanted):
            return Verdict(0.0, "the answer has a unit too many")
        if why := opposed(words(said), words(wanted)):
            return Verdict(0.0, why)
        if negated(tokens(said)) and not negated(tokens(wanted)):
            return Verdict(0.0, "the answer negates its number")
        for one, other in zip(found, right, strict=True):
            if one.kind != other.kind:
                missing = "no known unit" if not one.kind else f"a unit of {one.kind}"
                return Verdict(0.0, f"the answer has {missing}, the reference {other.kind or 'none'}")
            if not abs(one.value - other.value) <= self.tolerance * abs(other.value) * (1 + 1e-9):
                return Verdict(0.0, f"{one.value:g} is not within {self.tolerance:.0%} of {other.value:g}")
        return Verdict(1.0, f"each number is within {self.tolerance:.0%}, and of the right kind")


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _bounds(text: str) -> set[str]:
    return {what for what, pattern in _BOUNDS.items() if re.search(pattern, _plain(text))}


def _loose_unit(text: str) -> bool:
    """Whether units of a kind stand there more often than numbers of it: "12 mm cm" is either."""
    units = [UNITS[one][0] for one in re.findall(r"[a-zµ]{2,}[23]?", spelt(text)) if one in UNITS]
    kinds = [part for one in quantities(text) for part in one.kind.split(" per ")]
    return bool(Counter(one for one in units if one in kinds) - Counter(kinds))
