"""`cloche audit verify`: whether the log is what it was."""

import re
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.officer.common import LOG, PIN, verdict_of
from appliance.cli.output import emit, json_option
from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.verify import Verdict

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
"""Seconds of each unit of an age."""
SLACK_S = 300
"""Seconds by which two machines' clocks may differ."""


def age(text: str) -> int:
    """Seconds of a length of time as it is typed."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no age such as 12h, 7d or 4w")
    return int(found[1]) * UNITS_S[found[2]]


@click.command()
@LOG
@PIN
@click.option(
    "--witness",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Your witness's state, or a checkpoint of this log that was kept elsewhere, cosigned or not. A state knows "
    "the log's key, too.",
)
@click.option(
    "--witness-key",
    metavar="KEY",
    help="The public key of the witness whose cosignature counts; a witness's state and the appliance know it.",
)
@click.option(
    "--require-witness",
    "allowed_s",
    type=age,
    metavar="AGE",
    help="Exit 5 unless a witness has cosigned within AGE: 12h, 7d, 4w.",
)
@json_option
@click.pass_obj
def verify(
    settings: Settings,
    log: Path | None,
    key_pin: str | None,
    witness: Path | None,
    witness_key: str | None,
    allowed_s: int | None,
) -> None:
    """Verify every entry of the log with its public key alone. Exit code 0: intact; 4: it was changed.

    LOG is a carried copy; without it, the log of the appliance, held against its high-water mark and the cosigned
    checkpoint that was last imported.

    \b
    Examples:
      cloche audit verify
      cloche audit verify carried.sqlite --witness witness.json --require-witness 7d
      cloche audit verify carried.sqlite --key-pin log.pub --witness last-visit.checkpoint
      cloche audit verify --json | jq .size
    """
    verdict = verdict_of(settings, log, key_pin, witness, witness_key)
    emit(settings, verdict.to_dict(), verdict.sentence)
    if verdict.state != "intact":
        raise click.exceptions.Exit(4)
    if allowed_s is not None:
        _require_witness(verdict, allowed_s)


def _require_witness(verdict: "Verdict", allowed_s: int) -> None:
    """Raises GateFailed unless the log was cosigned no longer ago than allowed."""
    from audit.errors import GateFailed

    hint = "cloche audit checkpoint --out DIR on the appliance, then cloche audit witness on the officer's machine"
    if not verdict.witnessed_at:
        raise GateFailed("no witness's cosignature was verified for this log", hint=hint)
    try:
        age_s = time.time() - datetime.fromisoformat(verdict.witnessed_at).timestamp()
    except ValueError:
        age_s = float("-inf")
    if age_s < -SLACK_S:
        raise GateFailed(
            "the newest cosignature lies in the future", where=verdict.witnessed_at, hint="set the clocks right"
        )
    if age_s > allowed_s:
        raise GateFailed(
            f"the newest cosignature is {age_s / UNITS_S['d']:.1f} days old, {allowed_s / UNITS_S['d']:.1f} are "
            "allowed",
            where=verdict.witnessed_at,
            hint=hint,
        )
