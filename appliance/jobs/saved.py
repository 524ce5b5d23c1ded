"""The settings of a run as its command line would say them, so that it can be run again."""

from collections.abc import Mapping
from typing import Any

from appliance.jobs.common import Desk
from audit.errors import BadInput, Refused
from audit.rows import Run

_NOT_SETTINGS = ("synth", "adapter", "rules", "domain_digest")
"""What a run's configuration says of its data and files; those of another run may be others."""
_LORA = {"dropout": "lora_dropout"}
WORDS = {"train": "training", "align": "alignment"}
"""Kinds of runs that can be run again from their settings."""


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run of training or alignment by option. Raises BadInput for a run of another kind."""
    if run.kind not in WORDS:
        raise BadInput(
            f"{run.id} is a run of {run.kind}, not of training or alignment", where="runs", hint="cloche runs list"
        )
    flat = {k: v for k, v in run.config.items() if k not in _NOT_SETTINGS and not isinstance(v, Mapping)}
    flat = {"precision": "nf4", "max_visual_tokens": None} | flat
    if run.kind == "train":
        return flat | {_LORA.get(k, k): v for k, v in run.config.get("lora", {}).items()}
    curriculum = run.config.get("curriculum")
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in flat.items() if k != "max_visual_tokens"}
    return known | {"rcpa": bool(curriculum)} | dict(curriculum or {})


def interrupted(desk: Desk, kind: str) -> Run:
    """The newest run of a kind that was cut off. Raises BadInput where there is none."""
    for run in reversed(desk.vault.catalogue.runs(kind)):
        if run.state == "running":
            return run
    raise BadInput(f"no {WORDS[kind]} run was interrupted", where=str(desk.vault.home), hint="cloche runs list")


def same_run(resume: Run | None, settings: Mapping[str, Any], command: str) -> None:
    """Refuse to go on with a run under other settings, another model or other files; None is no run to go on with."""
    if resume is None or dict(resume.config) == dict(settings):
        return
    other = sorted(k for k in {*resume.config, *settings} if resume.config.get(k) != settings.get(k))
    raise Refused(
        f"{resume.id} cannot go on: it was begun with another {', '.join(other)}",
        where="--resume",
        hint=f"bring back what it was begun with, or begin another run: {command}",
    )


def same_data(resume: Run | None, root: str, command: str) -> None:
    """Refuse to go on with a run whose records are no longer the same: by policy, consent, or a patient forgotten."""
    if resume is not None and resume.manifest_root != root:
        raise Refused(
            f"{resume.id} cannot go on: the records that may be used are no longer the same",
            where="--resume",
            hint=f"begin another run: {command}",
        )
