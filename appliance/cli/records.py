"""`cloche records`: what came in, and what a person enters about it later: consent, and who is one patient."""

from datetime import UTC, datetime
from typing import Any

import click

from appliance.cli.lazy import Entry, LazyGroup
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

_HEADING = "Commands"
COMMANDS: dict[str, Entry] = {
    "consent": Entry("appliance.cli.records:consent", _HEADING, "Enter, change or withdraw consent for records."),
    "check": Entry("appliance.cli.scrub:check", _HEADING, "Check every object of the vault, file by file."),
    "link": Entry("appliance.cli.records:link", _HEADING, "Make two identities one patient, or undo that."),
}
"""What can be done about records."""
_NEVER = "never"


@click.group(cls=LazyGroup, contents=COMMANDS, invoke_without_command=True)
@json_option
@click.pass_context
def records(ctx: click.Context) -> None:
    """List the records that the vault holds: pseudonyms, parts, consent, dates; no contents.

    \b
    Examples:
      cloche records
      cloche records --json | jq length
    """
    if ctx.invoked_subcommand is not None:
        return
    settings: Settings = ctx.obj
    with open_vault(settings, "steward") as (vault, _):
        linked = {name for row in vault.catalogue.select("SELECT one, other FROM links") for name in row}
        rows = [
            {
                "id": r.id,
                "patient": r.patient,
                "split": r.split,
                "created": r.created,
                "consent": r.consent,
                "expires": r.expires,
                "source": r.source,
                "identities": vault.catalogue.identities(r.patient) if r.patient in linked else (r.patient,),
            }
            for r in vault.catalogue.records()
        ]
    emit(settings, rows, "\n".join(map(_line, rows)) or "no records; next: cloche ingest SOURCE")


def _line(row: dict[str, Any]) -> str:
    until = f" until {row['expires']}" if row["expires"] else ""
    if until and row["expires"] < datetime.now(UTC).date().isoformat():
        until = f" EXPIRED {row['expires']}"
    linked = f"  is also {', '.join(set(row['identities']) - {row['patient']})}" if len(row["identities"]) > 1 else ""
    consent = f"{row['consent'] or '-'}{until}"
    return f"{row['id']}  {row['patient']}  {row['split']:8}  {row['created']}  {consent:32}  {row['source']}{linked}"


@click.command()
@click.argument("record_ids", nargs=-1, required=True, metavar="REC...")
@click.option("--tag", "tags", multiple=True, help="Consent tag of the policy; several together replace those before.")
@click.option("--expires", metavar="DATE", help=f"Last day on which it holds, as 2031-12-31, or {_NEVER}.")
@click.option("--withdraw", is_flag=True, help="The patient said no: the records may not be used for anything.")
@click.option("--patient", is_flag=True, help="REC are patients (pseudonyms): all records of all their identities.")
@click.option("--dry-run", is_flag=True, help="Say which records it would be, and do nothing.")
@json_option
@click.pass_obj
def consent(
    settings: Settings,
    record_ids: tuple[str, ...],
    tags: tuple[str, ...],
    expires: str | None,
    withdraw: bool,
    patient: bool,
    dry_run: bool,
) -> None:
    """Enter, change or withdraw consent for records; it is an event, and counts from the next use on.

    Models that learned from a record before its consent was withdrawn keep what they learned: `cloche forget` lists
    them. Tags are those that the policy names under [consent.tags].

    \b
    Examples:
      cloche records consent rec-x2k9m3p7qa --tag broad-research --expires 2031-12-31
      cloche records consent P-ABCDEFGHIJ --patient --withdraw --dry-run
    """
    if not (tags or withdraw or expires is not None):
        raise click.UsageError("say --tag, --expires or --withdraw")
    if tags and withdraw:
        raise click.UsageError("--withdraw and --tag exclude each other")
    with open_vault(settings, "steward") as (vault, actor):
        found = (
            _of_patients(vault.catalogue, record_ids) if patient else [vault.catalogue.record(r) for r in record_ids]
        )
        said: dict[str, Any] = {"tags": list(tags) or None, "withdraw": withdraw}
        said["expires"] = "" if expires == _NEVER else expires
        if not dry_run:
            vault.set_consent([one.id for one in found], actor, **said)
    ids = [one.id for one in found]
    does = "would be" if dry_run else "is"
    emit(
        settings,
        {"records": ids, "dry_run": dry_run},
        "\n".join(ids) + f"\nconsent {does} entered for {len(ids)} records; what uses them next is held to it",
    )


def _of_patients(catalogue: Any, patients: tuple[str, ...]) -> list[Any]:
    """The records of all identities of some patients. Raises BadInput where one has none."""
    from audit.errors import BadInput

    found = []
    for patient in patients:
        held = [record for name in catalogue.identities(patient) for record in catalogue.records(patient=name)]
        if not held:
            raise BadInput("the vault holds no record of a patient of this name", hint="cloche records")
        found += held
    return list({record.id: record for record in found}.values())


@click.command()
@click.argument("one", metavar="PATIENT")
@click.argument("other", metavar="PATIENT")
@click.option("--undo", is_flag=True, help="They are two people after all. An officer's act; the log keeps both.")
@click.option("--dry-run", is_flag=True, help="Say what would be one, and do nothing.")
@json_option
@click.pass_obj
def link(settings: Settings, one: str, other: str, undo: bool, dry_run: bool) -> None:
    """Make two identities one patient: `audit patient`, `audit absent` and `forget` then see both as one.

    PATIENT is a pseudonym; `-` asks for the hospital's number. Objects stay under their own keys, and data sets that
    were frozen keep their marks. If the two stand in different splits, figures measured so far saw one person on both
    sides: evaluate again.

    \b
    Examples:
      cloche records link P-ABCDEFGHIJ P-KLMNOPQRST --dry-run
      cloche records link P-ABCDEFGHIJ -
      cloche records link P-ABCDEFGHIJ P-KLMNOPQRST --undo
    """
    from audit.consent import splits

    with open_vault(settings, "officer" if undo else "steward") as (vault, actor):
        pair = [vault.pseudonym(_number()) if name == "-" else name for name in (one, other)]
        for name in pair:
            _of_patients(vault.catalogue, (name,))
        if not dry_run:
            same: tuple[str, ...] = vault.link(pair[0], pair[1], actor, undo=undo)
        elif undo:
            same = vault.catalogue.identities(pair[0])
        else:
            same = tuple(sorted({*vault.catalogue.identities(pair[0]), *vault.catalogue.identities(pair[1])}))
        sides = splits(vault, same)
    verb = "are" if not dry_run else "would be parted" if undo else "would be"
    lines = [f"{', '.join(same)} {verb}{' one patient' if not undo or not dry_run else ''}"]
    if len(sides) > 1 and not undo:
        lines.append("WARNING: their records stand in different splits; figures measured so far saw one person on both")
    emit(settings, {"identities": same, "splits": sides, "undo": undo, "dry_run": dry_run}, "\n".join(lines))


def _number() -> str:
    """The hospital's number, from the terminal or from standard input; never from the command line."""
    import sys
    from getpass import getpass

    return getpass("Hospital's patient number: ") if sys.stdin.isatty() else sys.stdin.readline().strip()
