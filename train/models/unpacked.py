"""4-bit weights unpacked once for many forward passes on a CPU, where bitsandbytes unpacks them in each."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

SPARE = 2
"""How many times the unpacked weights' bytes must be free, else they stay packed."""


@contextmanager
def unpacked(model: Any) -> Iterator[bool]:
    """While this lasts, without gradients, a model's 4-bit Linears multiply with weights that are unpacked once.

    The numbers are the same bit for bit: it is what bitsandbytes' CPU code computes in each call
    (``_gemm_4bit_default_impl``), so that it does not matter whether there was memory for it. On a GPU its kernels
    unpack within the multiplication, and nothing is done here.

    Returns: whether the weights are unpacked.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    packed = [m for m in model.modules() if isinstance(m, Linear4bit) and m.weight.device.type == "cpu"]
    packed = [m for m in packed if m.compute_dtype == m.weight.quant_state.dtype]
    needed = sum(m.in_features * m.out_features * m.compute_dtype.itemsize for m in packed)
    chosen = bool(packed) and SPARE * needed < _free()
    try:
        for module in packed if chosen else ():
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            module.forward = partial(_plain, weight, module.bias)
        yield chosen
    finally:
        for module in packed:
            module.__dict__.pop("forward", None)


def _plain(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype)).to(x.dtype)


def _free() -> int:
    """Bytes of memory that the kernel says could be had."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return 0
