"""`cloche audit new-origin`: a new log after the old one's key was lost or stolen, or a backup was restored."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, read_passphrase

if TYPE_CHECKING:
    from audit.restart import Remains


@click.command(name="new-origin")
@click.option(
    "--reason",
    type=click.Choice(["lost", "stolen", "restored"]),
    required=True,
    help="The log's key was lost or stolen, or an older backup was restored.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The last checkpoint of the old log that was kept elsewhere: what came up to it is known to have been there.",
)
@click.option("--dry-run", is_flag=True, help="Say what is left of the old log, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def new_origin(settings: Settings, reason: str, checkpoint: Path | None, dry_run: bool, yes: bool) -> None:
    """Begin a new log under a new key. It cites the last checkpoint of the old one, which is kept as it is.

    Use it where the log's key was stolen, or where the appliance refuses to write because an older backup was restored.
    It says which entries are lost, and so does the new log's first event. Recipients and data stay. Nobody else may use
    the appliance meanwhile.

    \b
    Examples:
      cloche audit new-origin --reason restored --checkpoint last-visit.checkpoint --dry-run
      cloche audit new-origin --reason stolen --yes
    """
    from audit.actor import Actor
    from audit.checkpoint import VerifierKey
    from audit.errors import Refused
    from audit.home import PIN, check
    from audit.restart import remains, restart

    check(settings.home)
    secret, elsewhere = read_passphrase(), checkpoint.read_bytes() if checkpoint else b""
    found = remains(settings.home, secret, elsewhere)
    if dry_run:
        emit(settings, found.to_dict(), _says(found))
        return
    if not yes:
        click.echo(_says(found), err=True)
        if not sys.stdin.isatty():
            raise Refused("there is no terminal to ask at", hint="type the same command with --yes")
        click.confirm("Put this log away and begin a new one?", abort=True, err=True)
    found, kept = restart(settings.home, secret, reason, Actor.current("officer"), elsewhere)
    key = VerifierKey.from_text((settings.home / PIN).read_text())
    data = {"before": found.to_dict(), "kept_as": kept, "key": key.to_text(), "fingerprint": key.fingerprint}
    emit(
        settings,
        data,
        f"{_says(found)}\nkept as: {kept}\nnew log: {key.name}\nnew key: {key.fingerprint}\n"
        "The witness does not follow by itself: pin the new key there at the next visit.\n"
        "Now write the new key's fingerprint, the reason and today's date on the paper form.",
    )


def _says(found: "Remains") -> str:
    """What is left of the old log, for a person."""
    last = found.last
    lines = [f"old log: {last.origin}, key {found.key.fingerprint}", f"intact:  {found.kept:,} entries are there"]
    if found.wrong:
        lines.append(f"damage:  {found.wrong}")
    if found.lost is None:
        lines.append("lost:    nothing that is known of")
    else:
        first, end = found.lost
        lines.append(f"lost:    entries {first:,} to {end:,}: they were signed for and are not there, or not intact")
    if found.forked:
        lines.append(
            "FORKED:  two checkpoints signed by this log's key contradict each other: someone else has the key"
        )
    lines.append(f"cited:   {last.size:,} entries, root {last.root.hex()}")
    return "\n".join(lines)
