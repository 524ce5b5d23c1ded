"""Verification of a log with its public key alone: no decryption key, no vault, one pass, flat memory."""

import heapq
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from audit import highwater, store
from audit.checkpoint import Checkpoint, VerifierKey
from audit.entry import Header
from audit.errors import BadInput, IntegrityFailure
from audit.manifest import from_bytes, root_of
from audit.merkle import Frontier, Subtree
from audit.rotation import KeyChain, Predecessor, has_predecessor

_READ_ERRORS = (sqlite3.Error, OSError, MemoryError, OverflowError)
"""What reading a damaged database can raise."""


@dataclass(frozen=True)
class Verdict:
    """What verification found."""

    state: str
    """``intact`` or ``failed``."""
    anchored: bool
    """Whether a pinned key was given; without one the log is merely consistent with itself."""
    witnessed_to: int
    """Entries that a checkpoint held elsewhere vouches for; 0 where none was given."""
    size: int
    """Entries; where it failed, entries that were good before the failure."""
    failed_at: int | None
    """Sequence of the first entry that is not vouched for; None where the log is intact."""
    why: str
    """What is wrong, in one sentence; empty where the log is intact."""
    fingerprint: str = ""
    """Fingerprint of the key that it was verified with."""
    key: str = ""
    """Line of the key that signs the log now: another than the pinned one where the log was handed over."""
    handed_over_at: tuple[int, ...] = ()
    """Sizes at which the log was handed over to a new key."""
    goes_on_from: str = ""
    """Where it is not the appliance's first log: the last checkpoint of the one before, and why it ended."""
    origin: str = ""
    """Name of the log."""
    checkpoint: str = ""
    """The newest checkpoint, a signed note: keep it elsewhere, and verify against it later."""
    witnessed_at: str = ""
    """When a witness cosigned the checkpoint of `witnessed_to`, UTC; empty where no cosignature was verified."""

    @property
    def sentence(self) -> str:
        """The verdict for a person, one line."""
        if self.state == "failed":
            return f"FAILED at entry {self.failed_at:,}: {self.why}"
        key = f"anchored to key {self.fingerprint}" if self.anchored else f"own key {self.fingerprint}"
        state = "intact" if self.anchored else "consistent, unanchored"
        tail = "unwitnessed"
        if self.witnessed_to:
            tail = f"witnessed to {self.witnessed_to:,}" + (f" at {self.witnessed_at}" if self.witnessed_at else "")
            if self.witnessed_to < self.size:
                tail += f", unwitnessed tail {self.witnessed_to:,}..{self.size:,}"
        return f"{state}, {tail}: {self.size:,} {'entry' if self.size == 1 else 'entries'}, {key}"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return {**asdict(self), "sentence": self.sentence}


class _Failure(Exception):
    """The log is not intact from `at` on."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at, self.why = at, why


def verify(
    log_path: Path,
    public_key: VerifierKey | None = None,
    high_water: Path | None = None,
    witness: Checkpoint | None = None,
) -> Verdict:
    """Verify every entry of a log against its signed checkpoints.

    Args:
        log_path: the log's database, or a carried copy of it; its -wal file, if any, belongs to it.
        public_key: the pinned key. Without it the log's own key is taken, and the verdict is unanchored.
        high_water: the file of the high-water mark; without it a log that was cut short cannot be told.
        witness: a checkpoint that was kept elsewhere, its signature already verified.

    Returns:
        The verdict. A damaged log is a verdict, not an exception.
    """
    walk = _Walk(public_key)
    try:
        walk.start(log_path, high_water, witness)
    except _Failure as failure:
        return walk.verdict("failed", public_key is not None, failure)
    finally:
        walk.close()
    return walk.verdict("intact", public_key is not None, None, witness.size if witness else 0)


class _Walk:
    """One pass over a log."""

    def __init__(self, pinned: VerifierKey | None) -> None:
        self.key = pinned
        self.chain: KeyChain | None = None
        self.before: Predecessor | None = None
        self.note = b""
        self.frontier = Frontier()
        self.vouched = 0  # entries up to the last checkpoint that fitted
        self.subtrees = 0  # of the stored ones, those that fitted
        self.connection: sqlite3.Connection | None = None

    def start(self, path: Path, high_water: Path | None, witness: Checkpoint | None) -> None:
        """Verify all there is. Raises _Failure."""
        if not path.is_file():
            raise _Failure(0, f"there is no log at {path}")
        try:
            # The mark is read before the log is opened: a writer may go on meanwhile, and may only make it longer.
            mark = None if high_water is None else _content(high_water)
            self.connection = store.reader(path)
            head = store.head(self.connection)
            key = self.key = self.key or VerifierKey.from_text(head.key.decode())
            chain = self.chain = KeyChain.of(key, store.rotations(self.connection))
            promises = [] if witness is None else [_Promise("a checkpoint kept elsewhere", witness)]
            if high_water is not None:
                promises.append(_Promise("the high-water mark", highwater.parse(mark, chain, high_water)))
            self.note = head.note
            newest = chain.open(head.note)
            promises.append(_Promise("the newest checkpoint", newest))
            promises += [_Promise("a key rotation", one.checkpoint) for one in chain.rotations]
            self._predecessor(chain.first)
            self._manifests()
            self._entries(sha256(key.name.encode()).digest(), _merged(self.connection, chain, promises))
            stored = self._stored_subtrees()
        except (IntegrityFailure, BadInput, UnicodeDecodeError) as error:
            raise _Failure(self.frontier.size, getattr(error, "what", "its head is damaged")) from error
        except _READ_ERRORS as error:
            raise _Failure(self.frontier.size, f"the log's file is damaged: {error}") from error
        if self.frontier.size > newest.size:
            raise _Failure(newest.size, "no checkpoint is signed for it")
        if head.frontier != self.frontier.to_bytes():
            raise _Failure(max(self.frontier.size - 1, 0), "the tree's stored edge does not follow from the entries")
        if self.subtrees != stored:
            raise _Failure(self.frontier.size, "the tree has subtrees that do not follow from the entries")

    def _predecessor(self, key: VerifierKey) -> None:
        """Read the note about the log that this one goes on from; its name says whether there must be one."""
        assert self.connection is not None  # noqa: S101 opened by start
        note = store.predecessor(self.connection)
        if bool(note) != has_predecessor(key.name):
            raise _Failure(0, "its name and the note about its predecessor contradict each other")
        self.before = Predecessor.open(note, key) if note else None

    def _manifests(self) -> None:
        """See that each manifest of a carried copy gives the root that it stands under."""
        assert self.connection is not None  # noqa: S101 opened by start
        for root, leaves in store.manifests(self.connection):
            try:
                intact = root_of(from_bytes(leaves)) == root
            except BadInput:
                intact = False
            if not intact:
                raise _Failure(0, f"the leaves of manifest {root.hex()[:16]} do not give its root")

    def _stored_subtrees(self) -> int:
        assert self.connection is not None  # noqa: S101 opened by start
        return int(self.connection.execute("SELECT count(*) FROM subtrees").fetchone()[0])

    def _subtree(self, complete: Subtree) -> None:
        """Hold a subtree that the entries complete against the stored one."""
        assert self.connection is not None  # noqa: S101 opened by start
        query = "SELECT hash FROM subtrees WHERE level = ? AND place = ?"
        if self.connection.execute(query, complete[:2]).fetchone() != (complete.hash,):
            low = max(self.vouched, complete.place << complete.level)
            raise _Failure(low, f"entries {low:,} to {self.frontier.size - 1:,} are not those of a stored subtree")
        self.subtrees += 1

    def _entries(self, origin: bytes, promises: "Iterator[_Promise]") -> None:
        """Walk the entries and hold them against each promise where it is due."""
        assert self.connection is not None  # noqa: S101 opened by start
        due = self._settle(next(promises, None), promises)
        for sequence, entry, stored in store.entries(self.connection):
            expected = self.frontier.size
            if sequence != expected:
                raise _Failure(expected, "it is missing" if sequence > expected else "it is out of order")
            fault = Header.from_bytes(entry.header).fault(origin, sequence, len(entry.body))
            leaf = entry.leaf
            if fault or leaf != stored:
                raise _Failure(sequence, fault or "its bytes are not those that were logged")
            for complete in self.frontier.add(leaf):
                self._subtree(complete)
            if due is not None and due.checkpoint.size <= expected + 1:
                due = self._settle(due, promises)
        if due is not None:
            raise _Failure(
                self.frontier.size,
                f"it is missing: {due.whose} says {due.checkpoint.size:,} entries, the log has {self.frontier.size:,}",
            )

    def _settle(self, due: "_Promise | None", promises: "Iterator[_Promise]") -> "_Promise | None":
        """Check all promises about the tree as it is now; return the next one."""
        first = due
        while due is not None and due.checkpoint.size <= self.frontier.size:
            if due.checkpoint.size < self.frontier.size:
                raise _Failure(self.frontier.size, "the older checkpoints are out of order")
            if due.checkpoint.root != self.frontier.root():
                raise _Failure(
                    self.vouched,
                    f"entries {self.vouched:,} to {max(self.frontier.size - 1, 0):,} are not those of {due.whose}",
                )
            due = next(promises, None)
        if due is not first:  # not earlier: where two of one size contradict each other, neither vouches for anything
            self.vouched = self.frontier.size
        return due

    def verdict(self, state: str, anchored: bool, failure: "_Failure | None", witnessed: int = 0) -> Verdict:
        """What the walk found."""
        return Verdict(
            state=state,
            anchored=anchored,
            witnessed_to=witnessed,
            size=self.frontier.size if failure is None else min(self.frontier.size, failure.at),
            failed_at=None if failure is None else failure.at,
            why="" if failure is None else failure.why,
            fingerprint="" if self.key is None else self.key.fingerprint,
            key="" if self.chain is None else self.chain.newest.to_text(),
            handed_over_at=() if self.chain is None else tuple(one.checkpoint.size for one in self.chain.rotations),
            goes_on_from="" if self.before is None else _ended(self.before),
            origin="" if self.key is None else self.key.name,
            checkpoint=self.note.decode() if failure is None else "",
        )

    def close(self) -> None:
        """Release the database."""
        if self.connection is not None:
            self.connection.close()


@dataclass(frozen=True)
class _Promise:
    """A checkpoint that the log must keep."""

    whose: str
    checkpoint: Checkpoint


def _ended(before: Predecessor) -> str:
    last = before.checkpoint
    return f"{last.origin} ({before.reason}), {last.size} entries, root {last.root.hex()}"


def _merged(connection: sqlite3.Connection, chain: KeyChain, fixed: list[_Promise]) -> Iterator[_Promise]:
    """The older checkpoints in the log and the `fixed` promises, by size; one of the former in memory."""
    older = (_Promise("an older checkpoint", chain.open(note)) for note in store.milestones(connection))
    return heapq.merge(older, sorted(fixed, key=_size), key=_size)


def _size(promise: _Promise) -> int:
    return promise.checkpoint.size


def _content(path: Path) -> bytes | None:
    """The bytes of a file, None where there is none."""
    return path.read_bytes() if path.is_file() else None
