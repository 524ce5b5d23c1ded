"""A new origin: a new log that goes on from one whose key was lost or stolen, or that a backup brought back.

It works where the old log does not open any more. What is left of that log is kept as it is, and what is known to be
lost is said, not hidden: the new log's first event and its note about its predecessor cite the old one's last
checkpoint. The bag decides: before it is replaced the old log stands, from then on the new one.
"""

import shutil
import sqlite3
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from audit import highwater, store
from audit.actor import Actor
from audit.bag import FORGET, ORIGIN, Bag, BagFile, Intent
from audit.checkpoint import Checkpoint, Signer, VerifierKey
from audit.errors import BadInput, ClocheError, IntegrityFailure, Refused, storage
from audit.events import Event
from audit.files import replace_file
from audit.hold import Hold
from audit.home import HIGH_WATER, LOG, check, flush
from audit.log import Log
from audit.merkle import Frontier
from audit.proofs import Tree
from audit.rotation import REASONS, KeyChain, Predecessor, new_origin
from audit.settle import NEXT, OLD, forgotten, kept_files, settle, sweep
from audit.verify import verify

_PREFIX = "cloche/log/"
_AGAIN = "cloche audit recipient list opens it and cloche audit verify says what stands"


@dataclass(frozen=True)
class Remains:
    """What is left of a log."""

    key: VerifierKey
    """The key that signed it last, as far as is known."""
    kept: int
    """Entries that are there and intact."""
    last: Checkpoint
    """The largest checkpoint that is known: in the log, in the mark, or kept elsewhere."""
    wrong: str
    """What is wrong with the log itself, one sentence; empty where it is intact."""
    forked: bool
    """Whether two checkpoints that its key has signed contradict each other: somebody else has the key."""

    @property
    def lost(self) -> tuple[int, int] | None:
        """First and last entry that are known to have been there and are not, or are not intact; None if none."""
        return (self.kept, self.last.size - 1) if self.kept < self.last.size else None

    def to_dict(self) -> dict[str, Any]:
        """The remains as JSON values, for the event and for a program."""
        return {
            "origin": self.last.origin,
            "key": self.key.fingerprint,
            "size": self.last.size,
            "root": self.last.root.hex(),
            "kept": self.kept,
            "lost": list(self.lost) if self.lost else [],
            "wrong": self.wrong,
            "forked": self.forked,
        }


def remains(home: Path, passphrase: bytes, elsewhere: bytes = b"") -> Remains:
    """See what is left of an appliance's log, and change nothing.

    Args:
        home: the appliance.
        passphrase: the appliance's.
        elsewhere: a signed checkpoint of the log that was kept elsewhere, if there is one.

    Raises:
        Refused: there is no appliance, its passphrase is wrong, or another process has it open.
        IntegrityFailure: its key file is damaged, or `elsewhere` is no checkpoint of this log.
    """
    check(home)
    hold = _alone(home)
    try:
        bag = BagFile.open(home, passphrase).bag
        if bag.intent is not None and bag.intent.about == ORIGIN:
            raise Refused("a new log was begun, and is finished by whoever opens the appliance next", hint=_AGAIN)
        return _examine(home, bag, elsewhere)
    finally:
        hold.close()


def restart(home: Path, passphrase: bytes, reason: str, actor: Actor, elsewhere: bytes = b"") -> tuple[Remains, str]:
    """Begin a new log under a new key, and put the old one away.

    Args:
        home: the appliance.
        passphrase: the appliance's.
        reason: ``lost``, ``stolen`` or ``restored``.
        actor: who does it.
        elsewhere: as for `remains`.

    Returns:
        What was left of the old log, and the path of the file in which it is kept now.

    Raises:
        As `remains`; EnvironmentProblem where the disk refuses: then the old log stands.
    """
    if reason not in REASONS:
        raise BadInput(f"there is no reason called {reason!r}", hint=f"name one of {', '.join(REASONS)}")
    check(home)
    hold = _alone(home)
    try:
        file = BagFile.open(home, passphrase)
        sweep(home)
        if file.bag.intent is not None and file.bag.intent.about == ORIGIN:
            settle(home, file)
            raise Refused("a new log was begun before this and stands now: another one is not needed", hint=_AGAIN)
        found = _examine(home, file.bag, elsewhere)
        _settle_or_take_back(home, file)
        kept_as = _free_name(home, file.bag.origin)
        signer = Signer.generate(new_origin(found.last))
        with storage(home):
            shutil.rmtree(home / NEXT, ignore_errors=True)
            for path in (home / NEXT, home / OLD):
                path.mkdir(mode=0o700, exist_ok=True)
        kept, _, kept_key = kept_files(home, kept_as)
        replace_file(kept_key, found.key.to_text().encode() + b"\n", mode=0o644)
        _make(home / NEXT, signer, file.bag, Predecessor(signer.key.name, reason, found.last, found.key), found, actor)
        intent = Intent(ORIGIN, kept_as=kept_as)
        file.write(replace(file.bag, log_key=signer.to_bytes(), origin=signer.key.name, intent=intent))
        settle(home, file)
    finally:
        hold.close()
    return found, str(kept)


def _alone(home: Path) -> Hold:
    hold = Hold(home)
    if not hold.take(alone=True):
        hold.close()
        raise hold.refusal()
    return hold


def _settle_or_take_back(home: Path, file: BagFile) -> None:
    """Leave no intent in the bag; where the log cannot say what became of it, it is taken back."""
    try:
        settle(home, file)
    except IntegrityFailure:
        begun = file.bag.intent
        forgetting = begun is not None and begun.about == FORGET
        # Whether the event of a forgetting came to be cannot be told any more: a patient must not come back by that.
        file.write(forgotten(home, file.bag) if forgetting else replace(file.bag, intent=None), wipe=forgetting)


def _make(path: Path, signer: Signer, bag: Bag, before: Predecessor, found: Remains, actor: Actor) -> None:
    """The new log in a directory of its own, with its first event."""
    lines = (found.key.to_text(), signer.key.to_text())
    detail = dict(zip(("before", "after"), (sha256(line.encode()).hexdigest() for line in lines), strict=True))
    whole = {**detail, "change": "new log", "old_log": found.to_dict()}
    event = Event("log.restarted", actor, activity="new-origin", reason=before.reason, detail=whole)
    log, mark = path / LOG.name, path / HIGH_WATER.name
    with Log.create(log, signer, bag.recipients, mark, predecessor=before.sign(signer)) as made:
        made.append(event)
    with storage(path):
        for one in (log, mark, path, path.parent):
            flush(one)


def _free_name(home: Path, origin: str) -> str:
    """A file name for the old log: its origin's, and a number where a backup has brought the same one back before."""
    name = origin.removeprefix(_PREFIX).replace("/", "-")
    number = 1
    while kept_files(home, name if number == 1 else f"{name}.{number}")[0].exists():
        number += 1
    return name if number == 1 else f"{name}.{number}"


def _examine(home: Path, bag: Bag, elsewhere: bytes) -> Remains:
    """Verify the old log from end to end, and gather the checkpoints that are known of it."""
    key = bag.signer().key
    verdict = verify(home / LOG, key)
    heir = bag.heir()
    if heir is not None and verdict.state != "intact":  # killed while the log was handed over
        key, verdict = heir.key, verify(home / LOG, heir.key)
    chain, head = _chain(home / LOG, key)
    known = [Checkpoint(key.name, 0, Frontier().root())]
    for note in (head, _mark(home / HIGH_WATER)):
        try:
            known.append(chain.open(note))
        except IntegrityFailure:
            continue  # damaged, or of another log: it vouches for nothing
    if elsewhere:
        known.append(chain.open(elsewhere))
    last = max(known, key=lambda checkpoint: checkpoint.size)
    return Remains(chain.newest, verdict.size, last, verdict.why, _forked(home / LOG, known, verdict.state == "intact"))


def _forked(log: Path, known: list[Checkpoint], intact: bool) -> bool:
    """Whether checkpoints contradict each other, or an intact log."""
    roots = {(checkpoint.size, checkpoint.root) for checkpoint in known}
    if len(roots) > len({size for size, _ in roots}):
        return True
    if not intact:
        return False
    connection = store.reader(log)
    try:
        tree = Tree(connection)
        return any(tree.root(size) != root for size, root in roots if size <= tree.size)
    finally:
        connection.close()


def _chain(log: Path, key: VerifierKey) -> tuple[KeyChain, bytes]:
    """The log's keys and its newest checkpoint, as far as they can be read."""
    alone = KeyChain((), key)
    if not log.is_file():
        return alone, b""
    try:
        connection = store.reader(log)
        try:
            note = store.head(connection).note
            return KeyChain.of(key, store.rotations(connection)), note
        finally:
            connection.close()
    except (ClocheError, sqlite3.Error, OSError):
        return alone, b""


def _mark(path: Path) -> bytes:
    try:
        return path.read_bytes()[: highwater.BYTES].rstrip(b"\x00")
    except OSError:
        return b""
