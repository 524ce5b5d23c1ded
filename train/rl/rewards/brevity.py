"""Short where it is right: takes from what another reward pays, and pays nothing of its own."""

from dataclasses import dataclass, field

from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.rewards.token_f1 import TokenF1
from train.rl.text import answer_of, tokens

SLACK = 4
"""Words more than the reference's that cost nothing."""
FADE = 16
"""Words more after which nothing is left."""


@dataclass(frozen=True)
class Brevity(Reward):
    """The base's score times a factor: 1 up to four words more than the reference, then falling to 0 in sixteen.

    All words of the completion count, those before "the answer is" too: leave it out where a rationale is wanted.
    """

    base: Reward = field(default_factory=TokenF1)
    """Says what is right."""
    name: str = "brevity"

    def rests_on(self) -> str:
        return self.base.rests_on()

    def unfit(self, question: str, reference: str) -> str:
        return self.base.unfit(question, reference)

    def weigh(self, case: Case) -> Verdict:
        base = self.base.judge(case)
        if not base.score:
            return Verdict(base.score, f"not right, so not paid for being short: {base.why}")
        if not case.ended:
            return Verdict(0.0, "the answer did not come to an end")
        said, wanted = len(tokens(case.completion)), len(tokens(answer_of(case.reference)))
        factor = min(1.0, max(0.0, 1 - (said - wanted - SLACK) / FADE))
        return Verdict(base.score * factor, f"{said} words for {wanted}: {factor:.2f} of {base.score:.2f}")
