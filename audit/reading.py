"""The reading end of the log: a recipient's private key turns entries into events again."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audit import store
from audit.entry import OPENING, Header
from audit.errors import IntegrityFailure
from audit.events import Event
from audit.keys import KeyPair
from audit.sealing import SegmentReader


@dataclass(frozen=True)
class Logged:
    """One entry that holds an event."""

    sequence: int
    """Place in the log."""
    event: Event | None
    """The event; None where its segment was not sealed to the key that reads."""


def read(log_path: Path, pair: KeyPair, size: int) -> Iterator[Logged]:
    """The events among the first `size` entries, in order.

    Reading says nothing about integrity: run `verify` first, and pass the size that it vouches for.

    Args:
        log_path: the log's database, or a carried copy.
        pair: a recipient's key pair.
        size: how many entries to read.

    Raises:
        IntegrityFailure: an entry is missing from its segment or does not decrypt.
    """
    segments: dict[int, SegmentReader | None] = {}
    try:
        connection = store.reader(log_path)
        try:
            for sequence, entry, _ in store.entries(connection):
                if sequence >= size:
                    return
                header = Header.from_bytes(entry.header)
                if header.class_ == OPENING:
                    segments[sequence] = SegmentReader.open(entry, pair)
                    continue
                if header.segment not in segments:
                    raise IntegrityFailure("the opening of an entry's segment is missing", where=f"entry {sequence}")
                segment = segments[header.segment]
                yield Logged(sequence, None if segment is None else Event.decode(segment.read(entry)))
                if segment is not None and segment.exhausted:
                    del segments[header.segment]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise IntegrityFailure(
            f"the log's file is damaged: {error}", where=str(log_path), hint="cloche audit verify"
        ) from error
