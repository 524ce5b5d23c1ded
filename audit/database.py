"""SQLite for the vault's own tables: durable connections and numbered migrations."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from audit.errors import Refused, storage


def connect(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open (or make) a database and bring it up to the newest of its numbered migrations.

    Args:
        path: the file; made with mode 0600 where there is none.
        migrations: SQL scripts; number i of the database is `migrations[i - 1]`. Never edit one that was released.

    Raises:
        Refused: a newer version of Cloche has made the database.
        EnvironmentProblem, IntegrityFailure: see `errors.storage`.
    """
    with storage(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            _migrate(connection, path, migrations)
        except BaseException:
            connection.close()
            raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Run the migrations that the database has not seen. Raises Refused where it has seen more than there are."""
    if _version(connection) == len(migrations):
        return
    with transaction(connection):
        version = _version(connection)  # again: another process may have migrated while we waited for the lock
        if version > len(migrations):
            raise Refused(
                f"a newer version of Cloche made this database: number {version}, this one knows {len(migrations)}",
                where=str(path),
                hint="install that version, or a newer one",
            )
        for script in migrations[version:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of a block, durable at its end, or nothing of it. Blocks within a block join it."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
