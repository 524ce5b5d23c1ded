"""The settings of a training run as its command line would say them, so that it can be run again."""

from collections.abc import Mapping
from typing import Any

from appliance.jobs.common import Desk
from audit.errors import BadInput
from audit.rows import Run

_NOT_SETTINGS = ("synth",)
"""What a run's configuration says of its data; the data of another run may be other data."""
_LORA = {"dropout": "lora_dropout"}


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a training run by option. Raises BadInput for a run of another kind."""
    if run.kind != "train":
        raise BadInput(f"{run.id} is a run of {run.kind}, not of training", where="runs", hint="cloche runs list")
    flat = {k: v for k, v in run.config.items() if k not in _NOT_SETTINGS and not isinstance(v, Mapping)}
    return flat | {_LORA.get(k, k): v for k, v in run.config.get("lora", {}).items()}


def interrupted(desk: Desk) -> Run:
    """The newest training run that was cut off. Raises BadInput where there is none."""
    for run in reversed(desk.vault.catalogue.runs("train")):
        if run.state == "running":
            return run
    raise BadInput("no training run was interrupted", where=str(desk.vault.home), hint="cloche runs list")
