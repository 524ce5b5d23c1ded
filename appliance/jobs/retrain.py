"""The commands that make a model again without a patient who was forgotten, and what they will cost."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from audit.rows import Run

_Config = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One command of a retrain plan."""

    command: str
    """What to type."""
    instead_of: str
    """The run that it takes the place of."""
    seconds: float
    """How long that run took; it is the estimate, as the data is nearly the same."""
    remark: str
    """What the command cannot say, such as the model directory by its digest."""


def _synth(config: _Config) -> str:
    limit = f" --limit {config['limit']}" if config.get("limit") else ""
    return f"cloche synth --samples {config['samples']} --temperature {config['temperature']}{limit}"


def _train(config: _Config) -> str:
    return "cloche train --config train.toml"


def _align(config: _Config) -> str:
    return "cloche align --config align.toml"


def _export(config: _Config) -> str:
    return f"cloche export --quantisation {config['quantisation']}"


def _evaluate(_: _Config) -> str:
    return "cloche evaluate --questions FILE"


_COMMANDS: Mapping[str, Callable[[_Config], str]] = {
    "synth": _synth,
    "train": _train,
    "align": _align,
    "export": _export,
    "evaluate": _evaluate,
}
"""Kind of a run -> its command, in the order in which they are typed."""
_DIRECTORIES = {"synthesizer": "--synthesizer DIR", "judge": "--judge DIR", "base": "--model DIR"}


def retrain_plan(runs: Iterable[Run]) -> tuple[Step, ...]:
    """The newest finished run of each kind, as the command that does the same on what is in the vault now."""
    newest: dict[str, Run] = {}
    for run in runs:
        if run.kind in _COMMANDS and run.finished:
            newest[run.kind] = run
    return tuple(_step(newest[kind]) for kind in _COMMANDS if kind in newest)


def plan_lines(steps: Sequence[Step]) -> list[str]:
    """The plan for a person."""
    if not steps:
        return ["no finished run read this patient's data: nothing is to be made again"]
    lines = ["to make the models again without the patient, in this order:"]
    for step in steps:
        lines.append(f"  {step.command}    # {step.instead_of} took {_long(step.seconds)}{step.remark}")
    total = sum(step.seconds for step in steps)
    return [*lines, f"estimate: {_long(total)} on this machine, from the times of the runs that these replace"]


def _step(run: Run) -> Step:
    try:
        command = _COMMANDS[run.kind](run.config)
    except (KeyError, AttributeError):  # a run of an older version, with other settings
        command = f"cloche {run.kind}"
    known = [f"{option}: digest {run.config[name][:12]}" for name, option in _DIRECTORIES.items() if _text(run, name)]
    remark = f"; {', '.join(known)}" if known else ""
    if "--config" in command:
        command = f"cloche runs show {run.id} --config > {run.kind}.toml && {command}"
    seconds = (datetime.fromisoformat(run.finished) - datetime.fromisoformat(run.created)).total_seconds()
    return Step(command, run.id, max(seconds, 0.0), remark)


def _text(run: Run, name: str) -> bool:
    return isinstance(run.config.get(name), str)


def _long(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
