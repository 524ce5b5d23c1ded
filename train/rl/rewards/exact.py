"""The reward of an exact match."""

from dataclasses import dataclass

from train.rl.rewards import exact
from train.rl.rewards.case import Case


@dataclass(frozen=True)
class Exact:
    """1 where the normalised words are the same and there is at least one."""

    name: str = "exact"
    """What its metrics go by."""

    def __call__(self, case: Case) -> float:
        """Of a case."""
        return exact(case.completion, case.reference)
