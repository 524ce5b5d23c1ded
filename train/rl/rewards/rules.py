"""Declarative domain rules as a reward: they pay nothing of their own, they take from what the answer earns."""

from dataclasses import dataclass, field

from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.rewards.closed import Closed
from train.rl.rewards.number import Number
from train.rl.rewards.token_f1 import TokenF1
from train.rl.rules.rule import Rule

_SIMILAR: tuple[Reward, ...] = (Closed(), Number())


@dataclass(frozen=True)
class DomainRules(Reward):
    """How right the answer is, times the score of the rule that it keeps worst.

    Right is what `closed` says, or `number`, where one of them applies, else token F1.
    """

    rules: tuple[Rule, ...] = field(default=())
    """Of a rules file."""
    digest: str = ""
    """SHA-256 of that file."""
    name: str = "rules"

    def rests_on(self) -> str:
        return self.digest

    def unfit(self, question: str, reference: str) -> str:
        return TokenF1().unfit(question, reference)

    def weigh(self, case: Case) -> Verdict:
        judge = next((r for r in _SIMILAR if not r.unfit(case.question, case.reference)), TokenF1())
        base = judge.judge(case)
        if not base.score:
            return Verdict(0.0, f"not right, so no rule is asked: {base.why}")
        told = [(rule, rule.judge(case.question, case.reference, case.completion)) for rule in self.rules]
        broken = [(found.score, f"{rule.name}: {found.why}") for rule, found in told if found.score is not None]
        worst, why = min(broken, default=(1.0, "no rule is about this question"))
        return Verdict(base.score * worst, why if worst < 1 else f"keeps every rule; {base.why}")
