"""The appliance's side of the witness: which witnesses it knows, what they cosigned, which readings it has taken.

In the home: `keys/witness.pub` (a key line for each witness), `audit/witnessed` (the last cosigned checkpoint) and
`audit/readings.json` (how many of each witness's readings are in the log). They are as changeable as the log: what
counts as evidence is the witness's own state, on another machine.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import store
from audit.actor import Actor
from audit.checkpoint import Checkpoint
from audit.cosignature import WitnessKey, open_cosignature
from audit.errors import BadInput, IntegrityFailure, Refused, storage
from audit.events import Event
from audit.files import replace_file
from audit.home import LOG, WITNESSED, WITNESSES
from audit.proofs import Tree
from audit.rotation import KeyChain
from audit.visit import Visit
from audit.watched import Read, utc

if TYPE_CHECKING:
    from audit.vault import Vault

READINGS = Path("audit", "readings.json")
"""How many of each witness's readings are in the log, in the home."""


@dataclass(frozen=True)
class Cosigned:
    """A checkpoint that a witness has cosigned."""

    checkpoint: Checkpoint
    """What it cosigned."""
    time: int
    """When, POSIX time."""
    witness: str
    """Name of its key."""
    note: bytes
    """The note with both signatures."""


@dataclass(frozen=True)
class Imported:
    """What a visit brought."""

    witness: str
    """Name of the witness's key."""
    pinned: bool
    """Whether the witness was new to the appliance."""
    reads: int
    """Readings that were new, each now an event ``audit.read``."""
    reads_to: int
    """Number of the last reading of this witness that the appliance has."""
    witnessed_to: int
    """Entries that the last cosigned checkpoint covers; 0 where there is none."""
    witnessed_at: str
    """When that was cosigned, UTC; empty where there is none."""
    sequences: tuple[int, ...]
    """Entries of the log that the import made; none for a visit that was imported before."""

    def to_dict(self) -> dict[str, Any]:
        """It as JSON values."""
        return {**asdict(self), "sequences": list(self.sequences)}


def witnesses(home: Path) -> tuple[WitnessKey, ...]:
    """The witnesses that the appliance knows, the first one first. Raises BadInput where the file is damaged."""
    path = home / WITNESSES
    if not path.is_file():
        return ()
    lines = path.read_bytes().decode("ascii", "replace").splitlines()
    return tuple(WitnessKey.from_text(line, str(path)) for line in lines if line)


def last_cosigned(home: Path, origin: str) -> Cosigned | None:
    """The last checkpoint of a log that a known witness cosigned, None where none was imported.

    Raises:
        IntegrityFailure: the file does not hold one.
    """
    path = home / WITNESSED
    if not path.is_file():
        return None
    found = cosigned(path.read_bytes(), witnesses(home))
    if found is None:
        raise IntegrityFailure(
            "the witnessed checkpoint in the home is not cosigned by a witness that this appliance knows",
            where=str(path),
            hint="import the witness's last visit once more: cloche audit import VISIT",
        )
    return found if found.checkpoint.origin == origin else None


def cosigned(note: bytes, known: Sequence[WitnessKey]) -> Cosigned | None:
    """What a known witness has cosigned in a note, the latest where there are several; None where none has."""
    found: list[Cosigned] = []
    for key in known:
        try:
            found.append(Cosigned(*open_cosignature(note, key), key.name, note))
        except IntegrityFailure:
            continue
    return max(found, key=lambda one: one.time, default=None)


def import_visit(vault: "Vault", data: bytes, actor: Actor, *, new_witness: bool = False) -> Imported:
    """Take a visit: pin its witness if it is the first, write its readings and its cosignature into the log.

    A visit that was imported before adds nothing. After a kill between the log's commit and the files' writing, the
    same visit adds its events once more, with the same numbers in them.

    Args:
        vault: the open appliance.
        data: the visit's file.
        actor: who imports it.
        new_witness: accept a witness beside the one that is pinned.

    Raises:
        BadInput: this is no visit.
        Refused: it is about another appliance, or from a witness that is not pinned.
        IntegrityFailure: it is not signed by its witness, or the log is not the one that was cosigned.
    """
    visit = Visit.open(data)
    origin = vault.log_key.name
    if visit.origin != origin:
        raise Refused("this visit is about another log", where=visit.origin[:80], hint="is this the right appliance?")
    known = witnesses(vault.home)
    pinned = visit.witness not in known
    if pinned and known and not new_witness:
        raise Refused(
            "this witness is not the one that the appliance knows",
            where=f"fingerprint {visit.witness.fingerprint}",
            hint="compare it with the officer's: cloche audit witness --show; then add --new-witness",
        )
    newest = _newest(vault, visit)
    before = last_cosigned(vault.home, origin) if known else None
    if newest is not None and before is not None and _rank(newest) <= _rank(before):
        newest = None
    taken = _readings(vault.home)
    number = taken.get(origin, {}).get(visit.witness.name, 0)
    reads = [one for one in visit.reads if one.number > number]
    events = _events(visit, actor, pinned, reads, newest)
    sequences = vault.record_many(events) if events else []
    if pinned:
        lines = "".join(f"{key.to_text()}\n" for key in (*known, visit.witness))
        replace_file(vault.home / WITNESSES, lines.encode(), mode=0o644)
    if newest is not None:
        replace_file(vault.home / WITNESSED, newest.note, mode=0o644)
    if reads:
        number = reads[-1].number
        mine = {**taken.get(origin, {}), visit.witness.name: number}
        replace_file(vault.home / READINGS, json.dumps({**taken, origin: mine}).encode() + b"\n", mode=0o644)
    stands = newest or before
    return Imported(
        witness=visit.witness.name,
        pinned=pinned,
        reads=len(reads),
        reads_to=number,
        witnessed_to=stands.checkpoint.size if stands else 0,
        witnessed_at=utc(stands.time) if stands else "",
        sequences=tuple(sequences),
    )


def readings_taken(home: Path, origin: str) -> dict[str, int]:
    """Number of the last reading taken of each witness; goes back to the officer's machine as a receipt."""
    return dict(_readings(home).get(origin, {}))


def _newest(vault: "Vault", visit: Visit) -> Cosigned | None:
    """The visit's cosigned checkpoint, once it is known to be one of this log. Raises IntegrityFailure."""
    if not visit.cosigned:
        return None
    checkpoint, time = open_cosignature(visit.cosigned, visit.witness)
    path = vault.home / LOG
    with storage(path):
        connection = store.reader(path)
        try:
            KeyChain.of(vault.log_key, store.rotations(connection)).open(visit.cosigned)
            tree = Tree(connection)
            theirs = tree.size >= checkpoint.size and tree.root(checkpoint.size) == checkpoint.root
            size = tree.size
        finally:
            connection.close()
    if not theirs:
        raise IntegrityFailure(
            f"the log is not the one that was witnessed to {checkpoint.size:,} entries: it has {size:,}, and was cut "
            "short, replaced by another copy, or rewritten",
            where=str(path),
            hint="keep the disk as it is, and ask for help",
        )
    return Cosigned(checkpoint, time, visit.witness.name, visit.cosigned)


def _events(visit: Visit, actor: Actor, pinned: bool, reads: Sequence[Read], newest: Cosigned | None) -> list[Event]:
    """What goes into the log."""
    witness = {"witness": visit.witness.name}
    events = []
    detail: dict[str, Any]
    if pinned:
        detail = {**witness, "change": "witness pinned", "key": visit.witness.to_text()}
        events.append(Event("keys.changed", actor, activity="import", detail=detail))
    events += [_event_of(read, visit.witness) for read in reads]
    if newest is not None:
        detail = {**witness, "size": newest.checkpoint.size, "checkpoint": newest.checkpoint.root.hex()}
        detail["cosigned_at"] = utc(newest.time)
        events.append(Event("checkpoint.witnessed", actor, activity="import", detail=detail))
    return events


def _event_of(read: Read, witness: WitnessKey) -> Event:
    """The event of a reading that took place elsewhere: its actor is who read, its own time stands in the detail."""
    kind = "audit.reviewed" if read.command.startswith("audit review") else "audit.read"
    same = {key: read.detail[key] for key in ("from", "until", "findings") if key in read.detail}
    detail = {"witness": witness.name, "number": read.number, "read_at": read.at, "command": read.command, **same}
    if read.detail:
        detail["asked"] = dict(read.detail)
    return Event(kind, Actor(read.user, "officer"), patients=read.patients, activity="import", detail=detail)


def _rank(one: Cosigned) -> tuple[int, int]:
    return one.checkpoint.size, one.time


def _readings(home: Path) -> dict[str, dict[str, int]]:
    """By origin and witness. Raises BadInput where the file is damaged."""
    path = home / READINGS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
        return {str(origin): {str(name): int(number) for name, number in one.items()} for origin, one in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            "the account of imported readings cannot be read",
            where=str(path),
            hint="restore it from a backup; without it, delete it: readings are then imported once more",
        ) from error
