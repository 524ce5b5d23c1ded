"""How far two distributions of the next token are apart, without more memory than the logits take (METHODS 3.1).

Nothing of size (N, V) is kept for the backward pass but the logits themselves: the gradient of KL(d‖p) with respect to
the logits of p is p - d, so it is made anew, a tile of tokens at a time.
"""

import math
from typing import Any

import torch
from torch.nn import functional as F

TILE = 1 << 22
"""Numbers of a tile: 16 MiB in fp32."""
_FLOOR = -1e30
"""Log-probability of the impossible: finite, so that 0 · log 0 is 0 and no NaN is born."""


def divergences(logits: torch.Tensor, transformed: torch.Tensor, tile: int = TILE) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(π^D‖π) and JS(π^D‖π) of each token (arXiv 2601.16419, equations 3 and 4).

    Args:
        logits: (N, V) of the policy, after the temperature; gradients of KL flow.
        transformed: (N, V) of π^D; taken as given, no gradient flows.
        tile: numbers that are held in fp32 at a time.
    Returns: KL (N,) in nats, at least 0; JS (N,) in bits, in [0, 1], without gradient. Both fp32 (fp64 of fp64).
    """
    return _Divergences.apply(logits, transformed.detach(), max(1, tile // max(1, logits.shape[-1])))


class _Divergences(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, transformed: torch.Tensor, rows: int) -> Any:
        ctx.save_for_backward(logits, transformed)
        ctx.rows = rows
        kind = torch.promote_types(logits.dtype, torch.float32)
        kl, js = (torch.zeros(len(logits), dtype=kind, device=logits.device) for _ in range(2))
        for at in range(0, len(logits), rows):
            log_p, log_d = _logs(logits[at : at + rows]), _logs(transformed[at : at + rows])  # (rows, V)
            kl[at : at + rows] = (log_d.exp() * (log_d - log_p)).sum(-1)
            log_m = torch.logaddexp(log_p, log_d) - math.log(2.0)
            both = log_p.exp() * (log_p - log_m) + log_d.exp() * (log_d - log_m)
            js[at : at + rows] = both.sum(-1) / (2 * math.log(2.0))
        kl, js = kl.clamp(min=0), js.clamp(0, 1)
        ctx.mark_non_differentiable(js)
        return kl, js

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (logits, transformed), rows = ctx.saved_tensors, ctx.rows
        found = torch.empty_like(logits)
        for at in range(0, len(logits), rows):
            here = slice(at, at + rows)
            apart = _logs(logits[here]).exp() - _logs(transformed[here]).exp()
            found[here] = (apart * grads[0][here, None]).to(found.dtype)
        return found, None, None


def _logs(logits: torch.Tensor) -> torch.Tensor:
    kind = torch.promote_types(logits.dtype, torch.float32)
    return F.log_softmax(logits.to(kind), -1).clamp(min=_FLOOR)
