"""The appliance's home: its description, and how a new one appears whole or not at all."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from audit.errors import EnvironmentProblem, IntegrityFailure, Refused, storage
from audit.keys import write_new

FORMAT = 1
"""Version of the home's layout; a newer one is refused."""
DESCRIPTION = "cloche.json"
"""File in the home that names format and version."""
CATALOGUE = Path("vault", "catalogue.sqlite")
"""The catalogue in the home."""
LOG, HIGH_WATER, PIN = Path("audit", "log.sqlite"), Path("audit", "high-water"), Path("keys", "log.pub")
"""The log, its high-water mark and its pinned public key in the home."""
WITNESSES, WITNESSED = Path("keys", "witness.pub"), Path("audit", "witnessed")
"""The witnesses' public keys, and the last checkpoint that one of them cosigned, in the home."""


def make(home: Path, fill: Callable[[Path], None], created: str) -> None:
    """Fill a hidden directory beside `home` and give it its name at the end.

    Raises:
        Refused: there is something at `home` already.
        EnvironmentProblem: the disk refuses. Whatever `fill` raises: nothing is left behind.
    """
    if home.exists() and not (home.is_dir() and not any(home.iterdir())):
        raise Refused("there is something here already", where=str(home), hint="name another --home, or remove it")
    made = home.with_name(f".{home.name}.{secrets.token_hex(4)}.new")
    try:
        with storage(made):
            made.mkdir(mode=0o700, parents=True)
        fill(made)
        about = {"format": FORMAT, "made_by": _version(), "created": created}
        write_new(made / DESCRIPTION, json.dumps(about, indent=2).encode() + b"\n", mode=0o644)
        with storage(home):
            for path in [*made.rglob("*"), made]:
                flush(path)
            made.rename(home)
            flush(home.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def check(home: Path) -> None:
    """See that a directory is an appliance's home that this version can open. Raises Refused, IntegrityFailure."""
    path = home / DESCRIPTION
    try:
        found = json.loads(path.read_bytes())
        made_by, number = str(found["made_by"]), int(found["format"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Refused("there is no appliance here", where=str(home), hint="make one with cloche init") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityFailure(
            "the appliance's description cannot be read", where=str(path), hint="restore it from a backup"
        ) from error
    if number > FORMAT:
        raise Refused(
            f"a newer version of Cloche ({made_by}) made this appliance: format {number}, this version knows {FORMAT}",
            where=str(path),
            hint="install that version, or a newer one",
        )


def share(home: Path) -> None:
    """Let the group of the home use it through a custodian: catalogue and sealed log, no keys and no objects.

    Raises:
        EnvironmentProblem: the home belongs to another account.
    """
    modes = {
        home: 0o750,
        home / CATALOGUE.parent: 0o2770,  # SQLite makes its -wal beside the catalogue, whoever comes first
        home / LOG.parent: 0o750,
        home / PIN.parent: 0o711,  # log.pub may be read, the others not even be listed
        **dict.fromkeys(home.glob(f"{CATALOGUE}*"), 0o660),
        **dict.fromkeys((home / LOG.parent).glob("log.sqlite*"), 0o640),
        home / HIGH_WATER: 0o640,
    }
    for path, mode in modes.items():
        try:
            path.chmod(mode)
        except OSError as error:
            raise EnvironmentProblem(
                f"the home cannot be shared: {error.strerror}", where=str(path), hint="see who owns it with ls -l"
            ) from error


def flush(path: Path) -> None:
    """Make a file, or the names in a directory, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cloche")
    except PackageNotFoundError:
        return "unknown"
