"""`cloche audit verify`: whether the log is what it was."""

from pathlib import Path

import click

from appliance.cli.officer.common import LOG, PIN, verdict_of
from appliance.cli.output import emit, json_option
from appliance.settings import Settings


@click.command()
@LOG
@PIN
@click.option(
    "--witness",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A checkpoint of this log that you noted earlier and kept elsewhere.",
)
@json_option
@click.pass_obj
def verify(settings: Settings, log: Path | None, key_pin: str | None, witness: Path | None) -> None:
    """Verify every entry of the log with its public key alone. Exit code 0: intact; 4: it was changed.

    LOG is a carried copy; without it, the log of the appliance.

    \b
    Examples:
      cloche audit verify
      cloche audit verify carried.sqlite --key-pin log.pub --witness last-visit.checkpoint
      cloche audit verify --json | jq .size
    """
    verdict = verdict_of(settings, log, key_pin, witness)
    emit(settings, verdict.to_dict(), verdict.sentence)
    if verdict.state != "intact":
        raise click.exceptions.Exit(4)
