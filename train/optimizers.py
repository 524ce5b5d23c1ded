"""Optimizer state as plain tensors, so that a checkpoint is safetensors and never a pickle."""

import torch


def pack_state(optimizer: torch.optim.Optimizer, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor and number of the optimizer's state by ``prefix.parameter.name``; no learning rates."""
    packed = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                packed[f"{prefix}{index}.{name}"] = (
                    value.clone() if torch.is_tensor(value) else torch.tensor(float(value))
                )
    return packed


def unpack_state(optimizer: torch.optim.Optimizer, packed: dict[str, torch.Tensor], prefix: str = "") -> None:
    """Put packed state back; the optimizer must hold the same parameters in the same order."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in packed.items():
        if key.startswith(prefix):
            index, _, name = key[len(prefix) :].partition(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
