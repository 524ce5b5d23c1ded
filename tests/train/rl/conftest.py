"""The tiny model as a policy, and groups that it sampled."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.train.rl.parts import sampled
from train.lora import LoraConfig, attach, detach, pack
from train.rl.grpo import Group


@pytest.fixture(scope="session")
def adapter(loaded: Any) -> bytes:
    """An adapter that does something."""
    model = attach(loaded, LoraConfig(4, 8))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(std=0.05, generator=draw)
    try:
        return pack(model, LoraConfig(4, 8), loaded.digest)
    finally:
        detach(model)


@pytest.fixture
def policy(loaded: Any, adapter: bytes) -> Iterator[Any]:
    """The tiny model with the adapter on it."""
    model = attach(loaded, LoraConfig(), adapter)
    yield model
    detach(model)


@pytest.fixture
def groups(loaded: Any, policy: Any, features: Any) -> list[Group]:
    """Three groups of four, one completion of each truncated."""
    return sampled(loaded, policy, features)
