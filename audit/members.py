"""Whose records are in a model's ancestry, as the events tell: what its runs opened and their steps learned from."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from audit.patient import MEASURING
from audit.reading import Logged
from audit.subject import text_of
from audit.works import Works


@dataclass(frozen=True)
class Member:
    """One record in a model's ancestry."""

    record: str
    """Its id."""
    patient: str
    """Pseudonym."""
    runs: tuple[str, ...]
    """Runs that opened something of it, in the log's order."""
    steps: int
    """Steps that learned from it, over all runs; steps that were taken again after a stop count again."""


@dataclass(frozen=True)
class Membership:
    """All records in a model's ancestry."""

    model: str
    """The model."""
    members: tuple[Member, ...]
    """By patient, then record."""

    @property
    def patients(self) -> tuple[str, ...]:
        """The patients."""
        return tuple(dict.fromkeys(one.patient for one in self.members))


def members_of(events: Iterable[Logged], name: str) -> list[Membership]:
    """The records behind each model that a name means (`Works.named`). Memory grows with records and runs."""
    works, owner, whose = Works(), dict[str, str](), dict[str, str]()
    opened: dict[str, set[str]] = {}  # run -> records
    steps: dict[str, Counter[str]] = {}
    for logged in events:
        works.see(logged)
        event = logged.event
        if event is None:
            continue
        run = text_of(event, "run")
        if event.kind == "record.ingested" and event.objects and event.patients:
            record, *parts = event.objects
            whose[record] = event.patients[0]
            owner.update(dict.fromkeys(parts, record))
        elif event.kind == "object.used" and run and event.activity not in MEASURING:
            opened.setdefault(run, set()).update(owner[one] for one in event.objects if one in owner)
        elif event.kind == "run.step" and run:
            taken = [event.objects[place] for one in event.detail.get("records", ()) for place in one]
            steps.setdefault(run, Counter()).update(taken)
            opened.setdefault(run, set()).update(one for one in event.objects if one in whose)
    found = []
    for model in works.named(name):
        answer = works.answer(model)
        runs = [run.id for run in answer.runs if run.activity not in MEASURING]
        records = sorted({one for run in runs for one in opened.get(run, ())}, key=lambda one: (whose[one], one))
        rows = (
            Member(
                one,
                whose[one],
                tuple(run for run in runs if one in opened.get(run, ())),
                sum(steps[run][one] for run in runs if run in steps),
            )
            for one in records
        )
        found.append(Membership(answer.name, tuple(rows)))
    return found
