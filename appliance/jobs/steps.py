"""Step events: which members of its manifest each step of a run learned from.

They are committed together, at most every 5 seconds and before each checkpoint: what was cut off in between is not in
any checkpoint either, so the run takes those steps again and says so.
"""

import time
from collections.abc import Callable, Sequence

from appliance.jobs.common import RESEARCH, Desk
from audit.datasets import places
from audit.events import Event
from audit.rows import Run

EVERY_S = 5.0
"""Seconds of steps that one commit holds at most."""
_MOST_PLACES = 2000
"""Records and leaf places that one event lists at most: an entry holds 64 KiB."""
_Step = tuple[int, tuple[str, ...]]


class StepEvents:
    """Tells the log which records each step learns from, as places in the leaf list of the run's manifest."""

    def __init__(
        self, desk: Desk, run: Run, members: Sequence[str], resumed: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """For one run.

        Args:
            desk: where it works.
            run: the run; its manifest is that of `members`.
            members: ids of the manifest's objects.
            resumed: whether the run was begun before: its first step here is then named as such.
            clock: seconds.
        """
        self._desk, self._run, self._resumed, self._clock = desk, run, resumed, clock
        self._members = list(members)
        self._places: dict[str, int] = {}
        self._waiting: list[_Step] = []
        self._since = clock()

    def used(self, step: int, records: Sequence[str]) -> None:
        """Note a step, before it is taken."""
        if self._resumed:
            detail = {"run": self._run.id, "manifest": self._run.manifest_root, "step": step}
            self._desk.vault.record(
                Event("run.resumed", self._desk.actor, RESEARCH, activity=self._run.kind, detail=detail)
            )
            self._resumed = False
        if self._waiting and self._clock() - self._since >= EVERY_S:
            self.flush()
        if not self._waiting:
            self._since = self._clock()
        self._waiting.append((step, tuple(sorted(set(records)))))

    def flush(self) -> None:
        """Commit what waits, in one append."""
        if self._waiting:
            self._desk.vault.record_many([self._event(some) for some in self._grouped()])
            self._waiting = []

    def _grouped(self) -> list[list[_Step]]:
        """The waiting steps, in runs of consecutive ones that fit into an event."""
        groups: list[list[_Step]] = []
        held = 0
        for step, records in self._waiting:
            held += 1 + 4 * len(records)
            if not groups or held > _MOST_PLACES or groups[-1][-1][0] + 1 != step:
                groups.append([])
                held = 1 + 4 * len(records)
            groups[-1].append((step, records))
        return groups

    def _event(self, steps: Sequence[_Step]) -> Event:
        records = tuple(sorted({r for _, some in steps for r in some}))
        at = {record: place for place, record in enumerate(records)}
        detail = {
            "run": self._run.id,
            "manifest": self._run.manifest_root,
            "steps": [steps[0][0], steps[-1][0]],
            "batches": [self._batch(some) for _, some in steps],
            "records": [[at[r] for r in some] for _, some in steps],
        }
        return Event("run.step", self._desk.actor, RESEARCH, activity=self._run.kind, objects=records, detail=detail)

    def _batch(self, records: Sequence[str]) -> list[int]:
        """Places in the manifest's leaf list of what these records hold."""
        if not self._places:
            self._places = places(self._desk.vault, self._members)
        rows = [self._desk.vault.catalogue.record(r) for r in records]
        return sorted(self._places[o] for r in rows for o in (r.image, r.report) if o in self._places)
