"""The events copied out, for an archive, a spreadsheet or a program; one event in memory."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO

from audit.fhir import bundle
from audit.printable import cell
from audit.reading import Logged

COLUMNS = (
    "entry",
    "at",
    "user",
    "role",
    "kind",
    "outcome",
    "purpose",
    "patients",
    "objects",
    "activity",
    "reason",
    "detail",
    "software",
    "clock",
)
"""Columns of the CSV."""


def csv_lines(events: Iterable[Logged], _: str) -> Iterator[str]:
    """Events as RFC 4180 lines; lists are separated by spaces, details are JSON."""
    yield csv_line(COLUMNS)
    for logged in events:
        event = logged.event
        if event is None:
            continue
        yield csv_line(
            (
                str(logged.sequence),
                event.at,
                event.actor.user,
                event.actor.role,
                event.kind,
                event.outcome,
                event.purpose,
                " ".join(event.patients),
                " ".join(event.objects),
                event.activity,
                event.reason,
                json.dumps(dict(event.detail), sort_keys=True, ensure_ascii=False),
                event.software,
                event.clock,
            )
        )


def csv_line(cells: Iterable[str]) -> str:
    """One line; no cell of it is a formula to a spreadsheet."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cell(text) for text in cells)
    return line.getvalue()


def json_lines(events: Iterable[Logged], _: str) -> Iterator[str]:
    """Events as JSON, one a line."""
    for logged in events:
        if logged.event is not None:
            yield json.dumps({"sequence": logged.sequence, **logged.event.to_dict()}, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Iterable[Logged], str], Iterator[str]]] = {
    "csv": csv_lines,
    "jsonl": json_lines,
    "fhir": bundle,
}
"""Every format there is."""


@dataclass(frozen=True)
class Written:
    """What a file came to."""

    events: int
    """Events in it."""
    sha256: str
    """SHA-256 of its bytes, hex."""


def write(form: str, events: Iterable[Logged], origin: str, file: BinaryIO) -> Written:
    """Write events in a format of `FORMATS`, as UTF-8; half a surrogate pair, which is no text, is written out.

    Args:
        form: a key of `FORMATS`.
        events: what to write.
        origin: name of the log.
        file: where to.
    """
    digest, count = sha256(), 0

    def counted() -> Iterator[Logged]:
        nonlocal count
        for logged in events:
            count += 1
            yield logged

    for line in FORMATS[form](counted(), origin):
        data = line.encode("utf-8", "backslashreplace")
        digest.update(data)
        file.write(data)
    return Written(count, digest.hexdigest())
