"""A run that was cut off goes on bit for bit, whatever it learns with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from audit.errors import Refused
from tests.train.rl.parts import CONFIG, ODD, PROMPTS, By, KeepsAll, mirror, only, settled, transforms
from train.checkpoints import MemoryStore
from train.rl.collapse import Watch
from train.rl.config import GrpoConfig
from train.rl.curriculum import Curriculum, CurriculumConfig
from train.rl.domain import Transform
from train.rl.grpo import Aligned, Group, run_grpo
from train.rl.rewards.case import Reward

SHORT = By(lambda case: 1 - len(case.completion) / 60 if case.reference == "left" else None, "short")
"""A reward that does not apply to all prompts."""
REASONED = [
    replace(p, reference=answer, rationale=f"What the slice shows is red, and so it is {answer}.")
    for p, answer in zip(PROMPTS, ("left", "yes", "left"), strict=True)
]
LESSONS = CurriculumConfig(curriculum_steps=4, prefix_max=0.9, offset=0.2, prefix_nll=0.1, gamma=0.5, band=0.9)


@dataclass(frozen=True)
class Way:
    """One way to align; what holds state is made anew for each start, as a new process would."""

    loaded: Any
    adapter: bytes
    features: Any
    config: GrpoConfig
    rewards: tuple[Any, ...] = (ODD,)
    domain: tuple[Transform, ...] = ()
    lessons: CurriculumConfig | None = None
    patience: int | None = None

    def run(self, store: MemoryStore, on_groups: Any = lambda step, groups: None) -> Aligned:
        rewards: Sequence[Reward] = self.rewards
        return run_grpo(
            self.loaded, self.adapter, REASONED, self.features, self.config, rewards, store, self.domain,
            on_groups=on_groups,
            curriculum=Curriculum(self.lessons, self.config.group) if self.lessons else None,
            watch=None if self.patience is None else Watch(self.patience),
            measure=lambda step, model: {"held": float(sum(p.double().sum() for p in model.parameters()))},
        )  # fmt: skip


def told_of(groups: Sequence[Group]) -> list[Any]:
    """What a log of completions holds of them."""
    return [(g.prompt, g.prefix, g.texts, g.rewards, g.scores, g.advantages.tolist(), g.kept) for g in groups]


@pytest.fixture
def way(request: pytest.FixtureRequest, loaded: Any, adapter: bytes, features: Any) -> Way:
    """Plain GRPO, or all that there is at once."""
    plain = Way(loaded, adapter, features, replace(CONFIG, steps=4, prompts=4))
    if request.param == "plain":
        return plain
    config = replace(
        plain.config, steps=5, prompts=2, kl=0.1, updates=2, micro_groups=1, resample=2, reward_weights=(1.0, 0.5)
    )
    lessons = LESSONS if request.param == "all" else replace(LESSONS, pace="competence", competence=0.4)
    domain = (mirror(loaded), *transforms(loaded, "rotate-90", "flip-vertical"))
    return replace(plain, config=config, rewards=(ODD, SHORT), domain=domain, lessons=lessons, patience=50)


@pytest.mark.parametrize("way", ["plain", "all", "all by competence"], indirect=True)
def test_a_run_goes_on_from_every_checkpoint_bit_for_bit(way: Way, adapter: bytes) -> None:
    store, groups = KeepsAll(), {}
    whole = way.run(store, lambda step, found: groups.update({step: told_of(found)}))
    assert len(store.data) == way.config.steps - 1 and whole.adapter != adapter
    assert sum("loss" in row for row in whole.metrics) > 1
    if way.lessons:
        assert any(prefix for found in groups.values() for _, prefix, *_ in found)
        assert any(row.get("domain_js", 0) > 0 for row in whole.metrics)
    for done, data in enumerate(store.data, 1):
        torch.manual_seed(done)
        seen: dict[int, Any] = {}
        again = way.run(only(data), lambda step, found, s=seen: s.update({step: told_of(found)}))
        assert seen == {step: found for step, found in groups.items() if step >= done}
        assert again.adapter == whole.adapter
        assert settled(again.metrics) == settled(whole.metrics)


@pytest.mark.parametrize("way", ["all"], indirect=True)
def test_a_run_that_is_cut_off_again_and_again_ends_the_same(way: Way) -> None:
    """Cut off behind every rollout, so that each start gets one step further; no start leaves its adapter behind."""
    whole = way.run(MemoryStore())
    store, started = MemoryStore(), []

    def cut(step: int, groups: Sequence[Group]) -> None:
        started.append(step)
        if started.count(step) == 1:
            raise KeyboardInterrupt

    again = None
    while again is None:
        try:
            again = way.run(store, cut)
        except KeyboardInterrupt:
            assert not any("lora" in name for name, _ in way.loaded.model.named_parameters())
    assert started == sorted([*range(way.config.steps)] * 2)
    assert again.adapter == whole.adapter and settled(again.metrics) == settled(whole.metrics)


def test_a_collapse_is_seen_at_the_same_step(loaded: Any, adapter: bytes, features: Any) -> None:
    """What the watch has counted before the cut counts after it."""
    flat = Way(loaded, adapter, features, replace(CONFIG, steps=9), (By(lambda case: 0.2),), patience=3)
    store = KeepsAll()
    whole = flat.run(store)
    assert whole.diagnosis is not None and whole.diagnosis.kind == "no-signal" and len(whole.metrics) == 3
    for data in store.data:
        again = flat.run(only(data))
        assert again.diagnosis == whole.diagnosis and settled(again.metrics) == settled(whole.metrics)


@pytest.mark.parametrize("way", ["all"], indirect=True)
def test_another_runs_checkpoint_is_refused(way: Way) -> None:
    store = KeepsAll()
    way.run(store)
    assert way.lessons is not None
    for other in (
        replace(way, config=replace(way.config, kl=0.2)),
        replace(way, rewards=(SHORT, ODD)),
        replace(way, domain=way.domain[:2]),
        replace(way, domain=(*transforms(way.loaded, "mirror"), *way.domain[1:])),  # without its words
        replace(way, lessons=replace(way.lessons, gamma=0.1)),
        replace(way, lessons=None),
    ):
        with pytest.raises(Refused):
            other.run(only(store.data[0]))
