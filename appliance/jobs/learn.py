"""Stages: single-stage QLoRA, and GRPO on top of it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from appliance.jobs.common import RESEARCH, Desk, VaultStore, as_config, begin, finish, images_in, latest
from appliance.jobs.rehearsal import rehearsal
from appliance.jobs.synthesise import conversations_of, triplets_of
from audit.conversation import Turn
from audit.events import Event
from audit.rows import NewObject, Run
from synth.triplet import PRECISE
from train.models.features import Features
from train.models.loading import digest_of, load
from train.rl.domain import Mirror
from train.rl.grpo import Group, GrpoConfig, Prompt, run_grpo
from train.rl.rewards import exact
from train.sft import SftConfig, run_sft


def train(desk: Desk, model_dir: Path, config: SftConfig, rehearse: int = 0) -> Run:
    """Train an adapter on the newest synth run's conversations; goes on from its checkpoint where it was cut off.

    Args:
        rehearse: questions about drawn general pictures that are mixed in, against forgetting.
    """
    source = latest(desk, "synth")
    run = begin(
        desk,
        "train",
        as_config(config, synth=source.id, base=digest_of(model_dir), rehearse=rehearse),
        config.seed,
        source.manifest_root,
        [source.result["conversations"]],
    )
    if run.state == "done":
        return run
    talks = conversations_of(desk, source, "train")
    images = sorted({i for t in talks for i in t.images})
    general, drawn = rehearsal(rehearse)
    loaded = load(model_dir, "nf4")
    store = VaultStore(desk, run)
    with desk.vault.use(images, RESEARCH, desk.actor, "train", {"run": run.id}) as opened:
        stored = images_in(opened)
        features = Features(loaded, lambda name: drawn[name] if name in drawn else stored(name))
        steps = StepEvents(desk, run)
        trained = run_sft(loaded, [*talks, *general], features, config, store, desk.progress, steps.used)
        steps.flush()
    parents = [source.result["conversations"], *images]
    return _keep(desk, run, store, trained.adapter, trained.metrics, parents, {"base": loaded.digest, "parent": ""})


def align(desk: Desk, model_dir: Path, config: GrpoConfig, mirror: bool = True) -> Run:
    """Align the newest trained adapter on the kept triplets' short answers, with the mirror constraint."""
    source, trained = latest(desk, "synth"), latest(desk, "train")
    adapter_id = trained.result["adapter"]
    run = begin(
        desk,
        "align",
        as_config(config, adapter=adapter_id, base=digest_of(model_dir), mirror=mirror),
        config.seed,
        source.manifest_root,
        [adapter_id],
    )
    if run.state == "done":
        return run
    prompts = [
        Prompt(t.image, (Turn("user", f"{PRECISE}\n{t.instruction}"),), t.precise, t.record)
        for t in triplets_of(desk, source, "align")
        if t.kept
    ]
    loaded = load(model_dir, "nf4")
    store, kept = VaultStore(desk, run), Completions()
    images = sorted({p.image for p in prompts})
    with desk.vault.use([adapter_id, *images], RESEARCH, desk.actor, "align", {"run": run.id}) as opened:
        aligned = run_grpo(
            loaded,
            opened.read(adapter_id),
            prompts,
            Features(loaded, images_in(opened)),
            config,
            exact,
            store,
            Mirror.of(loaded.tokenizer) if mirror else None,
            desk.progress,
            kept.add,
        )
    return _keep(
        desk,
        run,
        store,
        aligned.adapter,
        aligned.metrics,
        [adapter_id, *images],
        {"base": loaded.digest, "parent": trained.result["model"]},
        kept.lines,
    )


class StepEvents:
    """Tells the log, a few steps at a time, which records each step learns from, before it does."""

    def __init__(self, desk: Desk, run: Run, every: int = 10) -> None:
        self.desk, self.run, self.every = desk, run, every
        self.waiting: list[tuple[int, tuple[str, ...]]] = []

    def used(self, step: int, records: Sequence[str]) -> None:
        """Note a step; committed every few."""
        self.waiting.append((step, tuple(records)))
        if len(self.waiting) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Commit what waits."""
        if self.waiting:
            detail = {"run": self.run.id, "steps": [s for s, _ in self.waiting]}
            records = tuple(sorted({r for _, some in self.waiting for r in some}))
            self.desk.vault.record(
                Event("run.step", self.desk.actor, RESEARCH, activity="train", objects=records, detail=detail)
            )
            self.waiting = []


class Completions:
    """Every completion with its reward, for the encrypted log of a run."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, step: int, groups: Sequence[Group]) -> None:
        """Note a step's groups."""
        for g in groups:
            row = {
                "step": step,
                "record": g.prompt.record,
                "asked": g.prompt.turns[-1].text,
                "wanted": g.prompt.reference,
                "said": g.texts,
                "rewards": g.rewards,
            }
            self.lines.append(json.dumps(row))


def _keep(
    desk: Desk,
    run: Run,
    store: VaultStore,
    adapter: bytes,
    metrics: Sequence[dict[str, float]],
    parents: Sequence[str],
    note: dict[str, str],
    completions: Sequence[str] = (),
) -> Run:
    new = [
        NewObject("adapter", adapter, None, parents, {"run": run.id, "base": note["base"]}),
        NewObject("metrics", "\n".join(json.dumps(m) for m in metrics).encode(), None, (), {"run": run.id}),
    ]
    if completions:
        new.append(NewObject("completions", "\n".join(completions).encode(), None, parents, {"run": run.id}))
    ids = desk.vault.put_many(new, actor=desk.actor, activity=run.kind)
    model = desk.vault.catalogue.add_model(
        "adapter",
        ids[:1],
        parent_model=note["parent"],
        manifest_root=run.manifest_root,
        run=run.id,
        note={"base": note["base"], "sha256": hashlib.sha256(adapter).hexdigest()},
    )
    done = finish(
        desk,
        run,
        {
            "adapter": ids[0],
            "metrics": ids[1],
            "model": model.id,
            "steps": len(metrics),
            "last": metrics[-1] if metrics else {},
        },
    )
    store.clear()
    return done
