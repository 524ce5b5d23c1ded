"""`cloche audit show`: the events of the log, for who holds a recipient's private key."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.officer.common import LOG, PIN, home_files, verdict_of
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, read_passphrase

if TYPE_CHECKING:
    from audit.reading import Logged


@click.command()
@LOG
@PIN
@click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your private key file, NAME.key.",
)
@click.option("--kind", help="Only events of this kind, such as object.used.")
@click.option("--patient", help="Only events about this patient (the appliance's pseudonym).")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N of them.")
@click.option("--fhir", is_flag=True, help="Print a FHIR R4 Bundle of AuditEvents.")
@json_option
@click.pass_obj
def show(
    settings: Settings,
    log: Path | None,
    key_pin: str | None,
    key_file: Path,
    kind: str | None,
    patient: str | None,
    last: int | None,
    fhir: bool,
) -> None:
    """Decrypt the log's events and list them. The passphrase is the private key's.

    The log is verified first; of one that was changed, the events before the change are shown, and the exit code is 4.

    \b
    Examples:
      cloche audit show --key auditor.key
      cloche audit show carried.sqlite --key auditor.key --patient P-7Q2MZKX3RA --json
    """
    from collections import deque

    from audit.errors import IntegrityFailure, Refused
    from audit.keys import KeyPair
    from audit.reading import read

    path = log or home_files(settings)[0]
    pair = KeyPair.load(key_file, read_passphrase())
    verdict = verdict_of(settings, log, key_pin, None)
    events: deque[Logged] = deque(maxlen=last)
    sealed = total = 0
    for logged in read(path, pair, verdict.size) if verdict.size else ():
        total += 1
        if logged.event is None:
            sealed += 1
        elif (kind is None or logged.event.kind == kind) and (patient is None or patient in logged.event.patients):
            events.append(logged)
    if total and sealed == total:
        raise Refused("nothing in this log is sealed to this key", where=str(key_file), hint="take the auditor's key")
    _print_events(settings, events, verdict.origin if fhir else None)
    if sealed:
        click.echo(f"{sealed:,} of {total:,} events are sealed to other keys.", err=True)
    if verdict.state != "intact":
        raise IntegrityFailure(verdict.sentence, where=str(path), hint="keep the disk as it is, and ask for help")
    click.echo(verdict.sentence, err=True)


def _print_events(settings: Settings, events: Iterable[Any], fhir_of: str | None) -> None:
    """Events as a table, as JSON, or, where a log's name is given, as a FHIR bundle of that log."""
    if fhir_of is not None:
        from audit.fhir import bundle

        for piece in bundle(events, fhir_of):
            click.echo(piece, nl=False)
        return
    if settings.as_json:
        emit(settings, [{"sequence": one.sequence, **one.event.to_dict()} for one in events], "")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("entry", "when (UTC)", "who", "what", "purpose", "patients", "objects", "part of"):
        table.add_column(column, justify="right" if column == "entry" else "left", no_wrap=column != "patients")
    for logged in events:
        event = logged.event
        cells = (
            f"{logged.sequence:,}",
            event.at[:19].replace("T", " "),
            f"{event.actor.user} ({event.actor.role})",
            event.kind if event.outcome == "success" else f"{event.kind} ({event.outcome})",
            event.purpose,
            _few(event.patients),
            str(len(event.objects) or ""),
            event.activity,
        )
        table.add_row(*(Text(cell) for cell in cells))  # Text: what the log says is never taken for markup
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _few(names: tuple[str, ...]) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
