"""Single-stage QLoRA: captions and synthetic tasks of an image in one row, the image once (DESIGN §5, METHODS 1.6).

What is simpler than the paper: LoRA on the language model in place of full fine-tuning, and one image's conversations
as branches of one row in place of one multi-turn conversation; each branch computes exactly what it would alone. The
published mix and its two-stage baseline are there to compare with (`SftConfig.mix`, `SftConfig.stages`).
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from audit.conversation import Conversation
from audit.errors import BadInput
from train.checkpoints import Checkpoint, Store, restore, snapshot
from train.data.mix import as_turns, divided, staged
from train.data.samples import Sample, samples_of
from train.distributed import join
from train.heldout import Watch
from train.lora import attach, pack
from train.memory import peak_mb, reset_peak
from train.models.devices import gpu_may_be_lost
from train.models.features import Features, cost_of_live
from train.models.loading import Loaded
from train.probe import Asked, exact_matches, questions_of
from train.recompute import recomputing
from train.schedule import Planned, planned
from train.sft_config import SftConfig
from train.step import Learner, loss_over

__all__ = ["MEASURED", "SftConfig", "Trained", "rows_of", "run_sft"]
MEASURED = ("seconds", "tokens_per_second", "peak_mb")
"""Metrics that differ from run to run, and from the run that was cut off; all others are the same bit for bit."""


@dataclass(frozen=True)
class Trained:
    """What a run leaves."""

    adapter: bytes
    """The adapter as safetensors: the last one, or the best where training may stop early."""
    metrics: tuple[dict[str, float], ...]
    """One row a step: step, loss (mean over learned tokens), rate, tokens (learned), all_tokens, micro_rows, grad_norm,
    skipped, seconds, tokens_per_second (learned and read), peak_mb; where measured held_loss and held_exact. A skipped
    step has no loss and no grad_norm."""
    skipped: tuple[str, ...] = ()
    """Records of steps that were skipped for a loss or gradient that was not a finite number."""
    best_step: int = -1
    """Step after which the held-out loss was lowest; -1 where none was measured."""


@dataclass(frozen=True)
class _Material:
    """What a run learns from, and what it is measured on."""

    samples: tuple[Sample, ...]
    """Rows to learn, of all stages."""
    plan: tuple[Planned, ...]
    """Which of them each step learns."""
    held: tuple[Sample, ...]
    """Rows that are only measured."""
    questions: tuple[Asked, ...]
    """What a probe asks."""

    def batch(self, step: int) -> list[Sample]:
        """The rows of a step."""
        return [self.samples[number] for number in self.plan[step].rows]

    def times_of_live(self, learner: Learner) -> float:
        """How many times the work of features once it is to train the tower, too."""
        images = [name for row, _ in self.samples for name, _, _ in row.images]
        if not images:
            return 1.0
        fitted = learner.loaded.family.fitted(learner.features.image(images[0]))
        tokens = sum(len(row.ids) for row, _ in self.samples)
        return cost_of_live(learner.loaded, fitted, len(images), tokens, learner.config.epochs)


def run_sft(
    loaded: Loaded,
    conversations: Sequence[Conversation],
    features: Features,
    config: SftConfig,
    store: Store,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    on_step: Callable[[int, Sequence[str]], None] = lambda step, records: None,
    tell: Callable[[str], None] = lambda what: None,
    groups: Mapping[str, str] | None = None,
) -> Trained:
    """Train an adapter; goes on from the store's checkpoint where there is one.

    Args:
        conversations: what to learn; those about the same images share a row.
        store: keeps the checkpoints.
        on_step: told the records of each step before they are used.
        tell: told what a person should know while it goes on.
        groups: record to patient, so that no patient is both learned and held out.
    Raises:
        BadInput: nothing can be learned, held out, or learned in two stages; or too many steps were skipped.
        EnvironmentProblem: memory runs out over a single row.
        Refused: the store's checkpoint is that of another run.
    """
    team = join()
    store, progress, on_step = team.store(store), team.only_first(progress), team.only_first(on_step)
    features = features.live() if config.lora.vision else features
    torch.manual_seed(config.seed)
    material = _material(loaded, conversations, features, config, groups, tell)
    belongs = _digest(material)
    model = attach(loaded, config.lora)
    learner, watch = Learner(loaded, model, features, config, tell, team), Watch(config.patience)
    steps = len(material.plan)
    if config.lora.vision:
        tell(f"the tower learns, too: {material.times_of_live(learner):.1f} times the work of features once")
    try:
        with gpu_may_be_lost("train"), recomputing(loaded, config.gradient_checkpointing):
            at = restore(store, model, learner.optimizer, belongs, tell)
            team.same(learner.weights)
            metrics = list(at.metrics)
            learner.resume(at.state.get("learner", {}))
            watch.resume(at.state.get("watch", {}), dict(at.best))
            learner.rehearse([material.batch(step) for step in range(at.step, steps)])
            for step in range(at.step, steps):
                metrics.append(_step(learner, material, step, on_step))
                _measure(learner, watch, material, step, metrics[-1])
                progress(step + 1, steps, _said(metrics[-1]))
                if watch.stops:
                    tell(f"stopped after step {step + 1} of {steps}: the held-out loss was lowest after step "
                         f"{watch.best_step + 1}")  # fmt: skip
                    break
                if (step + 1) % config.checkpoint_every == 0 and step + 1 < steps:
                    state = {"learner": learner.state(), "watch": watch.state()}
                    here = Checkpoint(step + 1, tuple(metrics), state, watch.weights, belongs)
                    store.save(snapshot(here, model, learner.optimizer))
        watch.put_best(model)
        adapter = pack(model, config.lora, loaded.digest)
        return Trained(adapter, tuple(metrics), tuple(learner.skipped), watch.best_step)
    finally:
        model.unload()


def rows_of(
    loaded: Loaded,
    conversations: Sequence[Conversation],
    features: Features,
    tell: Callable[[str], None] = lambda what: None,
) -> list[Sample]:
    """See `samples_of`."""
    return samples_of(loaded.encoder, conversations, features.grid, loaded.model.config, tell)


def _material(
    loaded: Loaded,
    conversations: Sequence[Conversation],
    features: Features,
    config: SftConfig,
    groups: Mapping[str, str] | None,
    tell: Callable[[str], None],
) -> _Material:
    learned, held = divided(conversations, config.held_out, config.seed, groups)
    samples: list[Sample] = []
    stages: list[range] = []
    for talks in staged(learned, config.stages):
        mixed = as_turns(talks, config.seed) if config.mix == "turns" else talks
        rows = rows_of(loaded, mixed, features, tell)
        if not rows:
            raise BadInput(
                "there is nothing to train on: no conversation has a learned turn",
                where="train",
                hint="run `cloche synth` first",
            )
        stages.append(range(len(samples), len(samples) + len(rows)))
        samples += rows
    questions = questions_of(held, config.probe_questions) if config.probe_every else []
    return _Material(
        tuple(samples), tuple(planned(stages, config)), tuple(rows_of(loaded, held, features, tell)), tuple(questions)
    )


def _digest(material: _Material) -> str:
    """What a checkpoint belongs to: every row, and the steps in which they are learned."""
    digest = hashlib.sha256()
    for row, _ in (*material.samples, *material.held):
        for part in (row.ids, row.learned, row.segments):
            digest.update(part.tobytes())
        digest.update(repr(row.images).encode())
    digest.update(repr(material.plan).encode())
    return digest.hexdigest()


def _step(
    learner: Learner, material: _Material, step: int, on_step: Callable[[int, Sequence[str]], None]
) -> dict[str, float]:
    """One row of metrics."""
    started, device = time.perf_counter(), learner.loaded.device
    reset_peak(device)
    samples, now = material.batch(step), material.plan[step]
    if now.begins:
        learner.optimizer.state.clear()
    on_step(step, sorted({r for _, records in samples for r in records}))
    row = {"step": step, **learner.step(samples, step, now.rate)}
    seconds = time.perf_counter() - started
    return row | {
        "seconds": seconds,
        "tokens_per_second": row["all_tokens"] / seconds,
        "peak_mb": peak_mb(device),
    }


def _measure(learner: Learner, watch: Watch, material: _Material, step: int, row: dict[str, float]) -> None:
    """Measure the held-out part where it is due, and always after the last step.

    Processes round differently, and must not disagree about the end: what they go by is the mean of what each measured.
    """
    config, last, team = learner.config, step + 1 == len(material.plan), learner.team
    if material.held and (last or (step + 1) % config.evaluate_every == 0):
        row["held_loss"] = team.summed(loss_over(learner, material.held), learner.loaded.device) / team.size
        watch.see(row["held_loss"], step, learner.model)
    if material.questions and (last or (step + 1) % config.probe_every == 0):
        row["held_exact"] = exact_matches(learner.loaded, learner.model, learner.features, material.questions)


def _said(row: Mapping[str, Any]) -> str:
    loss = f"loss {row['loss']:.3f}" if "loss" in row else "skipped"
    return f"steps, {loss}" + (f", held out {row['held_loss']:.3f}" if "held_loss" in row else "")
