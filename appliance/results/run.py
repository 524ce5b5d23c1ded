"""One arm with one seed, from the base to its figures."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from appliance.results.arms import RCPA, WRONG, Arm
from appliance.results.bench import SHAPE, Bench, talk
from appliance.results.task import Example
from appliance.results.tether import run_tethered
from train.checkpoints import MemoryStore, Store
from train.lora import attach, detach
from train.rl.collapse import Watch
from train.rl.curriculum import Curriculum
from train.rl.domain import Domain, Transform
from train.rl.grpo import Aligned, run_grpo
from train.rl.rewards.case import Case, Reward
from train.rl.rewards.exact import Exact
from train.rl.rewards.named import named
from train.rl.rewards.token_f1 import TokenF1
from train.rl.table import parse, table_of
from train.sft import run_sft

Tell = Callable[[str], None]
KEPT = ("reward", "zero_std_share", "similarity", "exact/mean", "entropy", "length", "clipped", "prefix_share")
"""Metrics of a step that a run's file keeps."""


@dataclass(frozen=True)
class Point:
    """What a run could do after some of its steps."""

    step: int
    """Steps of its last phase."""
    accuracy: float
    """Share of the watched held-out slices that are answered right."""
    general: float
    """Loss in nats a token on the general suite."""


def about(bench: Bench) -> dict[str, Any]:
    """What a base can do before any arm, as JSON."""
    sizes, examples = bench.sizes, bench.task.labelled(-2, 64)
    free = bench.sampled(examples, sizes.grpo.group)
    begun = bench.sampled(examples, sizes.grpo.group, RCPA.prefix_max)
    right = [[bool(Exact()(case)) for case in group] for group in free]
    return {
        "right": [int(one) for one in bench.accuracy(sizes.judged)],
        "sampled": _share(free, Exact(), 1.0),
        "near": _share(free, TokenF1(), RCPA.delta_min),
        "begun": _share(begun, Exact(), 1.0),
        "begun_near": _share(begun, TokenF1(), RCPA.delta_min),
        "mixed": sum(len(set(group)) > 1 for group in right) / len(right),
        "general": bench.general_loss(),
        "patients": [one.patient for one in bench.task.held_out(sizes.judged)],
        "train": len(bench.task.examples("train")),
        "held_out": len(bench.task.examples("held-out")),
    }


def _share(groups: Sequence[Sequence[Case]], reward: Reward, least: float) -> float:
    cases = [case for group in groups for case in group]
    return sum((reward(case) or 0.0) >= least for case in cases) / len(cases)


def play(bench: Bench, arm: Arm, seed: int, tell: Tell = print, store: Store | None = None) -> dict[str, Any]:
    """Run an arm.

    Args:
        store: keeps a run of reinforcement learning that is cut off; None begins anew.
    Returns: its figures, as JSON.
    """
    started, sizes = time.perf_counter(), bench.sizes
    examples = bench.task.labelled(seed, sizes.labels)
    points, rows, diagnosis = [_point(bench, 0, None, arm.knowledge)], [], ""
    if arm.learns == "labels":
        adapter = _taught(bench, arm, examples, seed, points, tell)
    else:
        adapter = bench.fresh
        if arm.start == "labels":
            talks, how = [talk(one) for one in examples], replace(sizes.start, seed=seed, lora=SHAPE)
            adapter = run_sft(bench.loaded, talks, bench.features, how, MemoryStore()).adapter
        aligned = _aligned(bench, arm, adapter, examples, seed, points, tell, store or MemoryStore())
        adapter, diagnosis = aligned.adapter, str(aligned.diagnosis or "")
        rows = [{k: round(row[k], 5) for k in KEPT if k in row} for row in aligned.metrics]
    model = attach(bench.loaded, SHAPE, adapter)
    try:
        right, general = bench.accuracy(sizes.judged, model, arm.knowledge), bench.general_loss(model)
    finally:
        detach(model)
    return {
        "arm": arm.name,
        "seed": seed,
        "right": [int(one) for one in right],
        "general": general,
        "points": [asdict(point) for point in points],
        "rows": rows,
        "diagnosis": diagnosis,
        "seconds": round(time.perf_counter() - started),
    }


def _taught(bench: Bench, arm: Arm, examples: Sequence[Example], seed: int, points: list[Point], tell: Tell) -> bytes:
    sizes = bench.sizes
    talks, config = [talk(one) for one in examples], replace(sizes.sft, seed=seed, lora=SHAPE)
    every = max(1, len(talks) * config.epochs // config.rows_per_step * sizes.measure_every // sizes.steps)

    def measured(step: int, model: Any) -> None:
        if (step + 1) % every == 0:
            points.append(_point(bench, step + 1, model, arm.knowledge))
            tell(str(points[-1]))

    if arm.tether:
        return run_tethered(bench.loaded, talks, bench.features, config, arm.tether, measured)
    inside = bench.loaded.model  # the adapter is put into it in place
    return run_sft(
        bench.loaded, talks, bench.features, config, MemoryStore(), lambda done, _, what: measured(done - 1, inside)
    ).adapter


def _aligned(
    bench: Bench,
    arm: Arm,
    adapter: bytes,
    examples: Sequence[Example],
    seed: int,
    points: list[Point],
    tell: Tell,
    store: Store,
) -> Aligned:
    sizes = bench.sizes
    seen = [*examples, *(one.mirrored for one in examples)] if arm.augmented else examples
    curriculum = None
    if arm.curriculum:
        curriculum = Curriculum(replace(arm.curriculum, curriculum_steps=sizes.pre_alignment), sizes.grpo.group)

    def measure(step: int, model: Any) -> dict[str, float]:
        if step + 1 < sizes.steps and (step + 1) % sizes.measure_every:
            return {}
        point = _point(bench, step + 1, model, arm.knowledge)
        tell(str(point))
        return {"held_exact": point.accuracy, "held_general": point.general}

    found = run_grpo(
        bench.loaded,
        adapter,
        [one.prompt(arm.knowledge) for one in seen],
        bench.features,
        replace(sizes.grpo, steps=sizes.steps, seed=seed),
        [named("token_f1"), named("exact")] if arm.curriculum else [named("exact")],
        store,
        domain=_transforms(bench, arm),
        curriculum=curriculum,
        watch=Watch(patience=0),  # an arm that starves goes on to the end: that is what is to be seen
        measure=measure,
        tell=tell,
    )
    points[1:] = [
        Point(int(row["step"]) + 1, row["held_exact"], row["held_general"])
        for row in found.metrics
        if "held_exact" in row
    ]
    return found


def _transforms(bench: Bench, arm: Arm) -> Sequence[Transform]:
    if not arm.constraint:
        return ()
    table = table_of("brain-mri") if arm.constraint == "mirror" else parse(WRONG.encode(), "wrong.toml")
    return Domain.of(table, bench.loaded.tokenizer).transforms


def _point(bench: Bench, step: int, model: Any, knowledge: bool) -> Point:
    right = bench.accuracy(bench.sizes.watched, model, knowledge)
    return Point(step, sum(right) / len(right), round(bench.general_loss(model), 5))
