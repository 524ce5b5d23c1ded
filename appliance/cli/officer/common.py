"""What the officer's commands share: which log, which key it is held against, and the verdict on it."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.checkpoint import VerifierKey
    from audit.verify import Verdict

WITNESS_STATE = "CLOCHE_WITNESS"
"""Environment variable with the path of the officer's witness state."""
Key = TypeVar("Key", bound="VerifierKey")

LOG = click.argument("log", required=False, type=click.Path(path_type=Path, dir_okay=False))
PIN = click.option(
    "--key-pin",
    metavar="KEY",
    help="The log's public key, as noted when the appliance was installed: the line itself, or a file that holds it.",
)


def verdict_of(
    settings: Settings, log: Path | None, key_pin: str | None, witness: Path | None, witness_key: str | None = None
) -> "Verdict":
    """Verify the named log, or the appliance's with its own pin and high-water mark.

    Args:
        settings: which appliance.
        log: a carried copy; None for the appliance's own log.
        key_pin: the log's public key: its line, or a file that holds it.
        witness: what the log is held against: a witness's state, or a checkpoint of it, cosigned or not.
        witness_key: the key of a witness whose cosignature counts; an appliance knows its own witnesses.
    """
    from audit.checkpoint import VerifierKey
    from audit.cosignature import WitnessKey
    from audit.errors import BadInput
    from audit.home import WITNESSED
    from audit.verify import verify as verify_log

    known = [key_of(WitnessKey, witness_key)] if witness_key else []
    key = key_of(VerifierKey, key_pin) if key_pin else None
    high_water = None
    if log is None:
        path, high_water, pin = home_files(settings)
        if key is None and pin.is_file():
            key = key_of(VerifierKey, str(pin))
        if witness is not None or (settings.home / WITNESSED).is_file():
            from audit.witnessed import last_cosigned, witnesses

            known += witnesses(settings.home)
            if witness is None and key is not None and last_cosigned(settings.home, key.name):
                witness = settings.home / WITNESSED
    elif log.is_file():
        path = log
    else:
        raise BadInput("there is no such log", where=str(log), hint="cloche audit verify --help")
    if witness is None:
        return verify_log(path, key, high_water)
    from audit.anchor import read
    from audit.watched import utc

    anchor = read(witness, path, key, known)
    verdict = verify_log(path, anchor.key, high_water, anchor.checkpoint)
    if verdict.witnessed_to and anchor.cosigned_at is not None:
        return replace(verdict, witnessed_at=utc(anchor.cosigned_at))
    return verdict


def home_files(settings: Settings) -> tuple[Path, Path, Path]:
    """Log, high-water mark and pinned key of the appliance."""
    from audit.home import HIGH_WATER, LOG, PIN, check

    check(settings.home)
    return settings.home / LOG, settings.home / HIGH_WATER, settings.home / PIN


def key_of(kind: type["Key"], named: str) -> "Key":
    """The key, of a log or of a witness, that a line, or a file with that line, gives. Raises BadInput."""
    from audit.errors import BadInput

    path = Path(named)
    try:
        text = path.read_text(encoding="ascii") if "+" not in named or path.is_file() else named
    except (OSError, ValueError) as error:
        raise BadInput(
            "the public key cannot be read", where=named, hint=f"give its line, or {kind.found_in}"
        ) from error
    return kind.from_text(text, where=named)
