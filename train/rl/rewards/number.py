"""A number that is near enough, in any unit of its kind."""

import re
from dataclasses import dataclass

from train.rl.guards import negated, opposed
from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.text import answer_of, tokens, words
from train.rl.units import quantities

MOST = 0.5
"""Tolerance at most: with more, twice as much is still right."""
_BOUNDS = re.compile(
    r"[<>≤≥±]|\b(?:less|more|fewer|under|over|below|above|at most|at least|up to|between|or|either|maybe|any)\b"
)


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
        if bool(_BOUNDS.search(said.lower())) and not _BOUNDS.search(wanted.lower()):
            return Verdict(0.0, "the answer gives a bound or a choice, not a number")
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
