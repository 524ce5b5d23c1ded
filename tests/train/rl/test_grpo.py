"""A run of GRPO: groups that teach nothing, what is learned, and going on bit for bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from audit.errors import BadInput
from tests.train.rl.parts import CONFIG, ODD, PROMPTS, By, mirror
from train.checkpoints import MemoryStore
from train.lora import LoraConfig, attach, detach, pack, unpack
from train.rl.curriculum import Curriculum, CurriculumConfig
from train.rl.grpo import Group, GrpoConfig, run_grpo
from train.rl.rewards.case import Case


def test_groups_without_variance_are_counted_and_replaced(loaded: Any, adapter: bytes, features: Any) -> None:
    """The second picture's answers all earn the same, so its groups are drawn again until the attempts are used up."""
    said: list[tuple[str, float]] = []

    def reward(case: Case) -> float:
        said.append((case.reference, float(len(case.completion) % 2) if case.reference == "varied" else 0.25))
        return said[-1][1]

    prompts = [replace(PROMPTS[0], reference="varied"), replace(PROMPTS[1], reference="flat")]
    used: list[list[Group]] = []
    config = replace(CONFIG, prompts=4, steps=4, resample=2, checkpoint_every=99)
    done = run_grpo(
        loaded,
        adapter,
        prompts,
        features,
        config,
        [By(reward)],
        MemoryStore(),
        on_groups=lambda _, g: used.append(list(g)),
    )
    drawn = [said[k : k + 4] for k in range(0, len(said), 4)]
    flat = [g for g in drawn if len({r for _, r in g}) == 1]
    assert sum(m["zero_std"] for m in done.metrics) == len(flat) > 0
    assert len(drawn) > 16  # more than 4 steps x 4 groups: some were drawn again
    assert sum(m["resampled"] for m in done.metrics) == len(drawn) - 16
    assert all(m["zero_std_share"] == m["zero_std"] / (4 + m["resampled"]) for m in done.metrics)
    assert [len(groups) for groups in used] == [4 + m["resampled"] for m in done.metrics]  # every completion is told
    assert all(sum(g.kept for g in groups) == 4 for groups in used)
    kept = [g for groups in used for g in groups if len(set(g.rewards)) > 1]
    assert all(g.kept for g in kept)
    assert len(kept) == len(drawn) - len(flat)
    assert {g.prompt.reference for g in kept} == {"varied"}


def test_groups_are_replaced_from_the_curriculums_band(loaded: Any, adapter: bytes, features: Any) -> None:
    """The first picture is half solved, the others never or always: only the first can give a group that differs."""
    prompts = [replace(p, reference=r) for p, r in zip(PROMPTS, ("0.5", "0.0", "1.0"), strict=True)]
    lessons = Curriculum(replace(CurriculumConfig.off(), band=0.5), group=4)
    for prompt in prompts:
        lessons.saw(prompt, [float(prompt.reference)] * 4)
    drawn: list[str] = []
    config = replace(CONFIG, prompts=1, steps=6, resample=1)
    run_grpo(
        loaded, adapter, prompts, features, config, [By(lambda case: float(case.reference))], MemoryStore(),
        curriculum=lessons,
        on_groups=lambda _, groups: drawn.extend(g.prompt.record for g in groups),
    )  # fmt: skip
    assert len(drawn) == 12 and set(drawn[1::2]) == {"r0"} and len(set(drawn[::2])) > 1


def test_where_nothing_varies_nothing_is_learned(loaded: Any, adapter: bytes, features: Any) -> None:
    done = run_grpo(loaded, adapter, PROMPTS, features, CONFIG, [By(lambda case: 1.0)], MemoryStore())
    assert [m["zero_std"] for m in done.metrics] == [4.0] * 3  # two groups, drawn twice
    assert not any("loss" in m for m in done.metrics)
    before, after = unpack(adapter)[0], unpack(done.adapter)[0]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_earns_more_is_said_more(loaded: Any, adapter: bytes, features: Any) -> None:
    config = replace(CONFIG, steps=12, prompts=2, group=16, max_new_tokens=6, learning_rate=1e-2, checkpoint_every=99)
    short = By(lambda case: 1.0 - min(1.0, len(case.completion) / 30))
    done = run_grpo(loaded, adapter, PROMPTS[:2], features, config, [short], MemoryStore())
    rewards = [m["reward"] for m in done.metrics]
    assert np.mean(rewards[-3:]) > rewards[0] + 0.1


def test_no_prompts_are_said(loaded: Any, adapter: bytes, features: Any) -> None:
    with pytest.raises(BadInput, match="nothing to align on"):
        run_grpo(loaded, adapter, [], features, CONFIG, [ODD], MemoryStore())


@pytest.mark.parametrize(
    "setting",
    [
        *({"group": 1}, {"prompts": 0}, {"steps": -1}, {"updates": 0}, {"micro_groups": -1}, {"kl": -0.1}),
        *({"kl": float("nan")}, {"temperature": 0.0}, {"learning_rate": float("inf")}, {"loss": "ppo"}),
        *({"epsilon_low": -0.1}, {"epsilon_high": float("nan")}, {"scale_rewards": "batch"}),
        {"reward_weights": (1.0, -1.0)},
    ],
)
def test_settings_out_of_bounds_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as told:
        GrpoConfig(**setting)
    assert next(iter(setting)).replace("_", "-").removesuffix("s") in told.value.what


def test_an_adapter_of_the_tower_is_aligned_with_it(loaded: Any, features: Any) -> None:
    """Pictures are then read anew at each use; of the policy, of the reference and of the transformed picture."""
    shape = LoraConfig(4, 8, vision=True)
    model = attach(loaded, shape)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(std=0.05, generator=draw)
    try:
        start = pack(model, shape, loaded.digest)
    finally:
        detach(model)
    config, store = replace(CONFIG, steps=2, prompts=3, kl=0.1), MemoryStore()
    done = run_grpo(loaded, start, PROMPTS, features, config, [ODD], store, [mirror(loaded)])
    before, after = unpack(start)[0], unpack(done.adapter)[0]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("visual" in name for name in moved) and any("language_model" in name for name in moved)
    assert all(row["kl"] > 0 for row in done.metrics if "loss" in row) and not features.kept
    again = run_grpo(loaded, start, PROMPTS, features, config, [ODD], store, [mirror(loaded)])
    assert again.adapter == done.adapter, "it goes on from its checkpoint"
