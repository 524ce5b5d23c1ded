"""`cloche audit visit` and `cloche audit import`: from the officer's machine back to the appliance."""

from pathlib import Path

import click

from appliance.cli.officer.common import WITNESS_STATE
from appliance.cli.output import emit, json_option
from appliance.settings import PASSPHRASE_FILE, WITNESS_PASSPHRASE_FILE, Settings, open_vault, read_passphrase

STATE = click.option(
    "--state",
    "state_file",
    required=True,
    envvar=WITNESS_STATE,
    show_envvar=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your witness's state, on this machine.",
)


def witness_passphrase(*, new: bool = False) -> bytes:
    """The passphrase of a witness's state, from its file or asked for; twice for a new one. Raises Refused."""
    whose = "the new witness" if new else "the witness"
    return read_passphrase(whose, confirm=new, variables=(WITNESS_PASSPHRASE_FILE, PASSPHRASE_FILE))


@click.command()
@click.argument("out", metavar="VISIT", type=click.Path(path_type=Path, dir_okay=False))
@STATE
@click.option("--log", "origin", metavar="ORIGIN", help="Which log, where the witness watches several.")
@json_option
@click.pass_obj
def visit(settings: Settings, out: Path, state_file: Path, origin: str | None) -> None:
    """Write a file for the appliance: the last checkpoint you cosigned, and your readings that it has not taken yet.

    It is signed with the witness's key; the passphrase is the witness's. On the appliance, cloche audit import takes
    it in.

    \b
    Examples:
      cloche audit visit /media/usb/visit --state witness.json
    """
    from audit.errors import Refused
    from audit.files import replace_file
    from audit.witness import WitnessState

    state = WitnessState.load(state_file)
    watched = [one for one in state.origins if not state.watched(one).successor]
    if origin is None and len(watched) != 1:
        raise Refused(
            f"the witness watches {len(watched)} logs",
            where=str(state_file),
            hint="name one with --log; cloche audit witness --show lists them",
        )
    origin = origin or watched[0]
    state.watched(origin)
    state = WitnessState.open(state_file, witness_passphrase())
    replace_file(out, state.visit(origin), mode=0o600)
    last, waiting = state.last(origin), len(state.watched(origin).waiting)
    size = last[0].size if last else 0
    emit(
        settings,
        {"origin": origin, "witnessed_to": size, "reads": waiting, "file": str(out)},
        f"written: {out}: witnessed to {size:,}, {waiting:,} readings",
    )


@click.command("import")
@click.argument("visit_file", metavar="VISIT", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--new-witness", is_flag=True, help="Accept a witness beside the one that this appliance knows.")
@json_option
@click.pass_obj
def import_(settings: Settings, visit_file: Path, new_witness: bool) -> None:
    """Take in a visit of the officer's machine: the cosigned checkpoint, and the readings that took place there.

    On the officer's machine, cloche audit visit writes the file. The first visit pins the witness's key: compare the
    fingerprint that is printed with the officer's. The log must be the one that was cosigned, else the exit code is 4.
    The same visit twice adds nothing. The passphrase is the appliance's.

    \b
    Examples:
      cloche audit import /media/usb/visit
    """
    from audit.visit import MOST_BYTES
    from audit.witnessed import witnesses

    with visit_file.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    with open_vault(settings, "officer") as (vault, actor):
        done = vault.import_visit(data, actor, new_witness=new_witness)
        fingerprint = next(key.fingerprint for key in witnesses(vault.home) if key.name == done.witness)
    lines = [f"witness: {done.witness}, fingerprint {fingerprint}" + (", pinned now" if done.pinned else "")]
    at = f" at {done.witnessed_at}" if done.witnessed_at else ""
    lines.append(f"witnessed to {done.witnessed_to:,}{at}")
    lines.append(f"readings: {done.reads:,} new, {done.reads_to:,} in all")
    lines.append(f"entries: {len(done.sequences):,} new" if done.sequences else "nothing new in it")
    emit(settings, {**done.to_dict(), "fingerprint": fingerprint}, "\n".join(lines))
