"""A run that was cut off goes on bit for bit, whatever it learns with."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.train.rl.parts import CONFIG, ODD, PROMPTS, KeepsAll, mirror, only, settled
from train.rl.grpo import run_grpo


@pytest.mark.parametrize("way", ["plain", "mirror and kl"])
def test_a_run_goes_on_from_every_checkpoint_bit_for_bit(loaded: Any, adapter: bytes, features: Any, way: str) -> None:
    domain = [mirror(loaded)] if way != "plain" else []
    config = replace(CONFIG, kl=0.1 if domain else 0.0, updates=2 if domain else 1)
    store = KeepsAll()
    whole = run_grpo(loaded, adapter, PROMPTS, features, config, [ODD], store, domain)
    assert len(store.data) == 2 and any("loss" in m for m in whole.metrics)
    assert whole.adapter != adapter
    for done, data in enumerate(store.data, 1):
        started: list[int] = []
        torch.manual_seed(done)
        told: Callable[..., None] = lambda step, _, s=started: s.append(step)  # noqa: E731
        again = run_grpo(loaded, adapter, PROMPTS, features, config, [ODD], only(data), domain, on_groups=told)
        assert started == list(range(done, 3))
        assert again.adapter == whole.adapter
        assert settled(again.metrics) == settled(whole.metrics)
