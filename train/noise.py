"""NEFTune: uniform noise on the embeddings while training (arXiv 2310.05914, algorithm 1)."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def noisy(inner: Any, segments: torch.Tensor, alpha: float, names: Sequence[str]) -> Iterator[None]:
    """While this lasts, embeddings of tokens get noise from alpha / sqrt(T D) times [-1, 1].

    Padding gets none, nor do images: their features take the place of the embeddings. Each row draws from its own
    name, so that neither the size of a forward pass nor an interruption changes what it draws.

    Args:
        inner: the transformers model.
        segments: (B, T) of the batch, -1 in padding; a row's T counts what is not.
        alpha: 0 adds nothing.
        names: what each of the B rows draws from.
    """
    if not alpha:
        yield
        return

    def add(_: Any, __: Any, embeds: torch.Tensor) -> torch.Tensor:
        noise = torch.zeros(embeds.shape)
        for row, name in enumerate(names):
            real = int((segments[row] >= 0).sum())
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
            drawn = torch.rand(real, embeds.shape[-1], generator=torch.Generator().manual_seed(seed))
            noise[row, :real] = (2 * drawn - 1) * (alpha / math.sqrt(real * embeds.shape[-1]))
        return embeds + noise.to(embeds)

    hook = inner.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
