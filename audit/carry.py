"""`audit carry`: the log as one plain file that can lie on a stick, be read without a write, and be verified there."""

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from audit import store
from audit.errors import BadInput, Refused, storage
from audit.home import flush
from audit.manifest import from_bytes, root_of

_MANIFESTS = "CREATE TABLE IF NOT EXISTS manifests (root BLOB PRIMARY KEY, leaves BLOB NOT NULL) STRICT, WITHOUT ROWID"


def carry(log_path: Path, out: Path, manifests: Iterable[bytes] = (), erasures: bytes = b"") -> None:
    """Write the log as it stands, with its checkpoints, to one file that needs no -wal beside it.

    It appears whole or not at all, mode 0600; a writer may go on meanwhile.

    Args:
        log_path: the log's database.
        out: a file that does not exist yet.
        manifests: leaf lists of data sets (`manifest.to_bytes`), so that presence and absence can be proved from it.
        erasures: the erasure list (`audit/erasures`), if anybody was forgotten.

    Raises:
        Refused: `out` exists.
        BadInput: there is no log, its folder does not exist, or a manifest is out of order.
        EnvironmentProblem: the disk refuses. IntegrityFailure: the log's file is damaged.
    """
    if out.exists() or out.is_symlink():
        raise Refused("the file exists already", where=str(out), hint="name another, or move it away")
    if not log_path.is_file() or not out.absolute().parent.is_dir():
        raise BadInput("there is no such log, or no such directory", where=f"{log_path}, {out}")
    made = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        with storage(out):
            made.unlink(missing_ok=True)
            os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # VACUUM fills an empty file
            copy_log(log_path, made)
            _add(made, manifests, erasures)
            _publish(made, out)
    finally:
        made.unlink(missing_ok=True)


def copy_log(log_path: Path, made: Path) -> None:
    """Write the log as it stands to a file that needs no -wal; a writer may go on meanwhile. Raises sqlite3.Error."""
    connection = store.reader(log_path)
    try:
        connection.execute("COMMIT")  # VACUUM takes a snapshot of its own
        connection.execute("VACUUM INTO ?", (str(made),))
    finally:
        connection.close()


def _add(made: Path, manifests: Iterable[bytes], erasures: bytes) -> None:
    connection = sqlite3.connect(made, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # the file has no name yet: nothing can be half-written
        connection.execute("BEGIN")
        connection.execute(_MANIFESTS)
        rows = ((root_of(from_bytes(leaves)), leaves) for leaves in manifests)
        if erasures:
            connection.execute("CREATE TABLE erasures (id INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT")
            connection.execute("INSERT INTO erasures VALUES (0, ?)", (erasures,))
        connection.executemany("INSERT OR IGNORE INTO manifests VALUES (?, ?)", rows)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _publish(made: Path, out: Path) -> None:
    flush(made)
    made.rename(out)  # a stick's file system knows no link
    flush(out.parent)
