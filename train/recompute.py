"""Gradient checkpointing of the language model: its layers keep their inputs and compute the rest again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from train.models.loading import Loaded

LARGE = 1_000_000_000
"""Parameters above which ``auto`` recomputes on a GPU."""


def recomputes(when: Literal["auto", "on", "off"], device: torch.device, parameters: int) -> bool:
    """Whether layers are computed again in the backward pass."""
    return when == "on" or (when == "auto" and device.type == "cuda" and parameters > LARGE)


@contextmanager
def recomputing(loaded: Loaded, when: Literal["auto", "on", "off"]) -> Iterator[bool]:
    """While this lasts, the language model in training mode recomputes its layers, where `when` says so."""
    chosen = recomputes(when, loaded.device, loaded.model.num_parameters())
    language = loaded.model.get_submodule(loaded.family.language)
    if chosen:
        # Called on the language model alone; its input needs no gradient, since this way of recomputing sees the
        # adapter's weights inside the layers. The public method would leave such a hook behind.
        language._set_gradient_checkpointing(True, _again)
    try:
        yield chosen
    finally:
        if chosen:
            language._set_gradient_checkpointing(False)


def _again(function: object, *args: object) -> object:
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)
