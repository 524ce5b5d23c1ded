"""`cloche audit disclosures`: the accounting that a person may ask for under 45 CFR 164.528."""

from dataclasses import asdict, astuple
from datetime import UTC, datetime

import click

from appliance.cli.officer.reading import Source, reading, source
from appliance.cli.officer.tables import say, table
from appliance.cli.output import emit, json_option
from appliance.settings import Settings

_COLUMNS = ("date", "recipient", "address", "description", "purpose", "#entry")


@click.command()
@click.argument("patient")
@source
@click.option("--years", type=click.IntRange(min=1), default=6, show_default=True, help="How far back.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@click.pass_obj
def disclosures(
    settings: Settings,
    patient: str,
    source: Source,
    years: int,
    as_csv: bool,
) -> None:
    """Account for what left the appliance about one patient: the columns of 45 CFR 164.528(b)(2), six years back.

    These events count: disclosure.made, where it names the patient or a record or object of the patient's; and
    model.exported, where the patient's data is in the model's ancestry (a model is no record; it is listed so that a
    person decides). Copies of the log for the officer, and reading it, are no disclosures and are not listed.
    Disclosures for treatment, payment and operations need not be accounted for (164.528(a)(1)(i)); they are listed
    with their purpose. Cloche knows only what left through it. PATIENT is the appliance's pseudonym.

    \b
    Examples:
      cloche audit disclosures P-7Q2MZKX3RA --key auditor.key
      cloche audit disclosures P-7Q2MZKX3RA carried.sqlite --key auditor.key --csv > accounting.csv
      cloche audit disclosures P-7Q2MZKX3RA carried.sqlite --key auditor.key --years 1 --json
    """
    from audit.disclosures import disclosures as account
    from audit.export import csv_line
    from audit.moments import years_before
    from audit.subject import identities

    since = years_before(datetime.now(UTC), years)
    asked = {"command": "disclosures", "patient": patient, "years": years}
    with reading(settings, source, asked) as found:
        lines = list(account(found.events(), identities(found.events(), patient), since))
        if settings.as_json:
            emit(settings, [asdict(line) for line in lines], "")
            return
        rows = [tuple(map(str, astuple(line))) for line in lines]
        if as_csv:
            header = [column.removeprefix("#") for column in _COLUMNS]
            click.echo("".join(csv_line(row) for row in (header, *rows)), nl=False)
        elif rows:
            table(_COLUMNS, rows)
        else:
            say(f"There is no disclosure about {patient} in this log since {since:%Y-%m-%d}.")
