"""`cloche audit witness`: the officer's machine as the log's witness."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.officer.common import key_of
from appliance.cli.officer.offer import is_log, offered, read
from appliance.cli.officer.visit import STATE, witness_passphrase
from appliance.cli.output import emit, json_option
from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.witness import WitnessState


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.argument("proof", required=False, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@STATE
@click.option("--pin", metavar="KEY", help="Watch the log of this public key: its line, or a file that holds it.")
@click.option(
    "--rotation",
    "rotations",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Follow the log to a new key, by the note that both keys have signed.",
)
@click.option(
    "--adopt",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="NOTE",
    help="With --pin: the log began anew under this key, and the note, NAME.predecessor, names the log before it.",
)
@click.option(
    "--old-log",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="With --adopt: a carried copy of the old log, where it went on after your last cosignature.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="The cosigned checkpoint.  [CHECKPOINT.cosigned]"
)
@click.option("--show", is_flag=True, help="Print what the witness knows; no passphrase is asked for.")
@json_option
@click.pass_obj
def witness(
    settings: Settings,
    checkpoint: Path | None,
    proof: Path | None,
    state_file: Path,
    pin: str | None,
    rotations: tuple[Path, ...],
    adopt: Path | None,
    old_log: Path | None,
    out: Path | None,
    show: bool,
) -> None:
    """Cosign a checkpoint of the log on your own machine, if it continues the last one that you cosigned.

    CHECKPOINT is what cloche audit checkpoint wrote: NAME.checkpoint (the other files of NAME beside it are read,
    too), the text of its QR code, - for standard input, or a carried copy of the log. PROOF is NAME.proof or a carried
    copy; with a copy the proof is computed here.

    The first use makes the state and needs --pin: the log's key as it was noted at installation. The passphrase is the
    witness's (CLOCHE_WITNESS_PASSPHRASE_FILE, or asked for). Exit code 4: the log took something back; nothing is
    cosigned. Then cloche audit visit writes what is to be carried to the appliance.

    \b
    Examples:
      cloche audit witness --state witness.json --pin log.pub
      cloche audit witness --state witness.json /media/usb/6f0c2a91d3e47b58-1204.checkpoint
      cloche audit witness --state witness.json carried.sqlite
      cloche audit witness --state witness.json --show
    """
    from audit.checkpoint import Checkpoint
    from audit.witness import WitnessState

    if show:
        state = WitnessState.load(state_file)
        _print(settings, state)
        return
    if (adopt and not pin) or (old_log and not adopt):
        raise click.UsageError("--old-log goes with --adopt, and --adopt with --pin: the new log's key")
    state = _opened(state_file, pin)
    if pin:
        _trust(state, pin, adopt, old_log)
    for note in rotations:
        state.follow_rotation(note.read_bytes())
    if checkpoint is None:
        _print(settings, state)
        return
    offer = offered(checkpoint, proof)
    origin = offer.origin
    state.follow_rotations(origin, offer.rotations)
    way = offer.way(_known(state, origin))
    made = state.cosign(offer.note, way.old_size, way.hashes)
    taken = offer.readings().get(state.key.name)
    if taken is not None:
        state.acknowledge(origin, taken)
    if offer.erasures:
        state.keep_erasures(origin, offer.erasures)
    last = Checkpoint.from_body(made.partition(b"\n\n")[0])
    target = out or (None if str(checkpoint) == "-" else checkpoint.with_name(checkpoint.name + ".cosigned"))
    if target is not None:
        from audit.files import replace_file

        replace_file(target, made, mode=0o644)
    found = {"origin": origin, "size": last.size, "root": last.root.hex(), "cosigned": made.decode()}
    file = str(target) if target else ""
    text = f"cosigned: {origin}, {last.size:,} entries\nwritten: {file}" if target else made.decode().rstrip("\n")
    emit(settings, {**found, "file": file}, text)


def _opened(path: Path, pin: str | None) -> "WitnessState":
    """The state, unlocked; made at its first use."""
    from audit.errors import Refused
    from audit.witness import WitnessState

    if path.exists():
        return WitnessState.open(path, witness_passphrase())
    if not pin:
        raise Refused(
            "there is no witness state here",
            where=str(path),
            hint=f"cloche audit witness --state {path} --pin log.pub makes one, with the log's key",
        )
    from audit.checkpoint import VerifierKey

    key_of(VerifierKey, pin)  # before a state is made for nothing
    state = WitnessState.create(path, witness_passphrase(new=True))
    click.echo(f"made: {path}\nThis witness's public key, for the appliance and for paper:", err=True)
    click.echo(f"  {state.key.to_text()}\n  fingerprint {state.key.fingerprint}", err=True)
    return state


def _trust(state: "WitnessState", pin: str, adopt: Path | None, old_log: Path | None) -> None:
    """Pin a log's key, or adopt the log as the one that goes on from another."""
    from audit.checkpoint import VerifierKey
    from audit.handout import prepare
    from audit.rotation import Predecessor

    key = key_of(VerifierKey, pin)
    if adopt is None:
        state.pin(key)
        return
    note = prepare(adopt, 0).predecessor if is_log(adopt) else read(adopt)
    way: Sequence[bytes] = ()
    if old_log is not None:
        cited = Predecessor.open(note, key).checkpoint
        way = prepare(old_log, _known(state, cited.origin), cited.body() + b"\n").proof.hashes
    state.adopt(key, note, way)


def _known(state: "WitnessState", origin: str) -> int:
    """Size that the witness knows of a log."""
    last = state.last(origin)
    return last[0].size if last else 0


def _print(settings: Settings, state: "WitnessState") -> None:
    """The state for a person or a program: its key, and what it knows about each log."""
    from audit.watched import utc

    now = time.time()
    logs: list[dict[str, Any]] = []
    lines = [f"witness: {state.key.to_text()}", f"fingerprint: {state.key.fingerprint}"]
    for origin in state.origins:
        watched, last = state.watched(origin), state.last(origin)
        at = utc(last[1]) if last else ""
        logs.append(
            {
                "origin": origin,
                "pinned": watched.key.to_text(),
                "key": watched.chain.newest.to_text(),
                "size": last[0].size if last else 0,
                "root": last[0].root.hex() if last else "",
                "cosigned_at": at,
                "age_s": int(now - last[1]) if last else None,
                "reads": len(watched.reads),
                "reads_waiting": len(watched.waiting),
                "successor": watched.successor,
            }
        )
        said = f"cosigned to {last[0].size:,} at {at}, {_age(now - last[1])} ago" if last else "nothing cosigned yet"
        lines += ["", f"log: {origin}", f"  {said}", f"  key: fingerprint {watched.chain.newest.fingerprint}"]
        lines.append(f"  readings waiting for the appliance: {len(watched.waiting):,}")
        if watched.successor:
            lines.append(f"  closed: {watched.successor} goes on from it")
    found = {"state": str(state.path), "witness": state.key.to_text(), "fingerprint": state.key.fingerprint}
    emit(settings, {**found, "logs": logs}, "\n".join(lines if logs else [*lines, "no log is pinned yet"]))


def _age(seconds: float) -> str:
    """A length of time in the unit that fits it."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
