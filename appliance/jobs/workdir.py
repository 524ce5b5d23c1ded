"""A place for working weights: memory where there is room, else a declared folder of the home; wiped in any case."""

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
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=places[0]))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep(home: Path) -> None:
    """Remove the folders of processes that are no more."""
    for place in (SHM, home / "work"):
        for path in place.glob(f"{PREFIX}*"):
            owner = path.name.removeprefix(PREFIX).split("-")[0]
            if path.stat().st_uid == os.getuid() and not Path("/proc", owner).exists():
                shutil.rmtree(path, ignore_errors=True)


def _room(place: Path) -> int:
    existing = next(p for p in (place, *place.parents) if p.exists())
    return shutil.disk_usage(existing).free
