"""Log-probabilities of what was said, a tile of logits at a time: (N, V) is never held whole.

A token's log-probability depends on its own hidden state alone, so its gradient is taken while its logits are there
and kept as (N, D); the backward pass only scales it by what the objective asks of that token. Nothing is computed
twice, and the objective may be any function of the log-probabilities, of whole completions too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from train.loss import tile_of
from train.rl.divergence import divergences
from train.rl.domain import Transform


@dataclass(frozen=True)
class Other:
    """The policy's view of the transformed image, at the same tokens."""

    states: torch.Tensor
    """(N, D) hidden states, without gradients."""
    transform: Transform
    """Reads logits of transformed words at their counterparts."""
    before: np.ndarray
    """(N,) int64: the token in front of each."""


@dataclass(frozen=True)
class Scores:
    """What the policy says of tokens, all (N,) float32."""

    logprobs: torch.Tensor
    """Log-probability; gradients flow."""
    entropy: torch.Tensor
    """Of the distribution that the token came from, in nats; no gradient."""
    kl: torch.Tensor
    """KL(π^D‖π) in nats; gradients flow. Zeros where nothing is transformed."""
    js: torch.Tensor
    """JS(π^D‖π) in bits, in [0, 1]; no gradient."""


def scored(
    head: Any,
    states: torch.Tensor,
    targets: torch.Tensor,
    temperatures: torch.Tensor,
    other: Other | None = None,
    tile: int = 0,
) -> Scores:
    """Score tokens.

    Args:
        head: the LM head, frozen: (n, D) to logits (n, V).
        states: (N, D) hidden states that predict the tokens.
        targets: (N,) int64.
        temperatures: (N,) that logits are divided by.
        tile: tokens at once; 0 takes `tile_of`.
    Raises: ValueError where the head itself learns.
    """
    if any(p.requires_grad for p in head.parameters()):
        raise ValueError("tokens are scored with a frozen head")
    tile = tile_of(head.out_features, tile)
    return Scores(*_Tiled.apply(head, tile, targets, temperatures, other, states))


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        head: Callable[[torch.Tensor], torch.Tensor],
        tile: int,
        targets: torch.Tensor,
        temperatures: torch.Tensor,
        other: Other | None,
        states: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        learns = ctx.needs_input_grad[5]
        found = [torch.zeros(len(states), dtype=torch.float32, device=states.device) for _ in range(4)]
        gradients = [torch.empty_like(states) for _ in range(1 + (other is not None))] if learns else []
        for start in range(0, len(states), tile):
            here = slice(start, start + tile)
            with torch.set_grad_enabled(learns):
                part = states[here].detach().requires_grad_(learns)
                given = part.view_as(part)  # torch's FLOP counter cannot hook a leaf in autograd.grad
                logits = head(given).float() / temperatures[here, None]
                logprobs = torch.log_softmax(logits, -1)
                of = [logprobs.gather(1, targets[here, None])[:, 0]]
                if other is not None:
                    with torch.no_grad():
                        theirs = other.transform.back(head(other.states[here]).float(), other.before[here])
                        turned = theirs / temperatures[here, None]
                    kl, found[3][here] = divergences(logits, turned)
                    of.append(kl)
                for k, (one, gradient) in enumerate(zip(of, gradients, strict=False), 1):
                    (gradient[here],) = torch.autograd.grad(one.sum(), part, retain_graph=k < len(of))
            plain = logprobs.detach()
            found[0][here], found[1][here] = of[0].detach(), -(plain.exp() * plain).sum(-1)
            if other is not None:
                found[2][here] = of[1].detach()
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(found[1], found[3])
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *asked: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        kept = ctx.saved_tensors
        total = kept[0] * asked[0][:, None].to(kept[0].dtype)
        if len(kept) > 1:
            total = total + kept[1] * asked[2][:, None].to(kept[1].dtype)
        return None, None, None, None, None, total
