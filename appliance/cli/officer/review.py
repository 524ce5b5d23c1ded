"""`cloche audit review`: the record that somebody examined the log, 45 CFR 164.308(a)(1)(ii)(D)."""

from pathlib import Path
from typing import Any

import click

from appliance.cli.officer.common import LOG, PIN
from appliance.cli.officer.filters import RANGE, SINCE, asked, filter_of
from appliance.cli.officer.reading import KEY, reading
from appliance.cli.officer.tables import many
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

LONGEST = 500
"""Letters of a finding at most: an event holds one line of it."""


@click.command()
@LOG
@PIN
@KEY
@click.option("--by", required=True, help="Who reviewed: a name that people know.")
@click.option("--finding", required=True, help="What you found, in your words; no patient's name.")
@SINCE
@RANGE
@json_option
@click.pass_obj
def review(
    settings: Settings,
    log: Path | None,
    key_pin: str | None,
    key_file: Path,
    by: str,
    finding: str,
    since: str | None,
    entries: str | None,
) -> None:
    """Record that you reviewed the log: by whom, over which entries, with what finding (45 CFR 164.308(a)(1)(ii)(D)).

    The review becomes an event of the log, together with a summary computed from the entries it covers: counts by
    person and kind, failures, silences, and the verdict. Give --range or --since. It needs two passphrases: your
    key's (CLOCHE_KEY_PASSPHRASE_FILE, or asked for) and the appliance's (CLOCHE_PASSPHRASE_FILE, or asked for).

    \b
    Examples:
      cloche audit review --key auditor.key --by "G. Hopper" --finding "nothing unusual" --since 7d
      cloche audit review --key auditor.key --by "G. Hopper" --finding "two refusals, explained" --range 100..250
    """
    from audit.errors import BadInput, IntegrityFailure, Refused
    from audit.questions import select
    from audit.summary import counts, summarise

    if not (since or entries):
        raise click.UsageError("say what was reviewed: --range A..B or --since TIME")
    for name, text, most in (("--by", by, 200), ("--finding", finding, LONGEST)):
        if not text.strip() or len(text) > most or not text.isprintable():
            raise BadInput(
                f"this is not one line of up to {most} letters", where=name, hint="cloche audit review --help"
            )
    if log is not None:
        raise Refused(
            "a review is recorded in the appliance's own log", where=str(log), hint="type it there, without the copy"
        )
    chosen = filter_of(since=since, entries=entries)
    with reading(settings, log, key_pin, key_file, asked("review", chosen)) as found:
        if found.verdict.state != "intact":
            raise IntegrityFailure(
                f"a log that was changed is not reviewed: {found.verdict.sentence}",
                where=str(found.path),
                hint="keep the disk as it is, and ask for help",
            )
        summary = summarise(select(found.events(), chosen))
        if summary.first_entry is None or summary.last_entry is None:
            raise BadInput("there is no event in this range", where=entries or since or "", hint="cloche audit show")
        first, last = summary.first_entry, summary.last_entry
        detail = {"by": by, "findings": finding, "from": first, "until": last + 1, "verdict": found.verdict.sentence}
        detail["summary"] = counts(summary)
        sequence = _record(settings, detail)
        told = f"review recorded as entry {sequence:,}: entries {first:,} to {last:,}, "
        failures = f"{many(summary.failed, 'failure')}, {many(summary.silent, 'silence')}"
        emit(settings, {"sequence": sequence, **detail}, f"{told}{many(summary.events, 'event')}, {failures}")


def _record(settings: Settings, detail: dict[str, Any]) -> int:
    """Commit the review as an event of the appliance's log; its sequence."""
    from audit.events import Event

    with open_vault(settings, "officer") as (vault, actor):
        return vault.record(Event("audit.reviewed", actor, "HOPERAT", activity="review", detail=detail))
