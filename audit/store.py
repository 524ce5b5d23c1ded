"""The log's database: its tables, and the one way in which its rows are read.

`entries` holds header, body and leaf hash of each entry; `head` the frontier and the newest checkpoint; `checkpoints`
some older ones, so that a failure can be told apart from what was good before it; `subtrees` the roots that make proofs
short; `rotations` and `predecessor` what happened to the log's key. A carried copy has `manifests`, `erasures`.
"""

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audit.entry import Entry
from audit.errors import IntegrityFailure

MILESTONE = 256
"""An older checkpoint is kept for each so many entries."""
PAGE_BYTES = 8192
"""Page of the database: three 2 KiB entries fit into one, where SQLite's usual 4 KiB hold a single one."""
BUSY_S = 60.0
"""Seconds that a writer waits for another."""

_TABLES = """
CREATE TABLE entries (sequence INTEGER PRIMARY KEY, header BLOB NOT NULL, body BLOB NOT NULL, leaf BLOB NOT NULL)
    STRICT;
CREATE TABLE head (id INTEGER PRIMARY KEY, frontier BLOB NOT NULL, note BLOB NOT NULL, key BLOB NOT NULL) STRICT;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
CREATE TABLE subtrees (level INTEGER, place INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, place))
    STRICT, WITHOUT ROWID;
CREATE TABLE rotations (size INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
CREATE TABLE predecessor (id INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
CREATE TRIGGER entries_stay BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries stay'); END;
CREATE TRIGGER entries_do_not_change BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries do not change'); END;
"""
# The triggers are a speed bump for a person with an SQL prompt, no more; the tree is what catches a change.
_READING = ("PRAGMA cell_size_check = ON", "BEGIN")
"""What a reader begins with."""


@dataclass(frozen=True)
class Head:
    """The state of the log after its last commit."""

    frontier: bytes
    """Roots of the perfect subtrees, see `merkle.Frontier`."""
    note: bytes
    """The newest checkpoint, signed."""
    key: bytes
    """The log's own public key line: never trusted, see `verify`."""


def create(path: Path, head: Head, predecessor: bytes = b"") -> None:
    """Make the database of an empty log, with the note about the log that it goes on from, if any.

    Raises:
        sqlite3.Error, OSError: the disk refuses.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.executescript(_TABLES)
        connection.execute("INSERT INTO head VALUES (0, ?, ?, ?)", (head.frontier, head.note, head.key))
        if predecessor:
            connection.execute("INSERT INTO predecessor VALUES (0, ?)", (predecessor,))
    finally:
        connection.close()


def writer(path: Path) -> sqlite3.Connection:
    """A connection that writes: WAL, every commit flushed to the disk. Raises as `reader`."""
    return _open(f"{_uri(path)}?mode=rw", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")


def reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, inside one read transaction: what it sees does not move.

    Raises:
        sqlite3.Error: the file is no database, or damaged.
        IntegrityFailure: a table is none, but a view: its rows could change between verifying and reading.
    """
    try:
        return _open(f"{_uri(path)}?mode=ro", *_READING)
    except sqlite3.OperationalError as error:
        wal = path.with_name(path.name + "-wal")
        if "open" not in str(error) or (wal.exists() and wal.stat().st_size):
            raise
    # A medium that nothing can be written to (a carried copy on a read-only stick): no lock, no shared memory.
    return _open(f"{_uri(path)}?mode=ro&immutable=1", *_READING)


def entries(connection: sqlite3.Connection) -> Iterator[tuple[int, Entry, bytes]]:
    """Sequence, entry and stored leaf hash of each row in order, one row in memory.

    Raises:
        IntegrityFailure: a row does not hold what a row must hold.
        sqlite3.Error: the database is damaged.
    """
    for row in connection.execute("SELECT sequence, header, body, leaf FROM entries ORDER BY sequence"):
        sequence, header, body, leaf = row
        if type(sequence) is not int or type(header) is not bytes or type(body) is not bytes or type(leaf) is not bytes:
            raise IntegrityFailure("a row of the log does not hold an entry")
        yield sequence, Entry(header, body), leaf


def head(connection: sqlite3.Connection) -> Head:
    """The head row. Raises IntegrityFailure where there is not exactly one, sqlite3.Error where it is damaged."""
    rows = connection.execute("SELECT frontier, note, key FROM head LIMIT 2").fetchall()
    if len(rows) != 1 or any(type(value) is not bytes for value in rows[0]):
        raise IntegrityFailure("the log's head is damaged")
    return Head(*rows[0])


def milestones(connection: sqlite3.Connection) -> Iterator[bytes]:
    """The older checkpoints in order of size. Raises IntegrityFailure, sqlite3.Error."""
    return _notes(connection, "SELECT note FROM checkpoints ORDER BY size", "an older checkpoint is damaged")


def rotations(connection: sqlite3.Connection) -> Iterator[bytes]:
    """The notes of key rotations in order. Raises IntegrityFailure, sqlite3.Error."""
    return _notes(connection, "SELECT note FROM rotations ORDER BY size", "a key rotation of the log is damaged")


def predecessor(connection: sqlite3.Connection) -> bytes:
    """The note about the log that this one goes on from; empty if none. Raises IntegrityFailure, sqlite3.Error."""
    query, damaged = "SELECT note FROM predecessor", "the note about the log's predecessor is damaged"
    return next(_notes(connection, query, damaged), b"")


def manifests(connection: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
    """Root and leaf list of each manifest that a carried copy holds. Raises IntegrityFailure, sqlite3.Error."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'manifests'").fetchone():
        return
    for root, leaves in connection.execute("SELECT root, leaves FROM manifests ORDER BY root"):
        if type(root) is not bytes or type(leaves) is not bytes:
            raise IntegrityFailure("a manifest of the carried log is damaged")
        yield root, leaves


def erasures(connection: sqlite3.Connection) -> bytes:
    """The erasure list that a carried copy holds; empty if none. Raises IntegrityFailure, sqlite3.Error."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'erasures'").fetchone():
        return b""
    return next(_notes(connection, "SELECT note FROM erasures", "the erasure list of the carried log is damaged"), b"")


def _notes(connection: sqlite3.Connection, query: str, damaged: str) -> Iterator[bytes]:
    for (note,) in connection.execute(query):
        if type(note) is not bytes:
            raise IntegrityFailure(damaged)
        yield note


def _open(uri: str, *statements: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = bytes
        for statement in ("PRAGMA trusted_schema = OFF", *statements):
            connection.execute(statement)
        kinds = connection.execute("SELECT DISTINCT type FROM pragma_table_list WHERE schema = 'main'").fetchall()
        if kinds != [(b"table",)]:
            raise IntegrityFailure("a table of the log is a view, whose rows can change from one look to the next")
    except UnicodeDecodeError as error:  # what Python makes of SQLite's message, where a name in it is no text any more
        connection.close()
        raise sqlite3.DatabaseError("malformed database schema") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _uri(path: Path) -> str:
    """The file: URI of a path, any character in it."""
    return path.absolute().as_uri()
