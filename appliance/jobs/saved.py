"""The settings of a run as its command line would say them, so that it can be run again."""

from collections.abc import Mapping
from typing import Any

from appliance.jobs.common import Desk
from audit.errors import BadInput
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
    if run.kind == "train":
        return flat | {_LORA.get(k, k): v for k, v in run.config.get("lora", {}).items()}
    curriculum = run.config.get("curriculum")
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in flat.items() if v is not None}
    return known | {"rcpa": bool(curriculum)} | dict(curriculum or {})


def interrupted(desk: Desk, kind: str) -> Run:
    """The newest run of a kind that was cut off. Raises BadInput where there is none."""
    for run in reversed(desk.vault.catalogue.runs(kind)):
        if run.state == "running":
            return run
    raise BadInput(f"no {WORDS[kind]} run was interrupted", where=str(desk.vault.home), hint="cloche runs list")
