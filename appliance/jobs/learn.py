"""Stages: single-stage QLoRA, and GRPO on top of it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from appliance.jobs.common import (
    RESEARCH,
    Desk,
    VaultStore,
    as_config,
    begin,
    earlier,
    finish,
    images_in,
    latest,
    members_of,
    origin_of,
    root_of,
)
from appliance.jobs.defaults import FEATURE_CACHE_GB
from appliance.jobs.features import FeatureCache, uses_in_alignment, uses_in_training
from appliance.jobs.rehearsal import rehearsal
from appliance.jobs.steps import StepEvents
from appliance.jobs.synthesise import conversations_of, triplets_of
from audit.conversation import Turn
from audit.models import store_model
from audit.rows import NewObject, Record, Run
from synth.triplet import PRECISE
from train.distributed import ALONE, Team, join
from train.gguf.files import digest_of, digest_over, digests_of
from train.lora import stamped
from train.models.features import Features, features_key
from train.models.loading import Precision, load
from train.rl.domain import MIRRORED, Mirror
from train.rl.grpo import Group, GrpoConfig, Prompt, run_grpo
from train.rl.rewards.exact import Exact
from train.sft import SftConfig, run_sft


def train(
    desk: Desk,
    model_dir: Path,
    config: SftConfig,
    rehearse: int = 0,
    precision: Precision = "nf4",
    max_visual_tokens: int | None = None,
    feature_cache_gb: float = FEATURE_CACHE_GB,
) -> Run:
    """Train an adapter on the newest synth run's conversations; goes on from its checkpoint where it was cut off.

    Where `accelerate launch` started several processes, each opens what it reads itself, so that the log names every
    reading; the first alone begins and finishes the run, tells its steps, and keeps checkpoints and the adapter.

    Args:
        rehearse: questions about drawn general pictures that are mixed in, against forgetting.
        precision: how the language Linears are held.
        max_visual_tokens: budget an image; None is the family's own.
        feature_cache_gb: disk for the tower's outputs, in GB; the adapter is the same with any.
    """
    team = join()
    source = latest(desk, "synth")
    conversations = str(source.result["conversations"])
    files = digests_of(model_dir)
    base = digest_over(files)
    settings = as_config(
        config, synth=source.id, base=base, rehearse=rehearse, **loaded_as(precision, max_visual_tokens)
    )
    before = earlier(desk, "train", settings)
    if before and before.state == "done":
        return before
    talks = conversations_of(desk, source, "train")
    images = sorted({i for t in talks for i in t.images})
    members = [conversations, *images, *members_of(_records(desk, (t.record for t in talks)))]
    begun = begin(desk, "train", settings, config.seed, root_of(desk, members), [conversations]) if team.first else None
    run = begun or desk.vault.catalogue.run(team.heard())
    if begun:
        team.say(begun.id)
    general, drawn = rehearsal(rehearse)
    loaded = load(model_dir, precision, max_visual_tokens=max_visual_tokens, digest=base)
    steps = StepEvents(desk, run, members, resumed=before == run)
    store = VaultStore(desk, run, steps.flush, config.keep_checkpoints)
    cached = FeatureCache(desk, run, features_key(loaded), uses_in_training(talks, config.epochs), feature_cache_gb)
    patients = {record.id: record.patient for record in _records(desk, (t.record for t in talks))}
    with desk.vault.use([conversations, *images], RESEARCH, desk.actor, "train", _told(run, team)) as opened, cached:
        stored = images_in(opened)
        features = Features(loaded, lambda name: drawn[name] if name in drawn else stored(name), store=cached)
        trained = run_sft(
            loaded, [*talks, *general], features, config, store, desk.progress, steps.used, desk.tell, patients
        )
        steps.flush()
    parents = [conversations, *images]
    if not team.first:
        return desk.vault.catalogue.run(team.heard())
    note = {"base": base, "parent": ""}
    done = _keep(desk, run, store, trained.adapter, trained.metrics, parents, note, base_files=files)
    team.say(done.id)
    return done


def align(
    desk: Desk, model_dir: Path, config: GrpoConfig, mirror: bool = True, feature_cache_gb: float = FEATURE_CACHE_GB
) -> Run:
    """Align the newest trained adapter on the kept triplets' short answers, with the mirror constraint.

    Args:
        feature_cache_gb: disk for the tower's outputs, in GB; the adapter is the same with any.
    """
    source, trained = latest(desk, "synth"), latest(desk, "train")
    adapter_id, triplets = str(trained.result["adapter"]), str(source.result["triplets"])
    settings = as_config(config, adapter=adapter_id, synth=source.id, base=digest_of(model_dir), mirror=mirror)
    before = earlier(desk, "align", settings)
    if before and before.state == "done":
        return before
    prompts = [
        Prompt(t.image, (Turn("user", f"{PRECISE}\n{t.instruction}"),), t.precise, t.record)
        for t in triplets_of(desk, source, "align")
        if t.kept
    ]
    images = sorted({p.image for p in prompts})
    members = [adapter_id, triplets, *images, *members_of(_records(desk, (p.record for p in prompts)))]
    run = begin(desk, "align", settings, config.seed, root_of(desk, members), [adapter_id, triplets])
    loaded = load(model_dir, "nf4")
    kept, steps = Completions(), StepEvents(desk, run, members, resumed=before == run)
    store = VaultStore(desk, run, steps.flush)

    def taken(step: int, groups: Sequence[Group]) -> None:
        steps.used(step, [g.prompt.record for g in groups])
        kept.add(step, groups)

    uses = uses_in_alignment(prompts, config, (MIRRORED,) if mirror else ())
    cached = FeatureCache(desk, run, features_key(loaded), uses, feature_cache_gb)
    with desk.vault.use([adapter_id, triplets, *images], RESEARCH, desk.actor, "align", _told(run)) as opened, cached:
        aligned = run_grpo(
            loaded,
            opened.read(adapter_id),
            prompts,
            Features(loaded, images_in(opened), store=cached),
            config,
            [Exact()],
            store,
            [Mirror.of(loaded.tokenizer)] if mirror else [],
            desk.progress,
            taken,
            tell=desk.tell,
        )
        steps.flush()
    return _keep(
        desk,
        run,
        store,
        aligned.adapter,
        aligned.metrics,
        [adapter_id, triplets, *images],
        {"base": loaded.digest, "parent": trained.result["model"]},
        kept.lines,
    )


def loaded_as(precision: Precision, max_visual_tokens: int | None) -> dict[str, str | int]:
    """What a run's settings say of how its model was loaded; nothing where that is as ever."""
    said: dict[str, str | int] = {} if precision == "nf4" else {"precision": precision}
    return said | ({} if max_visual_tokens is None else {"max_visual_tokens": max_visual_tokens})


def _records(desk: Desk, names: Iterable[str]) -> list[Record]:
    """The records of these ids, once each; a drawn picture's conversation has none."""
    return [desk.vault.catalogue.record(name) for name in sorted(set(names)) if name]


def _told(run: Run, team: Team = ALONE) -> dict[str, str | int]:
    """What the event of a run's use says of the run, and of which of several processes."""
    return {"run": run.id, "manifest": run.manifest_root} | ({"process": team.rank} if team.size > 1 else {})


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
                "scores": g.scores,
                "advantages": g.advantages.tolist(),
                "prefix": g.prefix,
                "kept": g.kept,
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
    base_files: Mapping[str, str] | None = None,
) -> Run:
    adapter = stamped(adapter, origin_of(desk, run, note["base"]))
    new = [
        NewObject("adapter", adapter, None, parents, {"run": run.id, "base": note["base"]}),
        NewObject("metrics", "\n".join(json.dumps(m) for m in metrics).encode(), None, (), {"run": run.id}),
    ]
    if completions:
        new.append(NewObject("completions", "\n".join(completions).encode(), None, parents, {"run": run.id}))
    ids = desk.vault.put_many(new, actor=desk.actor, activity=run.kind)
    model = store_model(
        desk.vault,
        "adapter",
        ids[:1],
        run,
        actor=desk.actor,
        parent=note["parent"],
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
            **({"base_files": dict(base_files)} if base_files else {}),
        },
    )
    store.clear()
    return done
