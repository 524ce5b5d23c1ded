"""The stage of single-stage QLoRA, and what every run that makes an adapter keeps."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from appliance.jobs.features import FeatureCache, uses_in_training
from appliance.jobs.rehearsal import rehearsal
from appliance.jobs.steps import StepEvents
from appliance.jobs.synthesise import conversations_of
from audit.models import store_model
from audit.rows import NewObject, Record, Run
from train.distributed import ALONE, Team, join
from train.gguf.files import digest_over, digests_of
from train.lora import stamped
from train.models.features import Features, features_key
from train.models.loading import Precision, load
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
    members = [conversations, *images, *members_of(records_in(desk, (t.record for t in talks)))]
    begun = begin(desk, "train", settings, config.seed, root_of(desk, members), [conversations]) if team.first else None
    run = begun or desk.vault.catalogue.run(team.heard())
    if begun:
        team.say(begun.id)
    general, drawn = rehearsal(rehearse)
    loaded = load(model_dir, precision, max_visual_tokens=max_visual_tokens, digest=base)
    steps = StepEvents(desk, run, members, resumed=before == run)
    store = VaultStore(desk, run, steps.flush, config.keep_checkpoints)
    cached = FeatureCache(desk, run, features_key(loaded), uses_in_training(talks, config.epochs), feature_cache_gb)
    patients = {record.id: record.patient for record in records_in(desk, (t.record for t in talks))}
    with desk.vault.use([conversations, *images], RESEARCH, desk.actor, "train", told(run, team)) as opened, cached:
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
    done = keep(desk, run, store, trained.adapter, trained.metrics, parents, note, {"base_files": files})
    team.say(done.id)
    return done


def loaded_as(precision: Precision, max_visual_tokens: int | None) -> dict[str, str | int]:
    """What a run's settings say of how its model was loaded; nothing where that is as ever."""
    said: dict[str, str | int] = {} if precision == "nf4" else {"precision": precision}
    return said | ({} if max_visual_tokens is None else {"max_visual_tokens": max_visual_tokens})


def records_in(desk: Desk, names: Iterable[str]) -> list[Record]:
    """The records of these ids, once each; a drawn picture's conversation has none."""
    return [desk.vault.catalogue.record(name) for name in sorted(set(names)) if name]


def told(run: Run, team: Team = ALONE) -> dict[str, str | int]:
    """What the event of a run's use says of the run, and of which of several processes."""
    return {"run": run.id, "manifest": run.manifest_root} | ({"process": team.rank} if team.size > 1 else {})


def keep(
    desk: Desk,
    run: Run,
    store: VaultStore,
    adapter: bytes,
    metrics: Sequence[dict[str, float]],
    parents: Sequence[str],
    note: dict[str, str],
    more: Mapping[str, Any] | None = None,
) -> Run:
    """Keep an adapter and its metrics, make a model of them, and close the run.

    Args:
        parents: ids of the objects that the adapter comes from.
        note: ``base``, the digest of the model directory, and ``parent``, the model that went before.
        more: what the run's result says beside that.
    """
    adapter = stamped(adapter, origin_of(desk, run, note["base"]))
    new = [
        NewObject("adapter", adapter, None, parents, {"run": run.id, "base": note["base"]}),
        NewObject("metrics", "\n".join(json.dumps(m) for m in metrics).encode(), None, (), {"run": run.id}),
    ]
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
            **(more or {}),
        },
    )
    store.clear()
    return done
