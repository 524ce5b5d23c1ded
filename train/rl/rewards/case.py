"""What a reward is given, and what a reward is."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Case:
    """One completion to be rewarded."""

    question: str
    """What was asked."""
    reference: str
    """The answer that is wanted."""
    completion: str
    """What was answered, a given prefix left out."""
    ended: bool = True
    """Whether it came to its end before the limit."""
    tokens: int = 0
    """Its tokens."""


class Reward(Protocol):
    """A pure function of a case."""

    @property
    def name(self) -> str:
        """What its metrics go by."""

    def __call__(self, case: Case) -> float | None:
        """In [0, 1]; None where it does not apply."""
