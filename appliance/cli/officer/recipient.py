"""`cloche audit recipient`: who can read the log."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from appliance.cli.lazy import Entry, LazyGroup
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

_HEADING = "Commands"
COMMANDS: dict[str, Entry] = {
    "list": Entry(
        "appliance.cli.officer.recipient:listed", _HEADING, "List who can read the log, and who has drilled."
    ),
    "add": Entry("appliance.cli.officer.recipient:add", _HEADING, "Let one more read what is logged from now on."),
    "retire": Entry("appliance.cli.officer.recipient:retire", _HEADING, "Let one read no more from now on."),
}
"""What can be done about recipients."""


@click.command(cls=LazyGroup, contents=COMMANDS)
def recipient() -> None:
    """Say who can read the log; add or retire one. The list that counts is sealed under the appliance's passphrase."""


@click.command(name="list")
@click.option(
    "--days",
    type=click.IntRange(min=1),
    default=90,
    show_default=True,
    help="Point out who has not drilled for so many days.",
)
@json_option
@click.pass_obj
def listed(settings: Settings, days: int) -> None:
    """List who can read the log, and when each has last proved to have the key (`cloche audit drill`).

    \b
    Examples:
      cloche audit recipient list
      cloche audit recipient list --days 30 --json | jq '.[] | select(.overdue).name'
    """
    with open_vault(settings, "officer") as (vault, _):
        drilled = vault.ceremonies.drilled()
        rows = [_row(one.to_dict(), drilled.get(one.key_id.hex(), ""), days) for one in vault.recipients]
    lines = [
        f"{row['name']:12}  {row['key_id']}  {row['suite']:15}  last drill: {row['last_drill'][:10] or 'never':10}"
        + ("  OVERDUE" if row["overdue"] else "")
        + (f"  {row['label']}" if row["label"] else "")
        for row in rows
    ]
    if any(row["overdue"] for row in rows):
        lines.append(f"OVERDUE: no drill for {days} days. Next: cloche audit drill challenge OUT")
    emit(settings, rows, "\n".join(lines))


def _row(found: dict[str, str], last: str, days: int) -> dict[str, Any]:
    since = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    row: dict[str, Any] = {name: found[name] for name in ("name", "key_id", "suite", "label")}
    return {**row, "last_drill": last, "overdue": last < since}


@click.command()
@click.argument("file", metavar="FILE.pub", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@click.pass_obj
def add(settings: Settings, file: Path) -> None:
    """Let one more read what is logged from now on. What was logged before stays sealed to the others.

    Compare the key id with the one that `cloche audit keygen` printed on the newcomer's machine. Nobody else may use
    the appliance meanwhile; that it was added is an event of the log.

    \b
    Examples:
      cloche audit recipient add deputy.pub
    """
    from audit.keys import Recipient

    newcomer = Recipient.load(file)
    with open_vault(settings, "officer", alone=True) as (vault, actor):
        sequence = vault.ceremonies.add_recipient(newcomer.to_dict(), actor)
    data = {"added": newcomer.name, "key_id": newcomer.key_id.hex(), "entry": sequence}
    emit(settings, data, f"added {newcomer.name}, key id {data['key_id']}: reads what comes after entry {sequence:,}")


@click.command()
@click.argument("named", metavar="NAME|KEYID")
@json_option
@click.pass_obj
def retire(settings: Settings, named: str) -> None:
    """Let one read no more of what is logged from now on. What it could read before, it still can.

    At least two must remain: add the successor first. Nobody else may use the appliance meanwhile; that it was retired
    is an event of the log.

    \b
    Examples:
      cloche audit recipient retire auditor
      cloche audit recipient retire 3f1c9a0be2d4
    """
    with open_vault(settings, "officer", alone=True) as (vault, actor):
        gone, sequence = vault.ceremonies.retire_recipient(named, actor)
    data = {"retired": gone["name"], "key_id": gone["key_id"], "entry": sequence}
    emit(settings, data, f"retired {gone['name']}, key id {gone['key_id']}: reads nothing after entry {sequence:,}")
