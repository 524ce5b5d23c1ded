"""What can go wrong, in words for the person it happened to: one root, one exit code for each kind.

Bad input never ends in a traceback; a bug does.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audit.printable import printable

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE}
"""Errors of the machine below us; not of what a person typed."""
_LONGEST = 600
"""Letters of a part of a message at most."""


class ClocheError(Exception):
    """Root of every error that Cloche raises on purpose.

    Args:
        what: one sentence that says what happened, with no data of a record in it.
        where: the place: a file, a line, a field, an entry.
        hint: the next command to type.
    """

    exit_code = 3

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def diagnostics(self) -> str:
        """The message for a person: what, where, and what to do next."""
        place = f" ({_told(self.where)})" if self.where else ""
        step = f"\n  Next: {_told(self.hint)}" if self.hint else ""
        return f"{_told(self.what)}{place}.{step}"

    def __str__(self) -> str:
        return self.diagnostics()


class BadInput(ClocheError):
    """What was given cannot be read: a broken line, an unknown field, a file of another kind."""


class Refused(ClocheError):
    """What was asked is not allowed: a wrong passphrase, an unknown purpose, a home made by a newer version."""


class IntegrityFailure(ClocheError):
    """Something that must not change has changed: the log, an object of the vault, a key file."""

    exit_code = 4


class GateFailed(ClocheError):
    """A model may not be released: accuracy, forgetting or a leak test is out of bounds."""

    exit_code = 5


class EnvironmentProblem(ClocheError):
    """The machine cannot do it: a full disk, a missing program, too little memory."""

    exit_code = 6


def _told(text: str) -> str:
    """A part of a message, harmless to look at and not too long: a file's name may be a stranger's."""
    told = printable(text)
    return told if len(told) <= _LONGEST else f"{told[: _LONGEST // 2]} ... {told[-_LONGEST // 2 :]}"


@contextmanager
def storage(where: Path | str) -> Iterator[None]:
    """Turn what SQLite and the file system raise while `where` is used into errors of ours.

    Raises:
        EnvironmentProblem: the disk is full, read-only or failing, or the database is held by another process.
        IntegrityFailure: the database file is damaged.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a bug of ours, such as the use of what was closed
    except sqlite3.OperationalError as error:
        raise _of_database(error, str(where)) from error
    except sqlite3.DatabaseError as error:
        raise IntegrityFailure(
            f"the database is damaged: {error}",
            where=str(where),
            hint="cloche audit verify says what is left; restore the last backup beside it",
        ) from error
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise EnvironmentProblem(
            f"the disk refused to write: {error.strerror}",
            where=str(error.filename or where),
            hint="free some space or repair the disk, then type the same command; nothing was half-written",
        ) from error


def _of_database(error: sqlite3.OperationalError, where: str) -> ClocheError:
    """What an OperationalError means: SQLite uses the one class for full disks, locks and broken schemas."""
    text = str(error)
    if "no such" in text or "malformed" in text or "has no column" in text:
        return IntegrityFailure(
            f"the database lacks what it must hold: {text}", where=where, hint="restore the last backup beside it"
        )
    if "locked" in text or "busy" in text:
        return EnvironmentProblem(
            "another process keeps the database locked", where=where, hint="wait until it ends, then try again"
        )
    return EnvironmentProblem(
        f"the disk refused to write: {text}",
        where=where,
        hint="free some space or repair the disk, then type the same command; nothing was half-written",
    )
