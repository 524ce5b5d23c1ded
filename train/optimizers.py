"""Optimizers, and their state as plain tensors, so that a checkpoint is safetensors and never a pickle."""

from collections.abc import Sequence
from typing import Any

import torch

from train.sft_config import SftConfig

NUMBER = "#"
"""Ends the name of a packed value that is a plain number, not a tensor."""


def optimizer_of(weights: Sequence[torch.nn.Parameter], config: SftConfig, device: torch.device) -> Any:
    """The optimizer of a run: on a GPU AdamW is paged and keeps its state in 8 bits (arXiv 2110.02861, 2305.14314)."""
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "muon":
        return torch.optim.Muon(weights, adjust_lr_fn="match_rms_adamw", **settings)
    if device.type == "cuda":
        import bitsandbytes

        return bitsandbytes.optim.PagedAdamW8bit(weights, **settings)
    return torch.optim.AdamW(weights, **settings)


def pack_state(optimizer: torch.optim.Optimizer, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor and number of the optimizer's state by ``prefix.parameter.name``; no learning rates."""
    packed = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if torch.is_tensor(value):
                packed[f"{prefix}{index}.{name}"] = value.detach().clone()
            elif value is not None:
                packed[f"{prefix}{index}.{name}{NUMBER}"] = torch.tensor(value)
    return packed


def unpack_state(optimizer: torch.optim.Optimizer, packed: dict[str, torch.Tensor], prefix: str = "") -> None:
    """Put packed state back; the optimizer must hold the same parameters in the same order.

    Not by ``load_state_dict``: it would cast what bitsandbytes keeps in other types than the weights'.
    """
    parameters = _parameters(optimizer)
    optimizer.state.clear()
    for key, value in packed.items():
        if not key.startswith(prefix):
            continue
        index, _, name = key[len(prefix) :].partition(".")
        parameter = parameters[int(index)]
        place = parameter.device if value.ndim else value.device  # torch counts its steps on the CPU
        known = optimizer.state[parameter]
        if name.endswith(NUMBER):
            known[name.removesuffix(NUMBER)] = value.item()
        else:
            known[name] = value.to(place).clone()


def _parameters(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]
