"""What is rewarded, and the form that every reward has."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from train.rl.guards import idle


@dataclass(frozen=True)
class Case:
    """A completion with what it is to be judged by."""

    question: str
    """What was asked."""
    reference: str
    """The final answer that is wanted."""
    completion: str
    """What the policy said."""
    ended: bool = True
    """Whether it came to an end by itself."""
    tokens: int = 0
    """Its length in tokens; 0 where nobody counted."""


@dataclass(frozen=True)
class Verdict:
    """What a case earns, and why in a sentence."""

    score: float | None
    """In [0, 1]; None where the reward does not apply."""
    why: str
    """A sentence for a person. It may quote the answer: never log it."""


class Reward(ABC):
    """A pure function of a case. Whether it applies depends on question and reference alone: no answer can dodge it."""

    name: str
    """As `named` knows it, its parameters with it."""

    def rests_on(self) -> str:
        """SHA-256 of the file that it rests on; empty where there is none."""
        return ""

    def __call__(self, case: Case) -> float | None:
        """The score in [0, 1], or None where the reward does not apply."""
        return self.judge(case).score

    def judge(self, case: Case) -> Verdict:
        """The score and a sentence why."""
        if why := self.unfit(case.question, case.reference):
            return Verdict(None, why)
        if why := idle(case.question, case.reference, case.completion):
            return Verdict(0.0, why)
        return self.weigh(case)

    @abstractmethod
    def unfit(self, question: str, reference: str) -> str:
        """Why the reward does not apply; empty where it does."""

    @abstractmethod
    def weigh(self, case: Case) -> Verdict:
        """The verdict of an answer that says something, where the reward applies."""
