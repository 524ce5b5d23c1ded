"""`cloche policy`: who may use what for which purpose."""

from pathlib import Path
from typing import Any

import click

from appliance.cli.lazy import Entry, LazyGroup
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

_HEADING = "Commands"
COMMANDS: dict[str, Entry] = {
    "show": Entry("appliance.cli.policy:show", _HEADING, "Say what the policy in force allows."),
    "check": Entry("appliance.cli.policy:check", _HEADING, "Read a policy file without putting it in force."),
    "set": Entry("appliance.cli.policy:set_", _HEADING, "Put a policy file in force; an event."),
}
"""What can be done about the policy."""
_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.command(cls=LazyGroup, contents=COMMANDS)
def policy() -> None:
    """Say, check or set the policy: roles, purposes of use, consent, retention. docs/policy.md explains it."""


@click.command()
@json_option
@click.pass_obj
def show(settings: Settings) -> None:
    """Say what the policy in force allows, rule by rule, and how many records it leaves out of research.

    \b
    Examples:
      cloche policy show
      cloche policy show --json | jq .digest
    """
    with open_vault(settings, "operator") as (vault, _):
        found = vault.policy()
        records = [one.id for one in vault.catalogue.records()]
        _, left_out = vault.permitted(records, "HRESCH")
    lines = [_text(found)]
    if left_out:
        lines.append(f"of {len(records)} records, research may not use:")
        lines += [f"  {count:6} by {rule}" for rule, count in sorted(left_out.items())]
    emit(settings, {**found, "records": len(records), "left_out_of_research": left_out}, "\n".join(lines))


@click.command()
@_FILE
@json_option
@click.pass_obj
def check(settings: Settings, file: Path) -> None:
    """Read a policy file and say what it would allow. Needs no appliance and no passphrase; changes nothing.

    \b
    Examples:
      cloche policy check policy.toml
    """
    from audit.policy import parse

    found = parse(_bytes(file), file.name).to_dict()
    emit(settings, found, _text(found))


@click.command(name="set")
@_FILE
@click.option("--dry-run", is_flag=True, help="Say what it would allow and whom it would leave out; change nothing.")
@json_option
@click.pass_obj
def set_(settings: Settings, file: Path, dry_run: bool) -> None:
    """Put a policy file in force, from the next use on. An operator's act; an event with both digests.

    \b
    Examples:
      cloche policy set policy.toml --dry-run
      cloche policy set policy.toml
    """
    from audit.policy import parse

    data = _bytes(file)
    found: dict[str, Any] = parse(data, file.name).to_dict()
    with open_vault(settings, "operator") as (vault, actor):
        if not dry_run:
            found = vault.set_policy(data, actor)
    said = f"{_text(found)}\n{'would be' if dry_run else 'is'} in force: {found['digest'][:16]}"
    emit(settings, {**found, "dry_run": dry_run}, said)


def _bytes(path: Path) -> bytes:
    """Content of a file that a person names. Raises BadInput."""
    from audit.errors import BadInput
    from audit.policy import MOST_BYTES

    try:
        if not path.is_file():
            raise BadInput("there is no such file", where=str(path), hint="docs/policy.md has one to start from")
        with open(path, "rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def _text(found: dict[str, Any]) -> str:
    """A policy for a person to read."""

    def listed(table: dict[str, list[str]]) -> list[str]:
        return [f"  {name:16} {', '.join(values) or 'nobody, nothing'}" for name, values in table.items()]

    lines = [f"policy: {found['where']}, digest {found['digest'][:16]}"]
    lines += ["roles:", *listed(found["roles"])] if found["roles"] is not None else ["roles: everybody has each"]
    lines += ["purposes:", *listed(found["purposes"])] if found["purposes"] is not None else ["purposes: any"]
    lines.append(f"consent: {'required' if found['consent_required'] else 'not required'}")
    lines += listed(found["tags"])
    lines.append(f"retention: {found['retention_days'] or 'no end, in'} days")
    for rule in found["rules"]:
        about = " and ".join(
            f"{key} {rule[key]}" for key in ("source", "consent") if rule[key]
        ) or "every record"  # fmt: skip
        uses = "" if rule["purposes"] is None else f"; only for {', '.join(rule['purposes']) or 'nothing'}"
        days = f"; for {rule['retention_days']} days" if rule["retention_days"] else ""
        lines.append(f"rule {rule['name']}: {about}{uses}{days}")
    return "\n".join(lines)
