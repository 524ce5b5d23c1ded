"""Answer-only loss: the head runs at learned positions only, some at a time, and its logits are never held whole.

The gradient of each tile is taken while its logits are there, so nothing is computed twice. Any head will do.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from train.data.rows import Batch

HELD = 1 << 26
"""Logits in memory at once where no tile is named: 256 MiB in fp32."""


def tile_of(vocabulary: int, wanted: int = 0) -> int:
    """Tokens a tile: what is wanted, or as many as fit HELD logits."""
    return wanted or max(1, HELD // vocabulary)


def answer_loss(
    head: Any, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, tile: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of the cross-entropies of learned tokens.

    Args:
        head: the LM head, a Linear of any precision, (n, D) to logits (n, V).
        states: (N, D) hidden states that predict the learned tokens.
        targets: (N,) int64.
        weights: (N,) of each token in the sum.
        tile: tokens at once; 0 takes `tile_of`.
    Returns: the sum (), to be differentiated, and each token's own loss (N,), without a gradient.
    """
    tile = tile_of(head.out_features, tile)
    learned = [p for p in head.parameters() if p.requires_grad]
    if torch.is_grad_enabled() and (states.requires_grad or learned):
        total, each = _Tiled.apply(head, tile, targets, weights, states, *learned)
        return total, each
    each = torch.cat([states.new_zeros(0, dtype=torch.float32), *_losses(head, states, targets, tile)])
    return (each * weights).sum(), each


def token_weights(batch: Batch, power: float, total: float) -> torch.Tensor:
    """(N,) float32: an answer of n tokens weighs n to the power, over the total of all answers of the step."""
    lengths = batch.owners.bincount()[batch.owners].float()
    return lengths ** (power - 1.0) / total


def _losses(head: Any, states: torch.Tensor, targets: torch.Tensor, tile: int) -> Iterator[torch.Tensor]:
    for part, wanted in zip(states.split(tile), targets.split(tile), strict=True):
        yield F.cross_entropy(head(part).float(), wanted, reduction="none")


class _Tiled(torch.autograd.Function):
    """Loss and gradients in one pass over the tiles; backward only scales what is kept, (N, D)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        head: Callable[[torch.Tensor], torch.Tensor],
        tile: int,
        targets: torch.Tensor,
        weights: torch.Tensor,
        states: torch.Tensor,
        *learned: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gradient, of_head = torch.empty_like(states), [torch.zeros_like(p) for p in learned]
        each = torch.empty(len(states), dtype=torch.float32, device=states.device)
        for start in range(0, len(states), tile):
            stop = start + tile
            with torch.enable_grad():
                part = states[start:stop].detach().requires_grad_()
                given = part.view_as(part)  # torch's FLOP counter cannot hook a leaf in autograd.grad
                losses = F.cross_entropy(head(given).float(), targets[start:stop], reduction="none")
                found = torch.autograd.grad((losses * weights[start:stop]).sum(), (part, *learned))
            each[start:stop] = losses.detach()
            gradient[start:stop] = found[0]
            for sum_, more in zip(of_head, found[1:], strict=True):
                sum_ += more
        ctx.save_for_backward(gradient, *of_head)
        ctx.mark_non_differentiable(each)
        return (each * weights).sum(), each

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return (None, None, None, None, *(g * scale.to(g.dtype) for g in ctx.saved_tensors))
