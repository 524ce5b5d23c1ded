"""The objective of GRPO and its kin over flat tokens; tensors only, no model.

A completion's tokens lie anywhere in the (N,) of a batch and name it by `owners`; what the sums are divided by belongs
to the whole step, so that a step's gradients are the same in however many parts they are computed. On one update a
rollout the ratio is one: nothing is clipped, and the losses differ by how they average.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from audit.errors import BadInput

LossName = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"]
SAME = 1e-8
"""Standard deviation up to which rewards are all the same: what rounding leaves."""
_OWN = {"grpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4), "cispo": (0.0, 5.0)}


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Source: grpo arXiv 2402.03300; dr_grpo 2503.20783; dapo 2503.14476; gspo 2507.18071; cispo 2506.13585; the ratio
        on KL 2512.02556.
    """

    loss: LossName = "dapo"
    """How the tokens' terms are clipped and averaged."""
    epsilon_low: float | None = None
    """How far a ratio may fall below one; None takes the loss's own. CISPO has no lower bound."""
    epsilon_high: float | None = None
    """How far it may rise above one; of CISPO the ratio's ceiling itself. None takes the loss's own."""
    kl: float = 0.0
    """Weight of KL to the reference: the k3 estimate times the ratio, whose gradient is that of KL and unbiased."""

    def __post_init__(self) -> None:
        """Raises: BadInput where there is no such loss."""
        if self.loss not in get_args(LossName):
            raise BadInput(
                f"there is no loss {self.loss!r}",
                where="alignment settings",
                hint=f"one of {', '.join(get_args(LossName))}",
            )

    @property
    def low(self) -> float:
        """How far a ratio may fall below one."""
        return _OWN[self.loss][0] if self.epsilon_low is None else self.epsilon_low

    @property
    def high(self) -> float:
        """How far a ratio may rise above one; of CISPO its ceiling."""
        return _OWN[self.loss][1] if self.epsilon_high is None else self.epsilon_high


@dataclass(frozen=True)
class Tokens:
    """Generated tokens of whole completions."""

    logprobs: torch.Tensor
    """(N,) of the policy; gradients flow."""
    advantages: torch.Tensor
    """(N,) of each token's completion, shaped where it is."""
    owners: torch.Tensor
    """(N,) int64: which completion each token belongs to."""
    old: torch.Tensor | None = None
    """(N,) of the policy that sampled; None where it is this one."""
    reference: torch.Tensor | None = None
    """(N,) of the policy that is not to be left; needed where KL has a weight."""


@dataclass(frozen=True)
class Totals:
    """What a step's sums are divided by, over all its parts."""

    tokens: int
    """Learned tokens."""
    completions: int
    """Completions, truncated ones counted too."""
    max_tokens: int
    """Tokens of a completion at most."""


@dataclass(frozen=True)
class Loss:
    """A part's share of a step's loss; shares add up to the step's."""

    value: torch.Tensor
    """() to be differentiated."""
    kl: float
    """Share of the token mean of k3, each times its ratio."""
    clipped_low: float
    """Share of the tokens with a bad completion whose ratio had fallen too far: they teach nothing."""
    clipped_high: float
    """The same of good completions whose ratio had risen too far; CISPO holds these at its ceiling."""


def policy_loss(objective: Objective, tokens: Tokens, totals: Totals) -> Loss:
    """The loss of a part of a step's completions.

    Raises: ValueError where KL has a weight and there is no reference.
    """
    now, advantages = tokens.logprobs, tokens.advantages
    drift = now - (now.detach() if tokens.old is None else tokens.old)
    lengths = tokens.owners.bincount().clamp(min=1).to(now.dtype)  # (C,)
    if objective.loss == "gspo":
        drift = (torch.zeros_like(lengths).index_add(0, tokens.owners, drift) / lengths)[tokens.owners]
    ratio = drift.exp()
    if objective.loss == "cispo":
        each = -ratio.clamp(max=objective.high).detach() * advantages * now
        low, high = torch.zeros_like(ratio, dtype=torch.bool), (ratio > objective.high) & (advantages > 0)
    else:
        least, most = 1 - objective.low, 1 + objective.high
        each = -torch.minimum(ratio * advantages, ratio.clamp(least, most) * advantages)
        low, high = (ratio < least) & (advantages < 0), (ratio > most) & (advantages > 0)
    k3 = torch.zeros_like(now)
    if objective.kl:
        if tokens.reference is None:
            raise ValueError("KL needs the reference's log-probabilities")
        away = tokens.reference - now
        k3 = (away.exp() - away - 1) * ratio
        each = each + objective.kl * k3
    value = (each * _weights(objective.loss, lengths[tokens.owners], totals)).sum()
    share = 1 / max(1, totals.tokens)
    return Loss(value, float(k3.detach().sum()) * share, float(low.sum()) * share, float(high.sum()) * share)


def _weights(loss: LossName, lengths: torch.Tensor, totals: Totals) -> torch.Tensor:
    """(N,) of each token in the sum, by the length of its completion."""
    if loss in ("grpo", "gspo"):
        return 1 / (lengths * max(1, totals.completions))
    per = totals.completions * totals.max_tokens if loss == "dr_grpo" else totals.tokens
    return torch.full_like(lengths, 1 / max(1, per))


def advantages_of(scores: np.ndarray, weights: np.ndarray, scaled: bool = True) -> np.ndarray:
    """Advantages (G,) float64 of a group: each reward is normalised within the group, then weighted and summed.

    The sum is not standardised again over the batch, as TRL's normalize_then_sum does: that would let the groups that
    happen to share a step set each other's scale, and undo the weights' own.

    Args:
        scores: (G, K) rewards, NaN where one does not apply.
        weights: (K,).
        scaled: divide by the standard deviation (with Bessel's correction) + 1e-4; a reward that is the same for all
            counts as zero either way.
    """
    total = np.zeros(len(scores))
    for one, weight in zip(scores.T, weights, strict=True):
        known = one[~np.isnan(one)]
        if len(known) > 1 and (spread := float(known.std(ddof=1))) > SAME:
            normal = (one - known.mean()) / (spread + 1e-4 if scaled else 1.0)
            total += weight * np.nan_to_num(normal)
    return total
