"""The stage of single-stage QLoRA, and what every run that makes an adapter keeps."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
    objects_of_run,
    origin_of,
    root_of,
)
from appliance.jobs.defaults import FEATURE_CACHE_GB
from appliance.jobs.features import FeatureCache, uses_in_run
from appliance.jobs.rehearsal import rehearsal
from appliance.jobs.saved import same_data, same_run
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
    resume: Run | None = None,
) -> Run:
    """Train an adapter on the newest synth run's conversations; goes on from its checkpoint where it was cut off.

    Where `accelerate launch` started several processes, each opens what it reads itself, so that the log names every
    reading; the first alone begins and finishes the run, tells its steps, and keeps checkpoints and the adapter.

    Args:
        rehearse: questions about drawn general pictures that are mixed in, against forgetting.
        precision: how the language Linears are held.
        max_visual_tokens: budget an image; None is the family's own.
        feature_cache_gb: disk for the tower's outputs, in GB; the adapter is the same with any.
        resume: the run to go on with and no other; its tasks are taken, newer ones or not.
    Raises:
        Refused: the settings or data would make another run than the one to go on with.
    """
    team = join()
    source = desk.vault.catalogue.run(str(resume.config["synth"])) if resume else latest(desk, "synth")
    conversations = str(source.result["conversations"])
    files = digests_of(model_dir)
    base = digest_over(files)
    settings = as_config(
        config, synth=source.id, base=base, rehearse=rehearse, **loaded_as(precision, max_visual_tokens)
    )
    before = earlier(desk, "train", settings)
    same_run(resume, settings, "cloche train")
    if before and before.state == "done":
        VaultStore(desk, before).clear()
        return before
    talks = conversations_of(desk, source, "train")
    images = sorted({i for t in talks for i in t.images})
    members = [conversations, *images, *members_of(records_in(desk, (t.record for t in talks)))]
    if team.first:
        root = root_of(desk, members)
        same_data(resume, root, "cloche train")
        run = begin(desk, "train", settings, config.seed, root, [conversations])
        team.say(run.id)
    else:
        run = desk.vault.catalogue.run(team.heard())
    general, drawn = rehearsal(rehearse)
    loaded = load(model_dir, precision, max_visual_tokens=max_visual_tokens, digest=base)
    steps = StepEvents(desk, run, members, resumed=before == run)
    store = VaultStore(desk, run, steps.flush, config.keep_checkpoints)
    patients = patients_of(desk, (t.record for t in talks))
    uses = {name: n for name, n in uses_in_run([*talks, *general], config, patients).items() if name not in drawn}
    cached = FeatureCache(desk, run, features_key(loaded), uses, feature_cache_gb)
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
    done = keep(desk, run, store, trained, Kept(base, "", precision, max_visual_tokens), parents, {"base_files": files})
    team.say(done.id)
    return done


def loaded_as(precision: Precision, max_visual_tokens: int | None) -> dict[str, str | int]:
    """What a run's settings say of how its model was loaded; nothing where that is as ever."""
    said: dict[str, str | int] = {} if precision == "nf4" else {"precision": precision}
    return said | ({} if max_visual_tokens is None else {"max_visual_tokens": max_visual_tokens})


def loaded_so(run: Run) -> tuple[Precision, int | None]:
    """How a run that made an adapter had loaded its model; `loaded_as` the other way round."""
    return run.config.get("precision", "nf4"), run.config.get("max_visual_tokens")


def patients_of(desk: Desk, names: Iterable[str]) -> dict[str, str]:
    """Record to patient."""
    return {record.id: record.patient for record in records_in(desk, names)}


def records_in(desk: Desk, names: Iterable[str]) -> list[Record]:
    """The records of these ids, once each; a drawn picture's conversation has none."""
    return [desk.vault.catalogue.record(name) for name in sorted(set(names)) if name]


def told(run: Run, team: Team = ALONE) -> dict[str, str | int]:
    """What the event of a run's use says of the run, and of which of several processes."""
    return {"run": run.id, "manifest": run.manifest_root} | ({"process": team.rank} if team.size > 1 else {})


class Outcome(Protocol):
    """What a stage leaves: `train.sft.Trained`, `train.rl.grpo.Aligned`."""

    @property
    def adapter(self) -> bytes:
        """As safetensors."""

    @property
    def metrics(self) -> Sequence[Mapping[str, float]]:
        """One row a step."""


@dataclass(frozen=True)
class Kept:
    """What a model's entry says of how its adapter was made; later stages load the base in the same way."""

    base: str
    """Digest of the model directory."""
    parent: str
    """Model that went before; empty where none did."""
    precision: Precision
    """How the language Linears were held."""
    max_visual_tokens: int | None
    """Budget an image; None is the family's own."""
    control: str = ""
    """Why the model is for an experiment only and is not to be released; empty where it is not."""

    def note(self) -> dict[str, str | int]:
        """For the catalogue; what is as ever is left out."""
        control = {"control": self.control} if self.control else {}
        return {"base": self.base, **loaded_as(self.precision, self.max_visual_tokens), **control}


def keep(
    desk: Desk,
    run: Run,
    store: VaultStore,
    outcome: Outcome,
    kept: Kept,
    parents: Sequence[str],
    more: Mapping[str, Any] | None = None,
) -> Run:
    """Keep an adapter and its metrics, make a model of them, and close the run; what a cut-off try kept is taken.

    Args:
        parents: ids of the objects that the adapter comes from.
        more: what the run's result says beside that.
    """
    metrics = outcome.metrics
    ids = [o.id for kind in ("adapter", "metrics") for o in objects_of_run(desk, run, kind)]
    if not ids:
        adapter = stamped(outcome.adapter, origin_of(desk, run, kept.base))
        note = {"run": run.id, "base": kept.base, "sha256": hashlib.sha256(adapter).hexdigest()}
        new = [
            NewObject("adapter", adapter, None, parents, note),
            NewObject("metrics", "\n".join(json.dumps(m) for m in metrics).encode(), None, (), {"run": run.id}),
        ]
        ids = desk.vault.put_many(new, actor=desk.actor, activity=run.kind)
    sha256 = desk.vault.catalogue.object(ids[0]).note["sha256"]
    model = next((m for m in desk.vault.catalogue.models() if m.run == run.id), None) or store_model(
        desk.vault,
        "adapter",
        ids[:1],
        run,
        actor=desk.actor,
        parent=kept.parent,
        note={**kept.note(), "sha256": sha256},
    )
    result = {
        "adapter": ids[0],
        "metrics": ids[1],
        "model": model.id,
        "steps": len(metrics),
        "last": metrics[-1] if metrics else {},
        **(more or {}),
    }
    done = finish(desk, run, result)
    store.clear()
    return done
