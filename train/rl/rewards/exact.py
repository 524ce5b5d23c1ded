"""The same words as the reference. Substrings earn nothing: they are gamed (METHODS 3.4)."""

from dataclasses import dataclass

from train.rl.choices import undecided
from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.text import answer_of, words


def exact(completion: str, reference: str) -> float:
    """1 where the normalised words are the same and there is at least one."""
    said = words(completion)
    return float(bool(said) and said == words(reference))


@dataclass(frozen=True)
class Exact(Reward):
    """1 where the final answer is the reference in case-free words, articles and bare prepositions left out."""

    name: str = "exact"

    def unfit(self, question: str, reference: str) -> str:
        return "" if words(reference) else "the reference has no words"

    def weigh(self, case: Case) -> Verdict:
        if why := undecided(case.question, case.reference, case.completion):
            return Verdict(0.0, why)
        same = exact(answer_of(case.completion), answer_of(case.reference))
        return Verdict(same, "the words are the reference's" if same else "the words are not the reference's")
