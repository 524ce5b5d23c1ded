"""Step events: which leaves of the manifest each step learned from, in few commits, and where a run went on."""

import pytest

from appliance.jobs.common import Desk, VaultStore, begin, members_of, objects_of_run, root_of
from appliance.jobs.steps import EVERY_S, StepEvents
from audit.datasets import places
from audit.errors import IntegrityFailure
from audit.vault import Vault
from tests.appliance.conftest import STEWARD
from tests.audit.pipeline import ingest


class Told(Vault):
    """The engine, with what it commits noted."""

    def record_many(self, events):  # type: ignore[no-untyped-def]
        self.told = [*getattr(self, "told", []), list(events)]
        return super().record_many(events)


@pytest.fixture
def desk(vault: Vault) -> Desk:
    vault.__class__ = Told
    return Desk(vault, STEWARD)


@pytest.fixture
def made(desk: Desk):  # type: ignore[no-untyped-def]
    """Three records, the run that learns from them, and a clock that stands still until it is set."""
    records = [ingest(desk.vault, f"P-PATIENT{k}", "train") for k in range(3)]
    members = members_of(records)
    run = begin(desk, "train", {}, 0, root_of(desk, members))
    desk.vault.told = []  # type: ignore[attr-defined]
    return records, members, run, [0.0]


def told(desk: Desk) -> list[list[tuple[str, object]]]:
    """Commits, each with kind and steps (or the step) of its events."""
    return [
        [(e.kind, e.detail.get("steps", e.detail.get("step"))) for e in some]
        for some in desk.vault.told  # type: ignore[attr-defined]
        if some[0].kind.startswith("run.")
    ]


def test_steps_are_committed_together_and_point_at_leaves(desk: Desk, made) -> None:  # type: ignore[no-untyped-def]
    records, members, run, clock = made
    steps = StepEvents(desk, run, members, False, lambda: clock[0])
    for step in range(4):
        steps.used(step, [records[step % 3].id, records[0].id])
    assert told(desk) == []
    steps.flush()
    steps.flush()
    assert told(desk) == [[("run.step", [0, 3])]]
    event = desk.vault.told[-1][0]  # type: ignore[attr-defined]
    at = places(desk.vault, members)
    back = {place: name for name, place in at.items()}
    for step, batch in enumerate(event.detail["batches"]):
        wanted = {records[step % 3], records[0]}
        assert {back[place] for place in batch} == {o for r in wanted for o in (r.image, r.report)}
        assert {event.objects[k] for k in event.detail["records"][step]} == {r.id for r in wanted}
    assert event.detail["run"] == run.id and event.detail["manifest"] == run.manifest_root


def test_no_step_waits_longer_than_five_seconds_of_steps(desk: Desk, made) -> None:  # type: ignore[no-untyped-def]
    records, members, run, clock = made
    steps = StepEvents(desk, run, members, False, lambda: clock[0])
    for step in range(12):
        steps.used(step, [records[0].id])
        clock[0] += 1.0
    steps.flush()
    assert EVERY_S == 5.0
    assert told(desk) == [[("run.step", [0, 4])], [("run.step", [5, 9])], [("run.step", [10, 11])]]


def test_a_checkpoint_is_kept_after_its_steps(desk: Desk, made) -> None:  # type: ignore[no-untyped-def]
    records, members, run, clock = made
    steps = StepEvents(desk, run, members, False, lambda: clock[0])
    store = VaultStore(desk, run, steps.flush)
    steps.used(0, [records[0].id])
    store.save(b"checkpoint")
    assert told(desk) == [[("run.step", [0, 0])]] and store.load() == b"checkpoint"


def test_a_resumed_run_names_its_step_first(desk: Desk, made) -> None:  # type: ignore[no-untyped-def]
    records, members, run, clock = made
    steps = StepEvents(desk, run, members, True, lambda: clock[0])
    steps.used(7, [records[0].id])
    steps.used(8, [records[1].id])
    steps.flush()
    assert told(desk) == [[("run.resumed", 7)], [("run.step", [7, 8])]]


def test_many_steps_are_several_events_of_one_commit(desk: Desk, made) -> None:  # type: ignore[no-untyped-def]
    records, members, run, clock = made
    steps = StepEvents(desk, run, members, False, lambda: clock[0])
    for step in range(600):
        steps.used(step, [r.id for r in records])
    steps.used(700, [records[0].id])  # a step that does not follow stands in an event of its own
    steps.flush()
    (commit,) = told(desk)
    ends = [steps for _, steps in commit]
    assert len(commit) > 2 and ends[0][0] == 0 and ends[-1] == [700, 700] and ends[-2][1] == 599
    assert all(one[1] + 1 == two[0] for one, two in zip(ends, ends[1:-1], strict=False))


def test_the_last_checkpoints_are_kept_and_a_damaged_one_is_told(desk: Desk, made, tmp_path) -> None:  # type: ignore[no-untyped-def]
    _, _, run, _ = made
    for keep in (1, 2):
        store = VaultStore(desk, run, keep=keep)
        for number in range(4):
            store.save(b"checkpoint %d" % number)
        kept = [b"checkpoint 3", b"checkpoint 2"][:keep]
        assert [store.load(back) for back in range(3)] == [*kept, *[None] * (3 - keep)]
    last = objects_of_run(desk, run, "checkpoint")[-1]
    (file,) = (tmp_path / "home").rglob(last.id)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityFailure):
        store.load()
    assert store.load(1) == b"checkpoint 2"
    store.clear()
    assert store.load() is None and not objects_of_run(desk, run, "checkpoint")
