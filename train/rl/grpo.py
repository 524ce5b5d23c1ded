"""GRPO: sample a group, compare it with itself, push towards what did better (METHODS 4).

A prompt is read once and fanned out; the update scores a group's completions as branches of one row, the prompt once.
On policy by default: one update a rollout, so the ratio is one and nothing is clipped. Groups whose rewards are all
alike teach nothing: they are counted and others drawn in their place. Truncated completions are masked.

A curriculum (RCPA), a domain's transforms and a watch over collapse are put in from outside; each may be left out.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from audit.errors import BadInput
from train.checkpoints import Checkpoint, Store, restore, snapshot
from train.lora import LoraConfig, attach, pack
from train.memory import peak_mb, reset_peak
from train.models.devices import gpu_may_be_lost
from train.models.features import Features
from train.models.loading import Loaded
from train.recompute import recomputing
from train.rl.collapse import Diagnosis, Watch
from train.rl.config import GrpoConfig
from train.rl.curriculum import Curriculum
from train.rl.domain import Transform
from train.rl.rewards.case import Reward
from train.rl.rollout import Group, Prompt, Rollouts
from train.rl.update import Updates, group_row

__all__ = ["MEASURED", "Aligned", "Group", "GrpoConfig", "Prompt", "group_row", "run_grpo"]
MEASURED = ("seconds", "rollout_seconds", "tokens_per_second", "peak_mb")
"""Metrics that differ from run to run, and from the run that was cut off; all others are the same bit for bit."""


@dataclass(frozen=True)
class Aligned:
    """What a run leaves."""

    adapter: bytes
    """The adapter as safetensors."""
    metrics: tuple[dict[str, float], ...]
    """One row a step: see `_summary` and `train.rl.update.Updates.learn`; a step that learned nothing has no loss."""
    diagnosis: Diagnosis | None = None
    """Why the watch stopped the run; None where it did not."""


def run_grpo(
    loaded: Loaded,
    adapter: bytes,
    prompts: Sequence[Prompt],
    features: Features,
    config: GrpoConfig,
    rewards: Sequence[Reward],
    store: Store,
    domain: Sequence[Transform] = (),
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    on_groups: Callable[[int, Sequence[Group]], None] = lambda step, groups: None,
    curriculum: Curriculum | None = None,
    watch: Watch | None = None,
    measure: Callable[[int, Any], Mapping[str, float]] = lambda step, model: {},
    tell: Callable[[str], None] = lambda what: None,
    on_step: Callable[[Mapping[str, float]], None] = lambda row: None,
) -> Aligned:
    """Align an adapter; goes on from the store's checkpoint where there is one.

    Args:
        rewards: each is normalised within the group; with a curriculum the first is the similarity that it goes by.
        domain: transforms of the images for the domain constraint; none is plain GRPO.
        on_groups: told every group of a step, replaced ones too, before the step learns from them.
        curriculum: gives prefixes, thresholds and weights; None is plain GRPO.
        watch: asked after each step whether training has collapsed; then the run stops.
        measure: given the step and the policy after it, and before the first step -1; what it says goes into the
            step's metrics.
        tell: told what a person should know while it goes on.
        on_step: told each step's metrics.
    Raises:
        BadInput: there is nothing to align on, or nothing to reward it by.
        Refused: the store's checkpoint is that of another run.
    """
    check(prompts, rewards, config)
    shape = LoraConfig.of(adapter)
    features = features.live() if shape.vision else features
    model = attach(loaded, shape, adapter)
    rollouts = Rollouts(loaded, model, prompts, features, config, rewards, curriculum)
    updates = Updates(loaded, model, features, config, domain, tell)
    parts = {"updates": updates, "curriculum": curriculum, "watch": watch}
    belongs, diagnosis = _digest(adapter, prompts, config, rewards, domain, curriculum), None
    try:
        with gpu_may_be_lost("align"), recomputing(loaded, config.gradient_checkpointing) as updates.recomputes:
            at = restore(store, model, updates.optimizer, belongs, tell)
            metrics = list(at.metrics)
            for name, part in parts.items():
                if part is not None and name in at.state:
                    part.resume(at.state[name])
            if at.step == 0 and watch is not None:
                watch.begin(measure(-1, model))
            for step in range(at.step, config.steps):
                row = _step(rollouts, updates, step, on_groups)
                metrics.append({**row, **measure(step, model)})
                progress(step + 1, config.steps, f"steps, reward {row['reward']:.2f}")
                on_step(metrics[-1])
                if watch is not None and (found := watch.see(metrics[-1])) is not None:
                    diagnosis = found
                    tell(f"stopped after step {step + 1} of {config.steps}: {found}")
                    break
                if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
                    state = {name: part.state() for name, part in parts.items() if part is not None}
                    here = Checkpoint(step + 1, tuple(metrics), state, belongs=belongs)
                    store.save(snapshot(here, model, updates.optimizer))
        return Aligned(pack(model, shape, loaded.digest), tuple(metrics), diagnosis)
    finally:
        model.unload()


def _step(
    rollouts: Rollouts, updates: Updates, step: int, on_groups: Callable[[int, Sequence[Group]], None]
) -> dict[str, float]:
    """One row of metrics."""
    started, device = time.perf_counter(), rollouts.loaded.device
    reset_peak(device)
    lesson = rollouts.curriculum.lesson(step) if rollouts.curriculum else None
    groups = rollouts.of(step, lesson)
    sampled = time.perf_counter()
    on_groups(step, groups)
    row = {"step": step, **_summary(groups, rollouts.config), **(lesson.metrics if lesson else {})}
    row |= updates.learn(groups, step, lesson.prefix_nll if lesson else 0.0)
    seconds, tokens = time.perf_counter() - started, sum(len(c.ids) for g in groups for c in g.completions)
    return row | {
        "seconds": seconds,
        "rollout_seconds": sampled - started,
        "tokens_per_second": tokens / seconds,
        "peak_mb": peak_mb(device),
    }


def _summary(groups: Sequence[Group], config: GrpoConfig) -> dict[str, float]:
    """What a rollout earned: of the kept groups, but for the counts of those that taught nothing.

    Returns: reward and reward_std (mean over groups) in all; the same of each reward by name; similarity (of the first
        reward, over the groups as they were first drawn); length in tokens; clipped, the share cut off; groups;
        zero_std, groups that taught nothing, and zero_std_share, of all that were drawn; resampled, groups drawn in the
        place of others; weight, the curriculum's mean.
    """
    kept = [g for g in groups if g.kept]
    completions = [c for g in kept for c in g.completions]
    flat = sum(not g.teaches for g in groups)
    found = {
        "reward": float(np.mean([r for g in kept for r in g.rewards])),
        "reward_std": float(np.mean([np.std(g.rewards) for g in kept])),
        "zero_std": float(flat),
        "zero_std_share": flat / len(groups),
        "resampled": float(len(groups) - config.prompts),
        "length": float(np.mean([len(c.ids) for c in completions])),
        "clipped": float(np.mean([not c.ended for c in completions])),
        "groups": float(len(kept)),
    }
    if any(g.weight != 1 for g in kept):
        found["weight"] = float(np.mean([g.weight for g in kept]))
    for number, name in enumerate(kept[0].scores):
        earned = [[s for s in g.scores[name] if s is not None] for g in kept]
        if any(earned):
            found[f"{name}/mean"] = float(np.mean([s for each in earned for s in each]))
            found[f"{name}/std"] = float(np.mean([np.std(each) for each in earned if each]))
        first = [s for g in groups[: config.prompts] for s in g.scores[name] if s is not None]
        if number == 0 and first:
            found["similarity"] = float(np.mean(first))
    return found


def check(prompts: Sequence[Prompt], rewards: Sequence[Reward], config: GrpoConfig) -> None:
    """Refuse what cannot be aligned, before anything costly begins. Raises as `run_grpo`."""
    if not prompts:
        raise BadInput(
            "there is nothing to align on: no kept triplet has a short answer",
            where="align",
            hint="run `cloche synth` first",
        )
    names = [reward.name for reward in rewards]
    if not names or len(set(names)) < len(names):
        raise BadInput("name at least one reward, and each once", where="align", hint="cloche align --help")
    if config.reward_weights and len(config.reward_weights) != len(names):
        raise BadInput(
            f"{len(config.reward_weights)} weights do not go with {len(names)} rewards",
            where="align",
            hint="give a weight for each reward, in order, or none",
        )


def _digest(
    adapter: bytes,
    prompts: Sequence[Prompt],
    config: GrpoConfig,
    rewards: Sequence[Reward],
    domain: Sequence[Transform],
    curriculum: Curriculum | None,
) -> str:
    """What a checkpoint belongs to: where the run began, what it asks, and by which numbers."""
    lessons = asdict(curriculum.config) if curriculum else None
    asked, by = [asdict(p) for p in prompts], [repr(r) for r in rewards]
    said = [asdict(config), lessons, asked, by, [repr(t.rule) for t in domain]]
    return hashlib.sha256(adapter + json.dumps(said).encode()).hexdigest()
