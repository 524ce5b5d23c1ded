"""`cloche backup` and `cloche restore`: the whole appliance in one sealed file, and back."""

import os
from collections.abc import Callable
from pathlib import Path

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, key_passphrase, open_vault, read_passphrase

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("out", type=_FILE)
@click.option("--dry-run", is_flag=True, help="Say what would be written, and to whom it would be sealed.")
@json_option
@click.pass_obj
def backup(settings: Settings, out: Path, dry_run: bool) -> None:
    """Write the whole appliance to one file that only the recovery holder's private key opens.

    Others may go on working meanwhile. That it was made is in the log first; the log's checkpoint stands in the file
    in clear. A backup keeps what it held: after a patient was forgotten, make a new one and destroy the older ones.

    \b
    Examples:
      cloche backup /media/usb/2026-11.cloche
      cloche backup /media/usb/2026-11.cloche --dry-run
    """
    from appliance.progress import progress
    from audit.backup import holder
    from audit.errors import Refused
    from audit.newfile import new_file

    if os.path.lexists(out):  # before anything is logged
        raise Refused("the file exists already", where=str(out), hint="name another, or move it away")
    with open_vault(settings, "operator") as (vault, actor):
        whom, objects = holder(vault.recipients), vault.catalogue.objects()
        known = sum(one.size for one in objects) + sum(
            path.stat().st_size for place in ("audit", "keys") for path in (settings.home / place).glob("*.sqlite")
        )
        found = {"file": str(out), "recipient": whom.name, "key_id": whom.key_id.hex(), "objects": len(objects)}
        if dry_run:
            says = f"would write {len(objects):,} objects, about {known / 1e6:,.1f} MB, to {out}, sealed to {whom.name}"
            emit(settings, {**found, "bytes": known, "done": False}, says)
            return
        with progress("backup") as report, new_file(out) as file:
            written = 0
            for piece in vault.backup(actor, out.name[:200]):
                file.write(piece)
                written += len(piece)
                report(written >> 20, max(known, written) >> 20, "MiB")
    says = f"{out}: {written:,} bytes, {len(objects):,} objects, sealed to {whom.name} ({whom.key_id.hex()})"
    emit(settings, {**found, "bytes": written, "done": True}, f"{says}\nTry it: cloche restore, on another machine")


@click.command()
@click.argument("backup_file", metavar="BACKUP", type=_FILE)
@click.option("--key", "key_file", required=True, type=_FILE, help="The recovery holder's private key file.")
@click.option("--home", "target", required=True, type=click.Path(path_type=Path), help="Where the home is to be.")
@click.option("--erasures", type=_FILE, help="The newest erasure list: audit/erasures of the lost home.")
@click.option("--witness", type=_FILE, help="The officer's witness state: it has the list and the last checkpoint.")
@click.option("--no-erasures-known", metavar="REASON", default="", help="There is no erasure list, and why.")
@json_option
@click.pass_obj
def restore(
    settings: Settings,
    backup_file: Path,
    key_file: Path,
    target: Path,
    erasures: Path | None,
    witness: Path | None,
    no_erasures_known: str,
) -> None:
    """Make an appliance's home out of a backup. Patients who were forgotten since are forgotten again.

    It needs the recovery holder's private key and the passphrase that the appliance had when the backup was made. A
    new log begins, which names the old one's last checkpoint; with --witness it is said which entries were witnessed
    and are not in the backup. Nothing appears at --home unless all of it went well.

    \b
    Examples:
      cloche restore 2026-11.cloche --key recovery.key --home /srv/cloche --witness witness.json
      cloche restore 2026-11.cloche --key recovery.key --home /srv/cloche --erasures erasures
    """
    from appliance.progress import progress
    from audit.actor import Actor
    from audit.bounds import line
    from audit.errors import Refused
    from audit.keys import KeyPair
    from audit.restoring import restore as bring_back
    from audit.restoring import witnessed

    line("reason", no_erasures_known, 200)
    if not (erasures or witness or no_erasures_known):
        raise Refused(
            "a restore needs the erasure list: without it forgotten patients would come back",
            hint="give --witness STATE or --erasures FILE; if there never was one, --no-erasures-known REASON",
        )
    known = witnessed(backup_file, witness)
    listed = known.newest(_bytes(erasures) if erasures else b"")
    if not listed and not no_erasures_known:
        raise Refused(
            "the witness has no erasure list of this appliance",
            where=str(witness),
            hint="if nobody was ever forgotten, say so: --no-erasures-known REASON",
        )
    pair = KeyPair.load(key_file, key_passphrase())
    total = backup_file.stat().st_size if backup_file.is_file() else 0
    with progress("restore") as report:
        told: Callable[[int], None] = lambda read: report(read >> 20, max(total, read) >> 20, "MiB")  # noqa: E731
        done = bring_back(
            backup_file,
            pair,
            target,
            read_passphrase(),
            Actor.current("operator"),
            erasures=listed,
            trusted=known.keys,
            none_known=no_erasures_known,
            elsewhere=known.checkpoint,
            progress=told,
        )
    lost = done.remains.lost
    lines = [
        f"{target}: {done.objects:,} objects of the backup of {done.made}",
        f"forgotten again: {len(done.forgotten)} patients, by the erasure list",
        f"of the old log {done.remains.kept:,} entries are here",
        f"WITNESSED BUT LOST: entries {lost[0]:,} to {lost[1]:,}" if lost else "no entry is known to be lost",
        "A new log has begun. Next: cloche audit carry, and on the officer's machine cloche audit witness --adopt",
    ]
    found = {
        "home": str(target),
        "made": done.made,
        "objects": done.objects,
        "forgotten": list(done.forgotten),
        "old_log": done.remains.to_dict(),
    }
    emit(settings, found, "\n".join(lines))


def _bytes(path: Path) -> bytes:
    from audit.errors import BadInput

    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"the erasure list cannot be read: {error.strerror}", where=str(path)) from error
