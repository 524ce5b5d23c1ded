"""Everything that the log says about one patient: who used the data, for what, and what became of it."""

from collections.abc import Iterable
from dataclasses import dataclass

from audit.events import Event
from audit.questions import Use, Uses
from audit.reading import Logged
from audit.subject import Subject, parents_of, text_of
from audit.works import Made, ModelAnswer, RunSeen, Works

MEASURING = frozenset({"export", "evaluate", "sign", "ask"})
"""Activities that use data without learning from it: a run of theirs does not carry data into a model."""


@dataclass(frozen=True)
class RecordSeen:
    """One record as it came in."""

    id: str
    """Id of the record."""
    objects: tuple[str, ...]
    """Its parts: image, report."""
    split: str
    """``train``, ``held-out`` ..."""
    user: str
    """Who brought it in."""
    entry: int
    """Entry of the log."""
    at: str
    """When."""


@dataclass(frozen=True)
class RunUse:
    """A run that used the patient's data."""

    run: RunSeen
    """The run."""
    learned: bool
    """Whether it may have learned from the data; else it measured or exported with it."""
    entries: int
    """How many of its entries name the patient, a record or an object of the patient's."""


@dataclass(frozen=True)
class PatientAnswer:
    """What the log says about one patient."""

    patient: str
    """Pseudonym; several, with commas, where identities were linked."""
    events: int
    """Events about the patient, the indirect ones left out."""
    uses: tuple[Use, ...]
    """What was done with the patient's own records and objects, by whom, for what purpose."""
    indirect: tuple[Use, ...]
    """What was done with shared objects made from the data, models and answers left out."""
    records: tuple[RecordSeen, ...]
    """Records."""
    samples: tuple[Made, ...]
    """Shared objects that hold or may hold something of the patient's: samples, packed sets, adapters, model files."""
    runs: tuple[RunUse, ...]
    """Runs that used the data."""
    models: tuple[ModelAnswer, ...]
    """Models in whose ancestry the data is."""


class Tracer:
    """Follows one patient's data through the log."""

    def __init__(self, *patients: str) -> None:
        self.subject = Subject(*patients)
        """What is the patient's own."""
        self.works = Works()
        """Runs, shared objects and models."""
        self.derived: set[str] = set()
        """Shared objects that descend from the patient's data."""
        self.runs: dict[str, RunUse] = {}
        """Runs that used the data, by id."""
        self.learned: set[str] = set()
        """Those that may have learned from it, and those that came after them."""

    def see(self, logged: Logged) -> tuple[bool, bool]:
        """Take in one event, in the log's order.

        Returns:
            Whether it is about the patient; whether it is about something shared that was made from the data.
        """
        self.works.see(logged)
        event = logged.event
        if event is None:
            return False, False
        direct = self.subject.touches(event)
        indirect = not self.derived.isdisjoint(event.objects)
        run = text_of(event, "run")
        if run in self.works.runs and direct:
            self._used(run)
        if run and (direct or indirect) and event.activity not in MEASURING:
            self.learned.add(run)
        self._derive(event, run)
        return direct, indirect

    def carries(self, model_objects: Iterable[str]) -> bool:
        """Whether a model's files descend from the patient's data."""
        return not self.derived.isdisjoint(model_objects)

    def _used(self, run: str) -> None:
        seen, held = self.works.runs[run], self.runs.get(run)
        learned = seen.activity not in MEASURING
        self.runs[run] = RunUse(seen, learned, (held.entries if held else 0) + 1)

    def _derive(self, event: Event, run: str) -> None:
        """Note what was made from the data: by its parents, or because a run that learned from it stored it."""
        if event.kind != "object.stored":
            return
        for child, parents in parents_of(event).items():
            if child not in self.subject.own and not (self.subject.own | self.derived).isdisjoint(parents):
                self.derived.add(child)
        if run in self.learned and not event.patients:
            self.derived.update(event.objects)


def about_patient(events: Iterable[Logged], *patients: str) -> PatientAnswer:
    """Everything about one patient, under all pseudonyms; `events` is 0 where the log says nothing."""
    tracer, uses, indirect = Tracer(*patients), Uses(), Uses()
    records: list[RecordSeen] = []
    count = 0
    for logged in events:
        event = logged.event
        direct, shared = tracer.see(logged)
        if event is None:
            continue
        if direct:
            count += 1
            uses.add(logged.sequence, event)
        elif shared and not text_of(event, "model") and not event.kind.startswith("model."):
            indirect.add(logged.sequence, event)
        if direct and event.kind == "record.ingested" and event.objects:
            name, *parts = event.objects
            split, who = text_of(event, "split"), event.actor.user
            records.append(RecordSeen(name, tuple(parts), split, who, logged.sequence, event.at))
    works = tracer.works
    return PatientAnswer(
        ", ".join(patients),
        count,
        uses.groups(),
        indirect.groups(),
        tuple(records),
        tuple(made for name, made in works.made.items() if name in tracer.derived),
        tuple(tracer.runs.values()),
        tuple(works.answer(model) for model in works.models.values() if tracer.carries(model.objects)),
    )
