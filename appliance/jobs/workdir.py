"""A place for working weights: memory where there is room, else a declared folder of the home; wiped in any case."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audit.errors import EnvironmentProblem

SHM = Path("/dev/shm")  # noqa: S108 tmpfs on purpose: what lies there is gone with the power
PREFIX = "cloche-work-"


@contextmanager
def workdir(home: Path, needed: int) -> Iterator[Path]:
    """A private folder that is removed at the end; folders of processes that were killed are removed at the start.

    Args:
        needed: bytes that will be written.
    Raises: EnvironmentProblem where neither memory nor the home's disk has the room.
    """
    sweep(home)
    places = [p for p in (SHM, home / "work") if _room(p) > needed]
    if not places:
        raise EnvironmentProblem(
            f"working weights need {needed >> 20} MiB and there is no such room",
            where=f"{SHM}, {home / 'work'}",
            hint="free some disk space, then the same command again",
        )
    places[0].mkdir(mode=0o700, exist_ok=True)
    path, held = _made(places[0])
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def sweep(home: Path) -> None:
    """Remove the folders that no process holds any more: their owners were killed."""
    for place in (SHM, home / "work"):
        for path in place.glob(f"{PREFIX}*"):
            try:
                held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                continue  # another user's, or gone by now
            try:
                if os.fstat(held).st_uid == os.getuid() and _taken(held):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(held)


def _made(place: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds it: the kernel lets go of it when this process ends, however it ends.

    A process id would not do: it may be another process's by the time somebody looks.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        try:
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # somebody swept it away before it was held
        if _taken(held) and path.exists():
            return path, held
        os.close(held)


def _taken(folder: int) -> bool:
    """Hold a folder, if nobody else does."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _room(place: Path) -> int:
    existing = next(p for p in (place, *place.parents) if p.exists())
    return shutil.disk_usage(existing).free
