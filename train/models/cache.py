"""Keys and values of what was read, in memory with room: a decoded token is written, the rest is not copied."""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Tokens that fit behind what is kept before it has to move."""


class Roomy(DynamicLayer):
    """A layer's keys and values (B, H, S, D), the beginning of buffers (B, H, S + room, D).

    Where `DynamicLayer` copies all of them for every token, this copies them once in `ROOM` tokens.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in the states of new tokens."""
        if not self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        start, stop = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if not self.buffers or stop > self.buffers[0].shape[2]:
            self.buffers = [_with_room(kept, stop - start + ROOM) for kept in (self.keys, self.values)]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:stop] = new
        self.keys, self.values = (buffer[:, :, :stop] for buffer in self.buffers)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Fan the rows out."""
        super().batch_repeat_interleave(repeats)
        self.buffers = []

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows, within the same memory where there are no more of them."""
        length, rows = self.keys.shape[2], len(indices)
        if not self.buffers or rows > len(self.keys):
            super().batch_select_indices(indices)
            self.buffers = []
            return
        for buffer, kept in zip(self.buffers, (self.keys, self.values), strict=True):
            buffer[:rows, :, :length] = kept[indices]
        self.buffers = [buffer[:rows] for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


def roomy(config: Any) -> DynamicCache:
    """An empty cache for a model's text config; layers with windows of their own stay transformers'."""
    cache = DynamicCache(config=config)
    cache.layers = [Roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _with_room(kept: torch.Tensor, room: int) -> torch.Tensor:
    rows, heads, length, width = kept.shape
    buffer = kept.new_empty(rows, heads, length + room, width)
    buffer[:, :, :length] = kept
    return buffer
