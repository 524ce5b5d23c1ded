"""Words shared with the reference, in any order, each counted once for each time it is wanted."""

from collections import Counter
from dataclasses import dataclass

from train.rl.choices import undecided
from train.rl.guards import opposed
from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.text import answer_of, words


def token_f1(completion: str, reference: str) -> float:
    """Harmonic mean of the precision and recall of words, counts clipped."""
    said, wanted = Counter(words(completion)), Counter(words(reference))
    both = sum((said & wanted).values())
    return 2 * both / (said.total() + wanted.total()) if both else 0.0


@dataclass(frozen=True)
class TokenF1(Reward):
    """Token F1 of the final answer, and nothing where it says the opposite: "right lobe" is not half of "left lobe"."""

    name: str = "token_f1"

    def unfit(self, question: str, reference: str) -> str:
        return "" if words(reference) else "the reference has no words"

    def weigh(self, case: Case) -> Verdict:
        said, wanted = answer_of(case.completion), answer_of(case.reference)
        if why := opposed(words(said), words(wanted)) or undecided(case.question, case.reference, case.completion):
            return Verdict(0.0, why)
        score = token_f1(said, wanted)
        return Verdict(score, f"token F1 with the reference is {score:.2f}")
