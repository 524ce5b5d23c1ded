"""SQLite for the vault's own tables: durable connections and numbered migrations.

Migrations are written with sqlite-utils. It takes 0.2 s to import, so only a process that has one to run imports it.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import Refused, storage

if TYPE_CHECKING:
    from sqlite_utils import Database

Migration = Callable[["Database"], None]
"""Brings a database from the number before its own to its own. Never edit one that was released."""


def connect(path: Path, migrations: Sequence[Migration]) -> sqlite3.Connection:
    """Open (or make) a database and bring it up to the newest of its numbered migrations.

    Args:
        path: the file; made with mode 0600 where there is none.
        migrations: in order; number i of the database is `migrations[i - 1]`.

    Raises:
        Refused: a newer version of Cloche has made the database.
        EnvironmentProblem, IntegrityFailure: see `errors.storage`.
    """
    with storage(path):
        with suppress(FileExistsError):
            # Only where there is none: closing a file that is there drops every lock that this process has on it, and
            # with them those of a connection that is open already, under which others would then reset the WAL.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
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


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
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
        from sqlite_utils import Database

        tables = Database(connection, execute_plugins=False, strict=True)
        for migrate in migrations[version:]:
            migrate(tables)
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
