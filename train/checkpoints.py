"""Checkpoints of a run: adapter, optimizer, metrics and decisions in one safetensors blob; never a pickle.

Randomness, the order of the data and the learning rate are functions of the step, so the step's number keeps them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from audit.errors import IntegrityFailure, Refused
from train.optimizers import pack_state, unpack_state

KEY = "cloche.checkpoint"
"""Key of the JSON in the safetensors header."""


class Store(Protocol):
    """Where a run's checkpoints are kept: the vault, or memory in tests."""

    def save(self, data: bytes) -> None:
        """Keep ``data`` as the last one, atomically."""

    def load(self, back: int = 0) -> bytes | None:
        """What was kept last, or that many before it; None where there is none.

        Raises: IntegrityFailure where it is there and cannot be read.
        """


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands."""

    step: int
    """Steps done."""
    metrics: tuple[dict[str, float], ...]
    """Metrics of the steps done."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """What else the run goes by, as JSON: rows a forward pass, what was skipped, the held-out losses."""
    best: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The adapter's weights where they did best, by name."""
    belongs: str = ""
    """Digest of what the run learns from, in which order; another run's checkpoint is refused."""
    optimizer: str = ""
    """Class of the optimizer whose state is kept; `snapshot` writes it."""


def snapshot(at: Checkpoint, model: Any, optimizer: torch.optim.Optimizer) -> bytes:
    """Everything that the next step depends on."""
    from safetensors.torch import save

    tensors = {f"model.{n}": p for n, p in weights_of(model).items()}
    tensors |= {f"best.{n}": p for n, p in at.best.items()}
    tensors |= pack_state(optimizer, "optimizer.")
    kept = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    note = {"step": at.step, "metrics": at.metrics, "state": dict(at.state), "belongs": at.belongs}
    note["optimizer"] = type(optimizer).__name__
    return save(kept, metadata={KEY: json.dumps(note)})


def restore(
    store: Store,
    model: Any,
    optimizer: torch.optim.Optimizer,
    belongs: str = "",
    tell: Callable[[str], None] = lambda what: None,
) -> Checkpoint:
    """Put the store's last checkpoint back that can be read; a fresh one where there is none.

    Args:
        belongs: what the checkpoint must belong to.
        tell: told where the last one cannot be read.
    Raises:
        Refused: the checkpoint is that of a run over other data, or of another optimizer, as a GPU's is.
    """
    back = 0
    while True:
        try:
            data = store.load(back) if back else store.load()
            if data is None:
                return Checkpoint(0, (), belongs=belongs)
            found, tensors = _read(data)
            break
        except IntegrityFailure as error:
            tell(f"a checkpoint cannot be read: {error.what}; the run goes on from the one before it")
            back += 1
    if found.belongs != belongs:
        raise Refused(
            "the checkpoint belongs to a run over other data or settings",
            where="checkpoint",
            hint="start a new run, or give the data and settings that the run began with",
        )
    _check_optimizer(found.optimizer, type(optimizer).__name__)
    with torch.no_grad():
        for name, weight in weights_of(model).items():
            weight.copy_(tensors[f"model.{name}"])
    unpack_state(optimizer, tensors, "optimizer.")
    return found


def _check_optimizer(wrote: str, here: str) -> None:
    """Refuse the state of another optimizer: on a GPU it is in 8 bits, and neither can read the other's."""
    if wrote and wrote != here:
        where = (
            "on a machine with a GPU" if wrote.endswith("8bit") else "without a GPU (CUDA_VISIBLE_DEVICES= hides it)"
        )
        raise Refused(
            f"the checkpoint was written with {wrote}, and this machine trains with {here}",
            where="checkpoint",
            hint=f"type the same command {where}, or begin another run here with another --seed",
        )


def weights_of(model: Any) -> dict[str, Any]:
    """What is trained, by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def _read(data: bytes) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        size = int.from_bytes(data[:8], "little")
        found = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][KEY])
        tensors = load(data)
        best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        metrics, optimizer = tuple(found["metrics"]), str(found.get("optimizer", ""))
        at = Checkpoint(int(found["step"]), metrics, found["state"], best, found["belongs"], optimizer)
        return at, tensors
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise IntegrityFailure("it is not a whole checkpoint", where="checkpoint") from error


class MemoryStore:
    """Keeps the last checkpoints in memory.

    Args:
        keep: how many.
    """

    def __init__(self, keep: int = 2) -> None:
        self.keep = keep
        self.data: list[bytes] = []

    def save(self, data: bytes) -> None:
        """Keep ``data``."""
        self.data = [*self.data, data][-self.keep :]

    def load(self, back: int = 0) -> bytes | None:
        """What was kept last, or that many before it."""
        return self.data[-1 - back] if back < len(self.data) else None
