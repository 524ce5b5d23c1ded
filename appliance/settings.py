"""Where the appliance is, how its passphrase is read, and how its vault is opened."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audit.actor import Actor
    from audit.vault import Vault

DEFAULT_HOME = Path("~/.cloche")
"""The appliance of a person who named none."""
PASSPHRASE_FILE = "CLOCHE_PASSPHRASE_FILE"  # noqa: S105 the name of a variable
"""Environment variable with the path of the file that holds the passphrase; the passphrase itself is never in one."""
KEY_PASSPHRASE_FILE = "CLOCHE_KEY_PASSPHRASE_FILE"  # noqa: S105 the name of a variable
"""The same for the passphrase of an officer's private key, where it is another than the appliance's."""
WITNESS_PASSPHRASE_FILE = "CLOCHE_WITNESS_PASSPHRASE_FILE"  # noqa: S105 the name of a variable
"""The same for the passphrase of a witness's state."""
CUSTODIAN = "CLOCHE_CUSTODIAN"
"""Environment variable with the path of an installed custodian's socket; without it one is started for the command."""
LONGEST_PASSPHRASE = 1024
"""Bytes of a passphrase at most: a file past that is some other file."""


@dataclass(frozen=True)
class Settings:
    """What the options before the command's name say."""

    home: Path = DEFAULT_HOME.expanduser()
    """The appliance's directory (`--home`, CLOCHE_HOME)."""
    as_json: bool = False
    """Whether stdout is read by a program (`--json`)."""


def read_passphrase(
    whose: str = "the appliance", *, confirm: bool = False, variables: tuple[str, ...] = (PASSPHRASE_FILE,)
) -> bytes:
    """Read a passphrase from its file, or ask the person at the terminal.

    Args:
        whose: what it opens, for the question.
        confirm: ask twice, for a passphrase that is about to be set.
        variables: environment variables that may name its file; the first that is set counts.

    Raises:
        Refused: the file is readable by others, empty or too long, or there is neither file nor terminal.
    """
    named = next(filter(None, map(os.environ.get, variables)), None)
    if named:
        return _passphrase_in(Path(named))
    return _ask(whose, confirm, f"write it to a file with mode 0600 and set {variables[0]} to its path")


def read_new_passphrase(file: Path | None) -> bytes:
    """Read the passphrase that takes the place of another: from `file`, or from the terminal, twice.

    Raises:
        Refused: as `read_passphrase`.
    """
    if file is not None:
        return _passphrase_in(file)
    return _ask("the appliance, the new one", True, "write it to a file with mode 0600 and give that with --new-file")


def key_passphrase(*, confirm: bool = False) -> bytes:
    """Read the passphrase of an officer's private key. Raises as `read_passphrase`."""
    return read_passphrase("the private key", confirm=confirm, variables=(KEY_PASSPHRASE_FILE, PASSPHRASE_FILE))


def _ask(whose: str, confirm: bool, otherwise: str) -> bytes:
    """Ask the person at the terminal; `otherwise` is what to do where there is none."""
    from audit.errors import Refused

    if not sys.stdin.isatty():
        raise Refused("no passphrase: there is no terminal to ask at", where=f"passphrase of {whose}", hint=otherwise)
    from getpass import getpass

    first = getpass(f"Passphrase of {whose}: ")
    if not first:
        raise Refused("the passphrase is empty", hint="type the same command and give one")
    if confirm and getpass("The same again: ") != first:
        raise Refused("the two passphrases differ", hint="type the same command again")
    return first.encode()


def _passphrase_in(path: Path) -> bytes:
    """The first line of the passphrase file, once it is known that nobody else can read it."""
    from audit.errors import Refused

    try:
        # One descriptor for the check and the reading: the file cannot be swapped between the two.
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            content = file.read(LONGEST_PASSPHRASE + 2)
    except OSError as error:
        raise Refused(
            f"the passphrase file cannot be read: {error.strerror}",
            where=str(path),
            hint=f"set {PASSPHRASE_FILE} to a file of yours with mode 0600",
        ) from error
    if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o077:
        raise Refused(
            "the passphrase file can be read by others, or is no plain file", where=str(path), hint=f"chmod 600 {path}"
        )
    secret = content.split(b"\n", 1)[0].rstrip(b"\r")
    if not secret or len(secret) > LONGEST_PASSPHRASE:
        raise Refused(
            f"the first line of the passphrase file must have 1 to {LONGEST_PASSPHRASE} bytes",
            where=str(path),
            hint="write the passphrase alone on its first line",
        )
    return secret


@contextmanager
def open_vault(settings: Settings, role: str, *, alone: bool = False) -> Iterator[tuple["Vault", "Actor"]]:
    """Open the appliance's vault for one person and close it afterwards.

    Args:
        settings: which appliance.
        role: in which role the person acts (`steward`, `clinician`, `officer`, `operator`): every event names it.
        alone: keep other processes out, so that keys can be changed.

    Yields:
        The vault, and the actor to hand to each of its calls.

    Raises:
        Refused: there is no appliance, its passphrase is wrong, or a newer version made it.
    """
    from appliance.jobs.workdir import sweep
    from audit.actor import Actor
    from audit.home import check
    from audit.remote import RemoteVault

    check(settings.home)  # before a person is asked for the passphrase of nothing
    served = os.environ.get(CUSTODIAN)
    opened = (
        RemoteVault.connect(settings.home, Path(served))
        if served and not alone
        else RemoteVault.open(settings.home, read_passphrase(), alone=alone)
    )
    sweep(settings.home)  # weights that a killed process left lie in plain until somebody removes them
    with opened as vault:
        yield vault, Actor.current(role)
