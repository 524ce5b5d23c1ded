"""`cloche audit show`: the events of the log, for who holds a recipient's private key."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.officer.filters import asked, filter_of, filter_options
from appliance.cli.officer.reading import Source, reading, source
from appliance.cli.officer.tables import few, minute, table
from appliance.cli.output import emit, json_option
from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.reading import Logged


@click.command()
@source
@filter_options
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N of them.")
@click.option("--fhir", is_flag=True, help="Print a FHIR R4 Bundle of AuditEvents.")
@json_option
@click.pass_obj
def show(
    settings: Settings,
    /,
    source: Source,
    last: int | None,
    fhir: bool,
    **filters: Any,
) -> None:
    """Decrypt the log's events and list them. The passphrase is the private key's.

    The log is verified first; of one that was changed, the events before the change are shown, and the exit code is 4.
    Every filter narrows further. Times are the appliance's own, in UTC; the order is the log's.

    \b
    Examples:
      cloche audit show --key auditor.key
      cloche audit show carried.sqlite --key auditor.key --since 7d --actor ada --outcome failed
      cloche audit show carried.sqlite --key auditor.key --patient P-7Q2MZKX3RA --json
      cloche audit show carried.sqlite --key auditor.key --kind run --action E --range 100..250
    """
    from collections import deque

    from audit.questions import select

    chosen = filter_of(**filters)
    with reading(settings, source, asked("show", chosen)) as found:
        events = deque(select(found.events(), chosen), maxlen=last)
        _print_events(settings, events, found.verdict.origin if fhir else None)


def _print_events(settings: Settings, events: "Iterable[Logged]", fhir_of: str | None) -> None:
    """Events as a table, as JSON, or, where a log's name is given, as a FHIR bundle of that log."""
    if fhir_of is not None:
        from audit.fhir import bundle

        for piece in bundle(events, fhir_of):
            click.echo(piece, nl=False)
        return
    found = [(logged.sequence, logged.event) for logged in events if logged.event is not None]
    if settings.as_json:
        emit(settings, [{"sequence": sequence, **event.to_dict()} for sequence, event in found], "")
        return
    rows = [
        (
            f"{sequence:,}",
            minute(event.at, seconds=True),
            f"{event.actor.user} ({event.actor.role})",
            event.kind if event.outcome == "success" else f"{event.kind} ({event.outcome})",
            event.purpose,
            few(event.patients),
            str(len(event.objects) or ""),
            event.activity,
        )
        for sequence, event in found
    ]
    table(("#entry", "when (UTC)", "who", "what", "purpose", "patients", "#objects", "part of"), rows)
