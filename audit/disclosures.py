"""The accounting of disclosures of 45 CFR 164.528: what left the appliance about one patient, to whom, and why."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from audit.events import PURPOSES, Event
from audit.moments import when
from audit.patient import Tracer
from audit.reading import Logged
from audit.subject import text_of

YEARS = 6
"""How far back a person may ask: 45 CFR 164.528(a)(1)."""
KINDS = ("disclosure.made", "model.exported")
"""What counts. A model is not a record; it is listed because something of a record may be learned out of it."""


@dataclass(frozen=True)
class Disclosure:
    """One line of an accounting, 45 CFR 164.528(b)(2)(i)-(iv)."""

    date: str
    """Date of the disclosure, UTC."""
    recipient: str
    """Name of who received it; where the event has none, where it was written to."""
    address: str
    """Address of the recipient, if known."""
    description: str
    """Brief description of what was disclosed."""
    purpose: str
    """Brief statement of the purpose."""
    entry: int
    """Entry of the log that is the evidence."""


def disclosures(events: Iterable[Logged], patients: Iterable[str], since: datetime | None) -> Iterator[Disclosure]:
    """What was disclosed about a patient, under all pseudonyms, since a time; an unreadable time does not hide one."""
    tracer = Tracer(*patients)
    for logged in events:
        event = logged.event
        direct, _ = tracer.see(logged)
        if event is None or event.kind not in KINDS:
            continue
        model = event.kind == "model.exported" and tracer.carries(event.objects)
        at = when(event)
        if (direct or model) and not (since and at and at < since):
            yield _line(logged.sequence, event, tracer, model and not direct)


def _line(sequence: int, event: Event, tracer: Tracer, model: bool) -> Disclosure:
    description = text_of(event, "description") or _description(event, tracer, model)
    if event.outcome != "success":
        description += f" (ended: {event.outcome})"
    purpose = text_of(event, "statement") or PURPOSES[event.purpose] + (f": {event.activity}" if event.activity else "")
    recipient = text_of(event, "recipient") or text_of(event, "to") or "not recorded"
    return Disclosure(event.at[:10], recipient, text_of(event, "address"), description, purpose, sequence)


def _description(event: Event, tracer: Tracer, model: bool) -> str:
    """What was disclosed, out of what the event names; never more than the patient's own share of it."""
    if model:
        return "a model in whose ancestry the patient's data is; no record"
    own = [name for name in event.objects if name in tracer.subject.own]
    records = [name for name in own if name.startswith("rec-")]
    if records:
        return f"image and report of {len(records)} {'record' if len(records) == 1 else 'records'}: {_few(records)}"
    if own:
        return f"{len(own)} {'object' if len(own) == 1 else 'objects'} of the patient's: {_few(own)}"
    return "data of the patient; the event names no record"


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
