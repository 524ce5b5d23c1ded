"""Checkpoints of the starter's training: weights, optimizers and the next step in one safetensors file."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn, optim

from train.optimizers import pack_state, unpack_state


def keep(path: Path, parts: Mapping[str, nn.Module], optimizers: Mapping[str, optim.Optimizer], step: int) -> None:
    """Write the checkpoint; it replaces the one before in one move."""
    packed = {
        f"{name}.{key}": value.detach().clone()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    for name, optimizer in optimizers.items():
        packed |= pack_state(optimizer, f"{name}.")
    partial = path.with_suffix(".part")
    save_file(packed, partial, metadata={"step": str(step)})
    partial.replace(path)


def resume(path: Path, parts: Mapping[str, nn.Module], optimizers: Mapping[str, optim.Optimizer]) -> int:
    """Put a checkpoint back where there is one; returns the next step."""
    if not path.exists():
        return 0
    packed = load_file(path)
    for name, part in parts.items():
        part.load_state_dict(weights(path, name))
    for name, optimizer in optimizers.items():
        unpack_state(optimizer, packed, f"{name}.")
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def weights(path: Path, part: str) -> dict[str, object]:
    """The weights of one part of a checkpoint."""
    return {key.removeprefix(f"{part}."): value for key, value in load_file(path).items() if key.startswith(f"{part}.")}
