"""A new file that appears whole, private, and over nothing that was there."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from audit.errors import BadInput, Refused, storage


@contextmanager
def new_file(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Write a file under another name beside it, and give it its own at the end; an exception leaves nothing behind.

    Raises:
        Refused: there is something at `path` already.
        BadInput: there is no such directory.
        EnvironmentProblem: the disk refuses.
    """
    if not path.parent.is_dir():
        raise BadInput("there is no such directory", where=str(path.parent), hint=f"mkdir -p {path.parent}")
    _refuse_over(path)
    part = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.part")
    with storage(path):
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _publish(part, path)
        finally:
            part.unlink(missing_ok=True)


def _publish(part: Path, path: Path) -> None:
    """Give the finished file its name; unlike a rename, a link never replaces what came in between."""
    try:
        os.link(part, path)
    except FileExistsError:
        _refuse_over(path)
        raise
    except OSError:  # a stick without hard links (FAT)
        _refuse_over(path)
        part.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _refuse_over(path: Path) -> None:
    if os.path.lexists(path):
        raise Refused("the file exists already", where=str(path), hint="name another, or move it away")
