"""Every completion of an alignment with what it earned: JSON lines, encrypted in the vault, a part a checkpoint."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from appliance.jobs.common import RESEARCH, Desk, lines_of, objects_of_run
from audit.rows import Run
from train.rl.rollout import Group

KIND = "completions"
"""Kind of the objects."""


class Completions:
    """Collects a run's completions; `flush` makes a part of them durable.

    A run that was cut off takes the steps behind its checkpoint again: parts that begin there are replaced.
    """

    def __init__(self, desk: Desk, run: Run, parents: Sequence[str]) -> None:
        """For one run.

        Args:
            parents: ids of the objects that completions come from.
        """
        self._desk, self._run, self._parents = desk, run, list(parents)
        self._steps: list[int] = []
        self._lines: list[str] = []
        self._begun = False

    def add(self, step: int, groups: Sequence[Group]) -> None:
        """Note a step's groups, replaced ones too."""
        if not self._begun:
            self._begun = True
            self._forget_from(step)
        self._steps.append(step)
        for g in groups:
            row = {
                "step": step,
                "record": g.prompt.record,
                "asked": g.prompt.turns[-1].text,
                "wanted": g.prompt.reference,
                "given": g.given,
                "said": g.texts,
                "rewards": g.rewards,
                "scores": g.scores,
                "advantages": g.advantages.tolist(),
                "kept": g.kept,
            }
            self._lines.append(json.dumps(row, ensure_ascii=False))

    def flush(self) -> None:
        """Put what was noted into the vault."""
        if not self._lines:
            return
        note: dict[str, str | int | float] = {"run": self._run.id, "first": self._steps[0], "last": self._steps[-1]}
        data = "\n".join(self._lines).encode()
        vault, actor = self._desk.vault, self._desk.actor
        vault.put(KIND, data, actor=actor, parents=self._parents, note=note, activity=self._run.kind)
        self._steps, self._lines = [], []

    def _forget_from(self, step: int) -> None:
        old = [o.id for o in objects_of_run(self._desk, self._run, KIND) if int(o.note["first"]) >= step]
        if old:
            self._desk.vault.delete(old, actor=self._desk.actor, activity=self._run.kind)


def completions_of(desk: Desk, run: Run) -> Iterator[dict[str, Any]]:
    """A run's completions, step by step, out of the vault; reading them is a use that the log tells."""
    parts = sorted(objects_of_run(desk, run, KIND), key=lambda o: int(o.note["first"]))
    if not parts:
        return
    with desk.vault.use([o.id for o in parts], RESEARCH, desk.actor, "completions", {"run": run.id}) as opened:
        for part in parts:
            yield from map(json.loads, lines_of(opened.read(part.id)))
