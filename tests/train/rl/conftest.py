"""The tiny model as a policy, and groups that it sampled."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.train.rl.parts import PROMPTS, grouped
from train.lora import LoraConfig, attach, detach, pack
from train.models.generation import Sampling, generate, text_of
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
    """Three groups of four, some completions truncated."""
    asked = [loaded.encoder.prompt(p.turns, (p.image,), [features.grid(p.image)]) for p in PROMPTS]
    found = generate(loaded, asked, features, Sampling(10, 1.0, 4, seed=8), policy)
    texts = [tuple(text_of(loaded, c) for c in cs) for cs in found]
    rewards = ((0.0, 1.0, 0.0, 0.5), (1.0, 0.0, 0.0, 0.0), (0.2, 0.4, 1.0, 0.0))
    made = [grouped(p, cs, t, r) for p, cs, t, r in zip(PROMPTS, found, texts, rewards, strict=True)]
    ended = [c.ended for g in made for c in g.completions]
    assert any(ended) and not all(ended)
    return made
