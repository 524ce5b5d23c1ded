"""A period of the log at a glance: how much, by whom, for what, what failed, and when it was silent."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from audit.events import Event
from audit.moments import day_of, when
from audit.questions import failed
from audit.reading import Logged
from audit.subject import text_of

KEPT = 50
"""Failures, silences, reviews and departures that a summary lists; it counts all."""
LEAVING = ("disclosure.made", "model.exported", "audit.exported")
"""Kinds of events that tell of something that left the appliance on purpose."""
SILENCE = timedelta(hours=24)
"""A gap longer than this counts as silence, unless another length is asked for."""


@dataclass(frozen=True)
class Day:
    """One day's events."""

    day: date
    """UTC."""
    done: int
    """Events that went well."""
    failed: int
    """Failures and refusals."""


@dataclass(frozen=True)
class Failure:
    """One failure or refusal."""

    entry: int
    """Entry of the log."""
    at: str
    """When."""
    user: str
    """Who."""
    role: str
    """In which role."""
    kind: str
    """Kind of event."""
    outcome: str
    """How it ended."""
    why: str
    """The reason, where the event names one."""


@dataclass(frozen=True)
class Silence:
    """A gap in which the log says nothing, not even that it is alive."""

    entry: int
    """Last entry before it."""
    begins: datetime
    """When that was."""
    ends: datetime
    """When the next event came."""

    @property
    def length(self) -> timedelta:
        """How long."""
        return self.ends - self.begins


@dataclass(frozen=True)
class Review:
    """One review of the log that took place: 45 CFR 164.308(a)(1)(ii)(D)."""

    entry: int
    """Entry of the log."""
    at: str
    """When."""
    by: str
    """Who reviewed, as they named themselves."""
    user: str
    """Account that recorded it."""
    first: int
    """First entry reviewed."""
    last: int
    """Last entry reviewed."""
    finding: str
    """What they found."""


@dataclass(frozen=True)
class Left:
    """Something that left the appliance on purpose: data, a model, a copy of the log."""

    entry: int
    """Entry of the log."""
    at: str
    """When."""
    user: str
    """Who let it out."""
    kind: str
    """Kind of event."""
    to: str
    """To whom or where, where the event says so."""
    purpose: str
    """Purpose of use."""
    patients: int
    """Patients whom the event names."""
    objects: int
    """Objects or records that it names."""


@dataclass(frozen=True)
class Summary:
    """What a period of the log comes to."""

    events: int
    """Events that could be read."""
    sealed: int
    """Events that are sealed to other keys."""
    first: str
    """Time of the first event; empty where there is none."""
    last: str
    """Time of the last event."""
    first_entry: int | None
    """Entry of the first event; None where there is none."""
    last_entry: int | None
    """Entry of the last event."""
    patients: int
    """Patients whom the events name."""
    days: tuple[Day, ...]
    """Days with events, by date."""
    actors: tuple[tuple[str, int], ...]
    """``user (role)`` and events, most first."""
    purposes: tuple[tuple[str, int], ...]
    """Purpose of use and events, most first."""
    kinds: tuple[tuple[str, int], ...]
    """Kind and events, most first."""
    failed_kinds: tuple[tuple[str, int], ...]
    """Kind and failures or refusals, most first."""
    failures: tuple[Failure, ...]
    """The newest failures and refusals, oldest of them first."""
    failed: int
    """How many there are in all."""
    heartbeats: int
    """Signed signs of life; they end a silence."""
    silences: tuple[Silence, ...]
    """The newest silences, oldest of them first."""
    silent: int
    """How many there are in all."""
    longest: Silence | None
    """The longest one."""
    set_back: int
    """How often an event's time lies before that of the event before it: the clock was set, or machines disagree."""
    reviews: tuple[Review, ...]
    """Reviews that took place."""
    left: tuple[Left, ...]
    """The newest things that left the appliance on purpose, oldest of them first."""
    departures: int
    """How many there are in all."""


class Counting:
    """Counts a period in one pass. Memory grows with days, people and patients, not with events."""

    def __init__(self, silence: timedelta = SILENCE) -> None:
        self._silence = silence
        self._done: Counter[date] = Counter()
        self._failed: Counter[date] = Counter()
        self._actors: Counter[str] = Counter()
        self._purposes: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._failed_kinds: Counter[str] = Counter()
        self._patients: set[str] = set()
        self._failures: deque[Failure] = deque(maxlen=KEPT)
        self._silences: deque[Silence] = deque(maxlen=KEPT)
        self._reviews: deque[Review] = deque(maxlen=KEPT)
        self._left: deque[Left] = deque(maxlen=KEPT)
        self._silent = self._set_back = self._sealed = 0
        self._longest: Silence | None = None
        self._ends: list[tuple[int, Event]] = []  # first and last event
        self._before: tuple[int, datetime] | None = None

    def add(self, logged: Logged) -> None:
        """Count one event, in the log's order."""
        event, sequence = logged.event, logged.sequence
        if event is None:
            self._sealed += 1
            return
        self._ends = [self._ends[0] if self._ends else (sequence, event), (sequence, event)]
        bad, day = failed(event), day_of(event)
        if day:
            (self._failed if bad else self._done)[day] += 1
        self._actors[f"{event.actor.user} ({event.actor.role})"] += 1
        self._purposes[event.purpose] += 1
        self._kinds[event.kind] += 1
        self._patients.update(event.patients)
        if bad:
            self._failed_kinds[event.kind] += 1
            self._failures.append(_failure(sequence, event))
        if event.kind == "audit.reviewed":
            self._reviews.append(_review(sequence, event))
        if event.kind in LEAVING:
            self._left.append(_left(sequence, event))
        self._listen(sequence, when(event))

    def _listen(self, sequence: int, at: datetime | None) -> None:
        """Hold an event's time against that of the one before."""
        if at is None:
            return
        if self._before:
            gap = Silence(self._before[0], self._before[1], at)
            self._set_back += gap.length < timedelta(0)
            if gap.length > self._silence:
                self._silent += 1
                self._silences.append(gap)
                if self._longest is None or gap.length > self._longest.length:
                    self._longest = gap
        self._before = (sequence, at)

    def summary(self) -> Summary:
        """What was counted."""
        ends = self._ends
        return Summary(
            events=self._kinds.total(),
            sealed=self._sealed,
            first=ends[0][1].at if ends else "",
            last=ends[1][1].at if ends else "",
            first_entry=ends[0][0] if ends else None,
            last_entry=ends[1][0] if ends else None,
            patients=len(self._patients),
            days=tuple(Day(day, self._done[day], self._failed[day]) for day in sorted({*self._done, *self._failed})),
            actors=tuple(self._actors.most_common()),
            purposes=tuple(self._purposes.most_common()),
            kinds=tuple(self._kinds.most_common()),
            failed_kinds=tuple(self._failed_kinds.most_common()),
            failures=tuple(self._failures),
            failed=self._failed_kinds.total(),
            heartbeats=self._kinds["heartbeat"],
            silences=tuple(self._silences),
            silent=self._silent,
            longest=self._longest,
            set_back=self._set_back,
            reviews=tuple(self._reviews),
            left=tuple(self._left),
            departures=sum(self._kinds[kind] for kind in LEAVING),
        )


def summarise(events: Iterable[Logged], silence: timedelta = SILENCE) -> Summary:
    """Sum up events."""
    counting = Counting(silence)
    for logged in events:
        counting.add(logged)
    return counting.summary()


def counts(summary: Summary, at_most: int = 50) -> dict[str, Any]:
    """A summary as a review's event holds it: counts only, the long tails added up under ``others``."""

    def cut(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
        ordered = list(pairs)
        rest = sum(count for _, count in ordered[at_most:])
        return dict(ordered[:at_most]) | ({"others": rest} if rest else {})

    return {
        "events": summary.events,
        "sealed": summary.sealed,
        "actors": cut(summary.actors),
        "kinds": cut(summary.kinds),
        "purposes": cut(summary.purposes),
        "failures": summary.failed,
        "silences": summary.silent,
        "first": summary.first,
        "last": summary.last,
    }


def _failure(sequence: int, event: Event) -> Failure:
    who = event.actor
    return Failure(sequence, event.at, who.user, who.role, event.kind, event.outcome, event.reason)


def _left(sequence: int, event: Event) -> Left:
    to = text_of(event, "recipient") or text_of(event, "to")
    names = len(event.patients), len(event.objects)
    return Left(sequence, event.at, event.actor.user, event.kind, to, event.purpose, *names)


def _review(sequence: int, event: Event) -> Review:
    def number(key: str) -> int:
        found = event.detail.get(key)
        return found if isinstance(found, int) else 0

    return Review(
        sequence,
        event.at,
        text_of(event, "by"),
        event.actor.user,
        number("from"),
        max(number("until") - 1, 0),
        text_of(event, "findings"),
    )
