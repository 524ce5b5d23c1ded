"""What the officer's commands share: which log, which key it is held against, and the verdict on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.checkpoint import Checkpoint, VerifierKey
    from audit.verify import Verdict

LOG = click.argument("log", required=False, type=click.Path(path_type=Path, dir_okay=False))
PIN = click.option(
    "--key-pin",
    metavar="KEY",
    help="The log's public key, as noted when the appliance was installed: the line itself, or a file that holds it.",
)


def verdict_of(settings: Settings, log: Path | None, key_pin: str | None, witness: Path | None) -> "Verdict":
    """Verify the named log, or the appliance's with its own pin and high-water mark."""
    from audit.checkpoint import open_note
    from audit.errors import BadInput
    from audit.verify import verify as verify_log

    if log is None:
        path, high_water, pin = home_files(settings)
        key = _pinned(key_pin) if key_pin else (_pinned(str(pin)) if pin.is_file() else None)
    else:
        if not log.is_file():
            raise BadInput("there is no such log", where=str(log), hint="cloche audit verify --help")
        path, high_water, key = log, None, _pinned(key_pin) if key_pin else None
    seen: Checkpoint | None = None
    if witness is not None:
        if key is None:
            raise BadInput("a witnessed checkpoint says nothing without the log's key", hint="give it with --key-pin")
        seen = open_note(witness.read_bytes(), key)
    return verify_log(path, key, high_water, seen)


def home_files(settings: Settings) -> tuple[Path, Path, Path]:
    """Log, high-water mark and pinned key of the appliance."""
    from audit.home import HIGH_WATER, LOG, PIN, check

    check(settings.home)
    return settings.home / LOG, settings.home / HIGH_WATER, settings.home / PIN


def _pinned(named: str) -> "VerifierKey":
    """The key that a line, or a file with that line, gives."""
    from audit.checkpoint import VerifierKey
    from audit.errors import BadInput

    path = Path(named)
    try:
        text = path.read_text(encoding="ascii") if "+" not in named or path.is_file() else named
    except (OSError, ValueError) as error:
        raise BadInput("the pinned key cannot be read", where=named, hint="give keys/log.pub or its line") from error
    return VerifierKey.from_text(text, where=named)


def note_read(settings: Settings, log: Path | None, verdict: "Verdict", asked: Mapping[str, Any]) -> None:
    """Note that a log is about to be read, before anything of it is decrypted.

    Args:
        log: the carried copy that is read; None: the appliance's own log.
        verdict: of the log: its origin, and how many entries are read.
        asked: the command's name and its filters, JSON values.
    """
