"""Checkpoints of a run: adapter, optimizer and metrics in one safetensors blob; never a pickle."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from train.optimizers import pack_state, unpack_state

KEY = "cloche.checkpoint"
"""Key of the JSON in the safetensors header."""


class Store(Protocol):
    """Where a run's checkpoint is kept: the vault, or memory in tests."""

    def save(self, data: bytes) -> None:
        """Keep ``data`` in place of what was kept before, atomically."""

    def load(self) -> bytes | None:
        """What was kept last."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands."""

    step: int
    """Steps done."""
    metrics: tuple[dict[str, float], ...]
    """Metrics of the steps done."""


def snapshot(at: Checkpoint, model: Any, optimizer: torch.optim.Optimizer) -> bytes:
    """Everything that the next step depends on. Randomness is seeded by the step, so none is kept."""
    from safetensors.torch import save

    tensors = {
        f"model.{n}": p.detach().cpu().contiguous().clone() for n, p in model.named_parameters() if p.requires_grad
    }
    tensors |= {k: v.detach().cpu().contiguous().clone() for k, v in pack_state(optimizer, "optimizer.").items()}
    return save(tensors, metadata={KEY: json.dumps({"step": at.step, "metrics": at.metrics})})


def restore(store: Store, model: Any, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, float]]]:
    """Put the store's checkpoint back; returns the next step and the metrics so far."""
    from safetensors.torch import load

    data = store.load()
    if data is None:
        return 0, []
    size = int.from_bytes(data[:8], "little")
    found = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][KEY])
    tensors = load(data)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"model.{name}"])
    unpack_state(optimizer, tensors, "optimizer.")
    return int(found["step"]), list(found["metrics"])


class MemoryStore:
    """Keeps the last checkpoint in memory."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    def save(self, data: bytes) -> None:
        """Keep ``data``."""
        self.data = data

    def load(self) -> bytes | None:
        """What was kept last."""
        return self.data
