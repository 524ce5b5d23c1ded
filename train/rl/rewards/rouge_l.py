"""Words shared with the reference in its order: for captions and reports (Lin 2004, ROUGE-L with beta 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

from train.rl.choices import undecided
from train.rl.guards import opposed
from train.rl.rewards.case import Case, Reward, Verdict
from train.rl.text import answer_of, tokens, words


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for a in one:
        before = row
        row = [0]
        for j, b in enumerate(other):
            row.append(before[j] + 1 if a == b else max(row[j], before[j + 1]))
    return row[-1]


def rouge_l(completion: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, articles included, no stemming."""
    said, wanted = tokens(completion), tokens(reference)
    common = longest_common(said, wanted)
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


@dataclass(frozen=True)
class RougeL(Reward):
    """ROUGE-L of the final answer, and nothing where it says the opposite or shares no more than articles."""

    name: str = "rouge_l"

    def unfit(self, question: str, reference: str) -> str:
        return "" if words(reference) else "the reference has no words"

    def weigh(self, case: Case) -> Verdict:
        said, wanted = answer_of(case.completion), answer_of(case.reference)
        if why := opposed(words(said), words(wanted)) or undecided(case.question, case.reference, case.completion):
            return Verdict(0.0, why)
        if not set(words(said)) & set(words(wanted)):
            return Verdict(0.0, "no word of the reference but articles is in the answer")
        score = rouge_l(said, wanted)
        return Verdict(score, f"ROUGE-L with the reference is {score:.2f}")
