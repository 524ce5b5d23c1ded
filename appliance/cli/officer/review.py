"""`cloche audit review`: the record that somebody examined the log, 45 CFR 164.308(a)(1)(ii)(D)."""

from typing import Any

import click

from appliance.cli.officer.filters import RANGE, SINCE, asked, filter_of
from appliance.cli.officer.reading import Source, reading, source, state_of
from appliance.cli.officer.tables import many
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

LONGEST = 500
"""Letters of a finding at most: an event holds one line of it."""


@click.command()
@source
@click.option("--by", required=True, help="Who reviewed: a name that people know.")
@click.option("--finding", required=True, help="What you found, in your words; no patient's name.")
@SINCE
@RANGE
@json_option
@click.pass_obj
def review(
    settings: Settings,
    source: Source,
    by: str,
    finding: str,
    since: str | None,
    entries: str | None,
) -> None:
    """Record that you reviewed the log: by whom, over which entries, with what finding (45 CFR 164.308(a)(1)(ii)(D)).

    The review becomes an event of the log, together with a summary computed from the entries it covers: counts by
    person and kind, failures, silences, and the verdict. Give --range or --since. Of a carried copy it waits in your
    witness's state, and the appliance takes it in at your next visit (cloche audit visit, cloche audit import).

    \b
    Examples:
      cloche audit review carried.sqlite --key auditor.key --by "G. Hopper" --finding "nothing unusual" --range 0..250
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
    if source.log is not None and state_of(source) is None:
        raise Refused(
            "a review of a carried log is kept in your witness's state until your next visit",
            where=str(source.log),
            hint="name the state with --witness",
        )
    chosen = filter_of(since=since, entries=entries)
    with reading(settings, source, asked("show", chosen)) as found:
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
        number = _record(settings, source, found.verdict.origin, detail)
        where = "as entry" if source.log is None else "for your next visit, as reading"
        told = f"review recorded {where} {number:,}: entries {first:,} to {last:,}, "
        failures = f"{many(summary.failed, 'failure')}, {many(summary.silent, 'silence')}"
        emit(settings, {"number": number, **detail}, f"{told}{many(summary.events, 'event')}, {failures}")


def _record(settings: Settings, source: Source, origin: str, detail: dict[str, Any]) -> int:
    """Commit the review as an event, or note it in the witness's state; its number there."""
    from audit.actor import Actor
    from audit.events import Event

    state = state_of(source)
    if source.log is not None and state is not None:
        return state.add_read(origin, Actor.current("officer").user, "audit review", detail)
    with open_vault(settings, "officer") as (vault, actor):
        return vault.record(Event("audit.reviewed", actor, "HOPERAT", activity="review", detail=detail))
