"""`cloche audit export`: the events as a file for an archive, a spreadsheet or a program."""

from pathlib import Path
from typing import Any

import click

from appliance.cli.officer.filters import asked, filter_of, filter_options
from appliance.cli.officer.reading import Source, outside, reading, source
from appliance.cli.officer.tables import many
from appliance.cli.output import emit, json_option
from appliance.settings import Settings


@click.command()
@source
@click.option("--fhir", "form", flag_value="fhir", help="One FHIR R4 Bundle of AuditEvents.")
@click.option("--csv", "form", flag_value="csv", help="CSV for a spreadsheet; no cell of it is a formula.")
@click.option("--jsonl", "form", flag_value="jsonl", help="JSON, one event a line.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, for you alone (mode 0600); nothing is overwritten.",
)
@filter_options
@json_option
@click.pass_obj
def export(
    settings: Settings,
    /,
    source: Source,
    form: str | None,
    out: Path,
    **filters: Any,
) -> None:
    """Write the events to a file: FHIR for an archive, CSV for a spreadsheet, JSON lines for a program.

    The file appears whole or not at all. Its SHA-256 and the verdict on the log are printed: keep them with it. Of a
    log that was changed, the events before the change are written, and the exit code is 4.

    \b
    Examples:
      cloche audit export carried.sqlite --key auditor.key --csv --out events.csv
      cloche audit export carried.sqlite --key auditor.key --fhir --out march.json --since 2026-03-01 --until 2026-03-31
      cloche audit export --key auditor.key --jsonl --out ~/events.jsonl --patient P-7Q2MZKX3RA
    """
    from audit.export import write
    from audit.newfile import new_file
    from audit.questions import select

    if form is None:
        raise click.UsageError("say in which format: --fhir, --csv or --jsonl")
    chosen = filter_of(**filters)
    outside(settings, out)
    question = asked("export", chosen) | {"format": form}
    with reading(settings, source, question) as found:
        with new_file(out) as file:
            written = write(form, select(found.events(), chosen), found.verdict.origin, file)
        told = {
            "file": str(out),
            "format": form,
            "events": written.events,
            "sha256": written.sha256,
            "verdict": found.verdict.to_dict(),
        }
        emit(settings, told, f"{out}: {many(written.events, 'event')}\nSHA-256 {written.sha256}")
