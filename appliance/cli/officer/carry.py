"""`cloche audit carry` and `prove`: what an officer takes away from the box."""

from pathlib import Path

import click

from appliance.cli.officer.common import LOG, home_files
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

_OUT = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("out", type=_OUT)
@json_option
@click.pass_obj
def carry(settings: Settings, out: Path) -> None:
    """Copy the log to one file that can be taken away: entries, checkpoints and the manifests of data sets.

    It stays encrypted: who takes it needs a recipient's private key to read it, and none to verify it. That it was
    copied is an event, the last one of the copy.

    \b
    Examples:
      cloche audit carry /media/usb/2026-11.carry
      cloche audit verify /media/usb/2026-11.carry --key-pin log.pub
    """
    from audit.carry import carry as carry_log
    from audit.datasets import leaf_lists
    from audit.erasures import read_list
    from audit.errors import Refused
    from audit.events import Event

    if out.exists():  # before anything is logged
        raise Refused("the file exists already", where=str(out), hint="name another, or move it away")
    with open_vault(settings, "officer") as (vault, actor):
        leaves = list(leaf_lists(vault, actor=actor, activity="carry"))
        vault.record(Event("audit.exported", actor, activity="carry", detail={"manifests": len(leaves)}))
        carry_log(home_files(settings)[0], out, leaves, read_list(settings.home))
        fingerprint = vault.log_key.fingerprint
    size = out.stat().st_size
    emit(
        settings,
        {"file": str(out), "bytes": size, "manifests": len(leaves), "key": fingerprint},
        f"{out}: {size:,} bytes, manifests: {len(leaves)}. Log key {fingerprint}\n"
        f"Verify it with: cloche audit verify {out} --key-pin KEY",
    )


@click.command()
@click.argument("entry", type=click.IntRange(min=0))
@LOG
@click.option("--out", type=_OUT, required=True, help="Where to write the proof.")
@json_option
@click.pass_obj
def prove(settings: Settings, entry: int, log: Path | None, out: Path) -> None:
    """Write the proof that one entry stands in the log: a text that any tlog tool can check, without the log.

    \b
    Examples:
      cloche audit prove 1234 --out 1234.proof
      python docs/verify_standalone.py proof 1234.proof --key log.pub --log 2026-11.carry
    """
    from audit import store
    from audit.checkpoint import Checkpoint
    from audit.errors import BadInput, storage
    from audit.keys import write_new
    from audit.proofs import InclusionProof, Tree

    path = log or home_files(settings)[0]
    if not path.is_file():
        raise BadInput("there is no such log", where=str(path), hint="cloche audit prove --help")
    with storage(path):
        connection = store.reader(path)
        try:
            note = store.head(connection).note
            size = Checkpoint.from_body(note.partition(b"\n\n")[0]).size
            made = InclusionProof(entry, tuple(Tree(connection).inclusion(entry, size)), note)
        finally:
            connection.close()
    write_new(out, made.to_bytes(), mode=0o644)
    text = f"{out}: entry {entry:,} of {size:,}, {len(made.hashes)} hashes"
    emit(settings, {"file": str(out), "entry": entry, "size": size, "hashes": len(made.hashes)}, text)
