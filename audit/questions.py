"""Questions to the log: which events, and what one person did. One pass over the events, in the log's order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from audit.events import KINDS, Event
from audit.moments import when
from audit.reading import Logged
from audit.subject import Subject


@dataclass(frozen=True)
class Filter:
    """Which events to take; what is empty or None lets everything through."""

    since: datetime | None = None
    """Not before this time."""
    until: datetime | None = None
    """Before this time."""
    actor: str = ""
    """Name of the account."""
    role: str = ""
    """Role in which it acted."""
    patient: str = ""
    """Pseudonym: events that name the patient, or a record or object of the patient's."""
    kinds: tuple[str, ...] = ()
    """Kinds, or families of kinds (``run`` for all of ``run.started``, ``run.step`` ...)."""
    actions: tuple[str, ...] = ()
    """FHIR actions: C create, R read, U update, D delete, E execute."""
    purpose: str = ""
    """Purpose of use."""
    outcome: str = ""
    """Outcome; ``failed`` means every failure and refusal."""
    first: int = 0
    """First entry."""
    last: int | None = None
    """Last entry, inclusive."""

    def fits(self, logged: Logged) -> bool:
        """Whether an event passes all but the question of its patient.

        An event whose time cannot be read passes any time: a broken clock must not hide what was done.
        """
        event = logged.event
        if event is None or logged.sequence < self.first or (self.last is not None and logged.sequence > self.last):
            return False
        at = when(event) if self.since or self.until else None
        if at and ((self.since and at < self.since) or (self.until and at >= self.until)):
            return False
        return (
            self.actor in ("", event.actor.user)
            and self.role in ("", event.actor.role)
            and self.purpose in ("", event.purpose)
            and (not self.kinds or event.kind in self.kinds or event.kind.partition(".")[0] in self.kinds)
            and (not self.actions or KINDS[event.kind].action in self.actions)
            and (failed(event) if self.outcome == "failed" else self.outcome in ("", event.outcome))
        )


def failed(event: Event) -> bool:
    """Whether an event tells of a failure or a refusal."""
    return event.outcome != "success"


def select(events: Iterable[Logged], chosen: Filter) -> Iterator[Logged]:
    """The events that a filter lets through; what nobody here can read is left out.

    The memory it takes is flat, but for the names of one patient's records where a patient is asked for.
    """
    subject = Subject(chosen.patient) if chosen.patient else None
    for logged in events:
        if logged.event is None:
            continue
        # Asked of every event: what the patient's records are called is learned from those before the range.
        about = subject is None or subject.touches(logged.event)
        if about and chosen.fits(logged):
            yield logged


@dataclass(frozen=True)
class Use:
    """The same thing done by the same person for the same purpose, once or many times."""

    kind: str
    """Kind of event."""
    activity: str
    """What it was part of."""
    user: str
    """Who."""
    role: str
    """In which role."""
    purpose: str
    """Why."""
    outcome: str
    """How it ended."""
    count: int
    """How many events."""
    first_entry: int
    """First of them in the log."""
    first_at: str
    """Its time."""
    last_entry: int
    """Last of them in the log."""
    last_at: str
    """Its time."""


class Uses:
    """Counts events by what, who, why and how."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], Use] = {}

    def add(self, sequence: int, event: Event) -> None:
        """Count an event."""
        who = event.actor
        key = (event.kind, event.activity, who.user, who.role, event.purpose, event.outcome)
        held = self._found.get(key)
        count, first = (held.count, (held.first_entry, held.first_at)) if held else (0, (sequence, event.at))
        self._found[key] = Use(*key, count + 1, *first, sequence, event.at)

    def groups(self) -> tuple[Use, ...]:
        """What was counted, in order of first appearance."""
        return tuple(self._found.values())


@dataclass(frozen=True)
class Span:
    """How often something appears in the log, and where first and last."""

    name: str
    """What."""
    count: int
    """In how many events."""
    first_entry: int
    """First entry."""
    first_at: str
    """Its time."""
    last_entry: int
    """Last entry."""
    last_at: str
    """Its time."""


class Spans:
    """Counts names."""

    def __init__(self) -> None:
        self._found: dict[str, Span] = {}

    def add(self, name: str, sequence: int, at: str) -> None:
        """Count a name."""
        held = self._found.get(name)
        first = (held.first_entry, held.first_at) if held else (sequence, at)
        self._found[name] = Span(name, (held.count if held else 0) + 1, *first, sequence, at)

    def found(self) -> tuple[Span, ...]:
        """What was counted, in order of first appearance."""
        return tuple(self._found.values())


@dataclass(frozen=True)
class UserAnswer:
    """What the log says of one person."""

    user: str
    """Name of the account that was asked for."""
    events: int
    """How many of the account's events there are."""
    failures: int
    """How many of them failed or were refused."""
    roles: tuple[Span, ...]
    """Roles in which it acted."""
    uses: tuple[Use, ...]
    """What it did."""
    patients: tuple[Span, ...]
    """Patients whom its events name."""


def about_user(events: Iterable[Logged], user: str) -> UserAnswer:
    """What one account did, in which roles, with which patients' data."""
    uses, roles, patients = Uses(), Spans(), Spans()
    count = failures = 0
    for logged in events:
        event = logged.event
        if event is None or event.actor.user != user:
            continue
        count += 1
        failures += failed(event)
        uses.add(logged.sequence, event)
        roles.add(event.actor.role, logged.sequence, event.at)
        for patient in event.patients:
            patients.add(patient, logged.sequence, event.at)
    return UserAnswer(user, count, failures, roles.found(), uses.groups(), patients.found())
