"""The writing end of the log: an event is durable and signed for before it counts.

One SQLite transaction holds entry, leaf hash, frontier and a freshly signed checkpoint; there is no unsigned tail.
Several processes may write: each has its own segments, and SQLite's lock puts their commits in order.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from audit import highwater, store
from audit.checkpoint import Checkpoint, Signer, VerifierKey, open_note
from audit.entry import EVENT, HEARTBEAT, KEYS, Entry, size_class_of
from audit.errors import EnvironmentProblem, IntegrityFailure, Refused, storage
from audit.events import Event
from audit.keys import Recipient
from audit.merkle import Frontier
from audit.rotation import KeyChain, Rotation
from audit.sealing import Segment, common_suite

_CLASSES = {"keys.changed": KEYS, "heartbeat": HEARTBEAT}
_HINT = "cloche audit verify says more; nothing is written to this log until that is understood"


class Batch:
    """Events that are committed together when the `with` block of `Log.batch` ends."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        """What is to be committed."""
        self.sequences: list[int] = []
        """Where the events stand in the log, in the same order; empty before the commit."""

    def append(self, event: Event) -> None:
        """Add an event; it is nowhere until the block ends."""
        self.events.append(event)


class Log:
    """A log that is open for writing."""

    def __init__(self, path: Path, signer: Signer, recipients: Sequence[Recipient], high_water: Path) -> None:
        """Open a log that `create` made.

        Args:
            path: the log's database.
            signer: the log's key; its name is the log's origin.
            recipients: who can read what is written from now on; two at least.
            high_water: the file of the high-water mark.

        Raises:
            IntegrityFailure: the log is damaged, was cut short, or belongs to another key.
            EnvironmentProblem: the disk refuses.
        """
        common_suite(recipients)
        self.path, self._signer, self._recipients = path, signer, tuple(recipients)
        self._mark = highwater.Mark(high_water)
        self._origin = sha256(signer.key.name.encode()).digest()
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._of_parents: list[sqlite3.Connection] = []
        if not path.is_file():
            raise IntegrityFailure("the log is gone", where=str(path), hint="restore the last backup beside it")
        self._seen: Frontier | None = None
        self._seen_note = b""
        with storage(path):
            self._connection, self._process = store.writer(path), os.getpid()
            try:
                self._check_mark()
            except BaseException:
                self.close()
                raise

    @classmethod
    def create(
        cls,
        path: Path,
        signer: Signer,
        recipients: Sequence[Recipient],
        high_water: Path,
        *,
        predecessor: bytes = b"",
    ) -> Self:
        """Make an empty log and open it; `predecessor` is the note of `rotation.Predecessor.sign`, if any.

        Raises:
            Refused: there are fewer than two recipients.
            EnvironmentProblem: the disk refuses.
        """
        common_suite(recipients)
        empty = Checkpoint(signer.key.name, 0, Frontier().root())
        note = signer.sign(empty)
        with storage(path):
            store.create(path, store.Head(b"", note, signer.key.to_text().encode()), predecessor)
        mark = highwater.Mark(high_water)
        mark.raise_to(0, note)
        mark.close()
        return cls(path, signer, recipients, high_water)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the database. What was appended is on the disk already."""
        self._mark.close()
        if os.getpid() == self._process:
            self._connection.close()

    @property
    def key(self) -> VerifierKey:
        """The log's public key."""
        return self._signer.key

    def append(self, event: Event) -> int:
        """Commit one event; return its sequence. Raises as `append_many`."""
        return self.append_many([event])[0]

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Commit the events of a block together: one flush to the disk for all. An exception commits none.

        Example:
            with log.batch() as batch:
                batch.append(first)
                batch.append(second)
        """
        batch = Batch()
        yield batch
        batch.sequences = self.append_many(batch.events)

    def append_many(self, events: Sequence[Event]) -> list[int]:
        """Commit events together and in order; return their sequences, once all are durable.

        Raises:
            BadInput: an event is too long or no JSON; none is committed.
            EnvironmentProblem: the disk refuses; none is committed, and whoever wanted them must stop.
            IntegrityFailure: the log is not the one that this process has seen before.
        """
        return self._append(events) if events else []

    def rotate(self, new: Signer, event: Event) -> int:
        """Hand the log over to a new key, in one transaction with the event about it; return its sequence.

        Args:
            new: the new key, under the log's own name; keep it safe before this is called.
            event: of the kind ``keys.changed``.

        Raises:
            Refused: the key has another log's name, or is the one that signs already.
        """
        if new.key.name != self.key.name or new.key == self.key:
            raise Refused("a log is handed over to a new key under its own name", where=new.key.name)
        return self._append([event], heir=new)[0]

    def change_recipients(self, recipients: Sequence[Recipient], event: Event) -> int:
        """Commit the event, then seal what comes after it to others. Raises Refused for fewer than two."""
        common_suite(recipients)
        sequence = self.append(event)  # those who could read so far can read this, too
        with self._lock:
            self._recipients, self._segment = tuple(recipients), None
        return sequence

    def _append(self, events: Sequence[Event], heir: Signer | None = None) -> list[int]:
        payloads = [(event.stamped().encode(), _CLASSES.get(event.kind, EVENT)) for event in events]
        for payload, _ in payloads:
            size_class_of(len(payload))
        with self._lock:
            self._after_fork()
            try:
                with storage(self.path):
                    sequences, frontier, note = self._commit(payloads, heir)
            except BaseException:
                self._segment = None  # its ratchet has moved on: the keys of what was not committed are gone
                raise
            self._signer = heir or self._signer
            self._seen, self._seen_note = frontier, note
            self._mark.raise_to(frontier.size, note)
        return sequences

    def checkpoint(self) -> bytes:
        """The newest checkpoint, a signed note. Raises IntegrityFailure, EnvironmentProblem."""
        with self._lock, storage(self.path):
            self._after_fork()
            return store.head(self._connection).note

    def _commit(self, payloads: Sequence[tuple[bytes, int]], heir: Signer | None) -> tuple[list[int], Frontier, bytes]:
        """Seal, insert and sign in one transaction; the events' sequences, the new frontier, the new note."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            frontier = self._read_head()
            before = frontier.size
            sequences = []
            for payload, class_ in payloads:
                if self._segment is None or self._segment.spent:
                    self._segment = Segment(self._origin, frontier.size, self._recipients)
                    self._insert(frontier, self._segment.opening)
                sequences.append(frontier.size)
                self._insert(frontier, self._segment.seal(frontier.size, payload, class_))
            checkpoint = Checkpoint(self.key.name, frontier.size, frontier.root())
            note = (heir or self._signer).sign(checkpoint)
            connection.execute("UPDATE head SET frontier = ?, note = ? WHERE id = 0", (frontier.to_bytes(), note))
            if heir is not None:
                handed = Rotation(checkpoint, self.key, heir.key).sign(self._signer, heir)
                connection.execute("INSERT INTO rotations VALUES (?, ?)", (frontier.size, handed))
                connection.execute("UPDATE head SET key = ? WHERE id = 0", (heir.key.to_text().encode(),))
            if before // store.MILESTONE != frontier.size // store.MILESTONE:
                connection.execute("INSERT INTO checkpoints VALUES (?, ?)", (frontier.size, note))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return sequences, frontier, note

    def _insert(self, frontier: Frontier, entry: Entry) -> None:
        leaf = entry.leaf
        self._connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?)", (frontier.size, entry.header, entry.body, leaf)
        )
        for subtree in frontier.add(leaf):
            self._connection.execute("INSERT INTO subtrees VALUES (?, ?, ?)", subtree)

    def _check_mark(self) -> None:
        """Hold the log against its high-water mark. Raises IntegrityFailure where entries were lost."""
        file = self._mark.path
        found = file.read_bytes() if file.is_file() else None
        self._seen = self._read_head()
        chain = KeyChain.of(self.key, store.rotations(self._connection))
        mark = highwater.parse(found, chain, file)
        if self._seen.size < mark.size or (self._seen.size == mark.size and self._seen.root() != mark.root):
            raise IntegrityFailure(
                f"the log has {self._seen.size} entries, its high-water mark says {mark.size}: it was cut short or "
                "replaced by another copy",
                where=str(self.path),
                hint=_HINT,
            )

    def _read_head(self) -> Frontier:
        """The tree's right edge as the database has it, held against its signature and against what we saw last.

        Raises:
            IntegrityFailure: it is not signed by our key, or is no continuation of what this process saw last.
        """
        try:
            head = store.head(self._connection)
            if self._seen is not None and head.note == self._seen_note and head.frontier == self._seen.to_bytes():
                return self._seen.copy()  # what we signed ourselves: the signature need not be verified again
            self._check_handed_over()
            signed = open_note(head.note, self.key)
            frontier = Frontier.from_bytes(signed.size, head.frontier)
            intact = frontier.root() == signed.root and self._continues(frontier)
        except (ValueError, IntegrityFailure) as error:
            raise IntegrityFailure("the log's head is damaged", where=str(self.path), hint=_HINT) from error
        if not intact:
            raise IntegrityFailure("the log is not the one seen before", where=str(self.path), hint=_HINT)
        return frontier

    def _check_handed_over(self) -> None:
        """See that no other process has handed the log to another key meanwhile. Raises Refused."""
        if any(Rotation.open(note).old == self.key for note in store.rotations(self._connection)):
            raise Refused("the log was handed over to a new key", where=str(self.path), hint="type the same again")

    def _continues(self, frontier: Frontier) -> bool:
        """Whether what we saw last, and the leaves that came since, make this frontier."""
        if self._seen is None:
            return True
        expected = self._seen.copy()
        if frontier.size > expected.size:  # another process has written
            query = "SELECT leaf FROM entries WHERE sequence >= ? ORDER BY sequence"
            for (leaf,) in self._connection.execute(query, (expected.size,)):
                expected.add(leaf)
        return expected.size == frontier.size and expected.hashes == frontier.hashes

    def _after_fork(self) -> None:
        """Give a forked child its own connection and its own segment: it must not share a ratchet."""
        if os.getpid() == self._process:
            return
        # Closing the parent's connection here would drop the parent's locks (POSIX), so it is kept and never used.
        self._of_parents.append(self._connection)
        self._segment = None
        try:
            self._connection, self._process = store.writer(self.path), os.getpid()
        except sqlite3.Error as error:
            raise EnvironmentProblem("the log cannot be opened after a fork", where=str(self.path)) from error
