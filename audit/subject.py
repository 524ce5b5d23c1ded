"""One patient's records and objects, as the events name them: who is meant where an event names only a record."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from audit.events import Event
from audit.reading import Logged


class Subject:
    """Learns, event by event, what belongs to a patient."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)
        """The pseudonyms: several where identities were linked, see `identities`."""
        self.own: set[str] = set()
        """Records and objects of the patient's alone."""

    def touches(self, event: Event) -> bool:
        """Whether an event is about the patient, by name or by a record or object; to be asked in the log's order."""
        named = not self.names.isdisjoint(event.patients)
        if named and self.names.issuperset(event.patients) and event.kind in ("record.ingested", "object.stored"):
            self.own.update(event.objects)
        # Only where the event names the patient: a shared object, such as a model, is nobody's own, whatever it is of.
        for child, parents in parents_of(event).items() if named else ():
            if parents and self.own.issuperset(parents):
                self.own.add(child)
        return named or not self.own.isdisjoint(event.objects)


def identities(events: Iterable[Logged], patient: str) -> tuple[str, ...]:
    """All pseudonyms that the log says are one person's with this one, itself among them, sorted."""
    links: set[frozenset[str]] = set()
    for logged in events:
        if logged.event is not None and logged.event.kind == "patient.linked":
            links.add(frozenset(logged.event.patients))
        elif logged.event is not None and logged.event.kind == "patient.unlinked":
            links.discard(frozenset(logged.event.patients))
    found = {patient}
    while more := {name for link in links if link & found for name in link} - found:
        found |= more
    return tuple(sorted(found))


def parents_of(event: Event) -> Mapping[str, Sequence[str]]:
    """What each object of an ``object.stored`` was made from; a list too long for an event is left out."""
    found: Any = event.detail.get("parents")
    if event.kind != "object.stored" or not isinstance(found, Mapping):
        return {}
    return {child: parents for child, parents in found.items() if isinstance(parents, list)}


def kind_of(event: Event) -> str:
    """The one kind of objects that an event is about; empty where there are several."""
    kinds: Any = event.detail.get("kinds")
    return next(iter(kinds)) if isinstance(kinds, Mapping) and len(kinds) == 1 else ""


def text_of(event: Event, key: str) -> str:
    """A fact of an event, if it is there and is text."""
    found = event.detail.get(key)
    return found if isinstance(found, str) else ""
