"""Proofs out of a log's database, without walking it: inclusion of an entry, consistency of two sizes.

The roots of subtrees of 256 leaves, 65,536 ... are kept beside the entries, so that a proof reads at most 256 rows on
each of log256(n) levels. Nothing here is trusted: a proof is good if it leads to a signed root.
"""

import base64
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from audit import merkle
from audit.errors import BadInput, IntegrityFailure
from audit.merkle import TILE_LEVELS

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
"""First line of an inclusion proof's file. Source: C2SP tlog-proof."""
_MOST_HASHES = 63
_HASH = re.compile(r"[A-Za-z0-9+/]{43}=")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


class Tree:
    """The tree of a log that stands in a database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """See `store.reader`; the connection is the caller's."""
        self._connection = connection
        self.size: int = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
        """Entries that are there."""

    def root(self, size: int) -> bytes:
        """Root over the first `size` entries. Raises IntegrityFailure where one is missing."""
        return self._subroot(0, size) if size else merkle.EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that entry `index` is in the tree of `size`. Raises BadInput: there is no such entry."""
        if not 0 <= index < size <= self.size:
            raise BadInput(f"there is no entry {index} among {size} of {self.size}")
        return merkle.inclusion_path(index, size, self._subroot)

    def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the tree of `first` is a prefix of that of `second`; empty for a first of 0.

        Raises:
            BadInput: the sizes are not in order, or larger than the log.
        """
        if not 0 <= first <= second <= self.size:
            raise BadInput(f"there is no way from {first} to {second} entries in a log of {self.size}")
        return merkle.consistency_path(first, second, self._subroot) if first else []

    def _subroot(self, low: int, high: int) -> bytes:
        """Root over entries `low` to `high` - 1, a node of some RFC 9162 tree: its left part is perfect and aligned."""
        frontier: list[bytes] = []
        while low < high:
            level = (high - low).bit_length() - 1
            frontier.append(self._perfect(level, low >> level))
            low += 1 << level
        top = frontier.pop()
        while frontier:
            top = merkle.node_hash(frontier.pop(), top)
        return top

    def _perfect(self, level: int, place: int) -> bytes:
        """Root of the perfect subtree `place` of its level, from the nearest level below that is kept."""
        kept = level - level % TILE_LEVELS
        count = 1 << (level - kept)
        if kept:
            query = "SELECT hash FROM subtrees WHERE level = ?3 AND place >= ?1 AND place < ?2 ORDER BY place"
        else:
            query = "SELECT leaf FROM entries WHERE sequence >= ?1 AND sequence < ?2 ORDER BY sequence"
        found = self._connection.execute(query, (place * count, (place + 1) * count, kept)[: 3 if kept else 2])
        hashes = [row[0] for row in found]
        if len(hashes) != count or any(type(one) is not bytes or len(one) != 32 for one in hashes):
            raise IntegrityFailure("the log's tree has holes", hint="cloche audit verify")
        return merkle.root(hashes)


@dataclass(frozen=True)
class InclusionProof:
    """That one entry stands in a log of which a checkpoint is signed: a file that any tool can check."""

    index: int
    """Sequence of the entry."""
    hashes: tuple[bytes, ...]
    """The sibling hashes, lowest first."""
    note: bytes
    """The signed checkpoint."""

    def to_bytes(self) -> bytes:
        """The file. Source: C2SP tlog-proof."""
        lines = [PROOF_HEADER, f"index {self.index}", *_lines(self.hashes)]
        return "\n".join(lines).encode() + b"\n\n" + self.note

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The proof of a file. Raises BadInput."""
        lines, note = _split(data, "an inclusion proof")
        if len(lines) < 2 or lines[0] != PROOF_HEADER:
            raise BadInput("this is no inclusion proof", hint=f"its first line must be {PROOF_HEADER}")
        return cls(_number(lines[1], "index "), _hashes(lines[2:]), note)


@dataclass(frozen=True)
class ConsistencyProof:
    """That a signed checkpoint continues a smaller one: what a witness is handed."""

    old_size: int
    """Entries of the smaller tree."""
    hashes: tuple[bytes, ...]
    """The proof; empty for an old size of 0, or for equal sizes."""
    note: bytes
    """The signed checkpoint of the larger tree."""

    def to_bytes(self) -> bytes:
        """The file. Source: C2SP tlog-witness, the body of add-checkpoint."""
        return "\n".join([f"old {self.old_size}", *_lines(self.hashes)]).encode() + b"\n\n" + self.note

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The proof of a file. Raises BadInput."""
        lines, note = _split(data, "a consistency proof")
        return cls(_number(lines[0], "old "), _hashes(lines[1:]), note)


def _lines(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(one).decode() for one in hashes]


def _split(data: bytes, what: str) -> tuple[list[str], bytes]:
    """The lines before the first empty one, and the note behind it."""
    head, blank, note = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"this is not {what}") from error
    if not blank or not note:
        raise BadInput(f"this is not {what}: it holds no checkpoint")
    return lines, note


def _number(line: str, lead: str) -> int:
    if not line.startswith(lead) or not _NUMBER.fullmatch(line.removeprefix(lead)):
        raise BadInput(f"a proof's line should be {lead!r} and a number")
    return int(line.removeprefix(lead))


def _hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    found = tuple(base64.b64decode(line) for line in lines if _HASH.fullmatch(line))
    if len(found) != len(lines) or len(found) > _MOST_HASHES or _lines(found) != list(lines):
        raise BadInput("a proof's hashes are not 32 bytes in base64, one a line")
    return found
