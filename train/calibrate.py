"""How fast this machine is: one matrix product, and one language Linear in the precision of the run, forth and back."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from train.estimate import Flops, Precision, Shape
from train.models.quiet import quieten

_TOKENS = (32, 128)
_PRODUCT = 512


@dataclass(frozen=True)
class Speed:
    """Measured rates of one device."""

    product: float
    """FLOPs a second of a plain matrix product in the compute type."""
    fixed_s: float
    """Seconds a weight and pass of a language Linear that no number of tokens changes: taking it out of its 4 bits."""
    linear: float
    """FLOPs a second of a language Linear beyond that."""


def measured(shape: Shape, precision: Precision, device: torch.device, compute: torch.dtype) -> Speed:
    """Measure for about a second. A Linear is timed at two numbers of tokens, which parts fixed from growing cost."""
    size = min(2048, max(_PRODUCT, shape.hidden))
    left = torch.randn(_PRODUCT, size, dtype=compute, device=device)
    right = torch.randn(size, size, dtype=compute, device=device)
    product = 2 * _PRODUCT * size * size / _seconds(lambda: left @ right, device)
    linear = _linear(min(shape.hidden, 2048), min(shape.ffn, 4096), precision, compute).to(device)
    weights = linear.in_features * linear.out_features

    def pass_of(tokens: int) -> float:
        states = torch.randn(tokens, linear.in_features, dtype=compute, device=device, requires_grad=True)
        return _seconds(lambda: linear(states).sum().backward(), device)

    few, many = (pass_of(tokens) for tokens in _TOKENS)
    a_token = max((many - few) / (_TOKENS[1] - _TOKENS[0]), 4 * weights / (4 * product))
    fixed = max(0.0, few - a_token * _TOKENS[0]) / 2  # two passes: forth and back
    return Speed(product, fixed / weights, 4 * weights / a_token)


def seconds(work: Flops, speed: Speed, in_linears: int, passes: int) -> float:
    """Seconds of a whole run.

    Args:
        in_linears: parameters of the language Linears.
        passes: forward and backward passes over the language model; three a micro-batch with checkpointing, else two.
    """
    rest = (work.attention + work.head + work.vision) / speed.product
    return work.linears / speed.linear + rest + passes * in_linears * speed.fixed_s


def _linear(inside: int, out: int, precision: Precision, compute: torch.dtype) -> nn.Linear:
    if precision in ("nf4", "int8"):  # int8 is timed as nf4: both are taken out of their bits for each pass
        quieten()
        from bitsandbytes.nn import Linear4bit

        held: nn.Linear = Linear4bit(inside, out, bias=False, compute_dtype=compute, quant_type="nf4")
    else:
        held = nn.Linear(inside, out, bias=False, dtype=compute)
    return held.requires_grad_(False)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The fastest of three, after one to warm up."""
    taken = []
    for _ in range(4):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return max(min(taken[1:]), 1e-9)
