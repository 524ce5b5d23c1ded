"""A restore: an appliance's home out of a backup, with everybody who was forgotten since forgotten again.

It is a fork, never a silent continuation: a new log begins (`audit.restart`), it cites the old one's last checkpoint
that is known, and what was witnessed but is not in the backup is said. The home appears whole, erasures applied, or
not at all.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from audit import backup, highwater, home, store
from audit.actor import Actor
from audit.bag import BagFile
from audit.catalogue import Catalogue, now
from audit.checkpoint import VerifierKey
from audit.erasures import MARK, Erasures
from audit.errors import BadInput, IntegrityFailure, Refused, storage
from audit.events import Event
from audit.keys import KeyPair
from audit.objects import ObjectStore
from audit.restart import Remains, restart
from audit.rotation import KeyChain
from audit.vault import Vault

_TOP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,200}", re.ASCII)


@dataclass(frozen=True)
class Restored:
    """What a restore brought back, and what it did not."""

    remains: Remains
    """What the backup has of the old log, and what is known to be lost."""
    forgotten: tuple[str, ...]
    """Patients whom the erasure list names and the backup had; they are forgotten again."""
    objects: int
    """Objects that came back, before those were forgotten."""
    made: str
    """When the backup was made, UTC."""


def restore(
    file: Path,
    pair: KeyPair,
    target: Path,
    passphrase: bytes,
    actor: Actor,
    *,
    erasures: bytes = b"",
    trusted: Iterable[VerifierKey] = (),
    none_known: str = "",
    elsewhere: bytes = b"",
    progress: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Make a home out of a backup.

    Args:
        file: the backup.
        pair: the private key of the recovery holder.
        target: where the home is to be; nothing is there yet.
        passphrase: the appliance's, of the time when the backup was made.
        actor: who restores.
        erasures: the newest erasure list (`audit/erasures`).
        trusted: further keys that may have signed it: those of logs that the witness watches.
        none_known: the reason for which there is no list; without either a restore is refused.
        elsewhere: the last checkpoint that the witness has; says what was lost.
        progress: told the bytes that are read so far.

    Raises:
        Refused: no erasure list, another key, or a wrong passphrase.
        BadInput: this is no backup, or no erasure list.
        IntegrityFailure: the backup or the list was changed or cut short. Nothing is left behind.
    """
    if not erasures and not none_known:
        raise Refused(
            "a restore needs the erasure list: without it forgotten patients would come back",
            hint="give --erasures FILE or --witness STATE; if there never was one, --no-erasures-known REASON",
        )
    listed = Erasures.open(erasures, "the erasure list") if erasures else Erasures()
    done: list[Restored] = []

    def fill(made: Path) -> None:
        header, gone, objects = _unpack(file, pair, made, progress)
        _after_unpacking(made, gone)
        bag = BagFile.open(made, passphrase).bag
        own = Erasures.load(made)
        connection = store.reader(made / home.LOG)
        try:
            chain = KeyChain.of(bag.signer().key, store.rotations(connection))
        finally:
            connection.close()
        if erasures and not listed.vouched([*chain.keys, *trusted]):
            raise Refused(
                "the erasure list is not signed by a log that this backup or the witness knows",
                where=listed.key.fingerprint if listed.key else "",
                hint="give --witness STATE of the officer who watches this appliance",
            )
        chain.open(header.checkpoint)
        found, _ = restart(made, passphrase, "restored", actor, elsewhere)
        if not backup.covers(header, found.kept):
            raise IntegrityFailure("the log in the backup is not whole", where=str(file), hint="take another backup")
        known = {one.mark: one for one in (*own.erasures, *listed.erasures)}
        with Vault.open(made, passphrase, alone=True) as vault:
            forgotten = _forget(vault, set(known), actor)
            kept = Erasures.load(made)
            _carry_over(made, vault, known, kept)
            detail: dict[str, Any] = {
                "made": header.created, "erasures": len(known), "forgotten": len(forgotten),
                "lost": list(found.lost) if found.lost else [],
            }  # fmt: skip
            vault.record(Event("backup.restored", actor, activity="restore", reason=none_known, detail=detail))
        (made / home.DESCRIPTION).unlink()  # written anew by `home.make`, last
        done.append(Restored(found, tuple(forgotten), objects, header.created))

    home.make(Path(target), fill, now())
    return done[0]


def _unpack(file: Path, pair: KeyPair, made: Path, progress: Callable[[int], None]) -> tuple[Any, list[str], int]:
    """Write all files of a backup below a directory; its header, the objects that it could not have, and the others."""
    seen: set[str] = set()
    read = 0
    try:
        opened = open(file, "rb")  # noqa: SIM115 closed below
    except OSError as error:
        raise BadInput(f"the backup cannot be read: {error.strerror}", where=str(file)) from error
    with opened:
        header, _ = backup.Header.read(opened, str(file))
        opened.seek(0)
        ObjectStore.create(made / "vault")
        line: dict[str, Any] = {}
        for line, pieces in backup.contents(opened, pair, str(file)):
            if "end" in line:
                break
            path = _safe(str(line.get("path", "")), seen, str(file))
            seen.add(path.as_posix())
            with storage(made):
                (made / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with open(made / path, "xb", opener=_private) as out:
                    for piece in pieces:
                        out.write(piece)
                        read += len(piece)
                        progress(read)
        else:
            raise IntegrityFailure("the backup was changed or cut short", where=str(file))
        if opened.read(1) or line.get("files") != len(seen) or not seen.issuperset(backup.REQUIRED):
            raise IntegrityFailure("the backup is not whole", where=str(file), hint="take another copy of it")
    objects = sum(name.startswith("vault/objects/") for name in seen)
    return header, [str(one) for one in line.get("gone", [])], objects


def _safe(name: str, seen: set[str], where: str) -> Path:
    """The path of a file, where a file of an appliance may be: whoever has the public key can seal a backup."""
    path = PurePosixPath(name)
    parts = bool(path.parts) and all(_TOP.fullmatch(part) for part in path.parts)
    plain = parts and path.as_posix() == name and name not in seen
    place = path.parts[0] if len(path.parts) > 1 else ""
    if not plain or place not in ("", "keys", "audit", "vault") or len(path.parts) > 4:
        raise IntegrityFailure("the backup holds a file that no appliance has", where=where)
    return Path(name)


def _private(path: str, flags: int) -> int:
    import os

    return os.open(path, flags, 0o600)


def _after_unpacking(made: Path, gone: list[str]) -> None:
    """The mark of the log as it came, and the rows of objects that went while the backup was made."""
    with storage(made):
        connection = store.reader(made / home.LOG)
        try:
            note = store.head(connection).note
        finally:
            connection.close()
        mark = highwater.Mark(made / home.HIGH_WATER)
        mark.raise_to(0, note)
        mark.close()
        catalogue = Catalogue(made / home.CATALOGUE)
        try:
            catalogue.mark_deleted(gone)
        finally:
            catalogue.close()


def _forget(vault: Vault, marks: set[str], actor: Actor) -> list[str]:
    """Forget again whom the list names and the backup has."""
    named = set(_patients(vault.home))
    found = [one for one in sorted(named) if vault.mark(MARK, one.encode()).hex() in marks]
    for patient in found:
        if vault.catalogue.objects(patient=patient) or vault.catalogue.records(patient=patient):
            vault.forget(patient, actor)
    return found


def _patients(path: Path) -> Iterator[str]:
    connection = sqlite3.connect(path / home.CATALOGUE)
    try:
        query = "SELECT patient FROM objects WHERE deleted = '' AND patient != '' UNION SELECT patient FROM records"
        yield from (row[0] for row in connection.execute(query))
    finally:
        connection.close()


def _carry_over(made: Path, vault: Vault, known: dict[str, Any], kept: Erasures) -> None:
    """Keep all of the list, with the dates and entries of the first forgetting, signed by the new log's key."""
    first = tuple(known.values())
    fresh = tuple(one for one in kept.erasures if one.mark not in known)
    if first or fresh:
        vault.custodian.keep_erasures((*first, *fresh))


@dataclass(frozen=True)
class Witnessed:
    """What a witness knows of the appliance that a backup is of."""

    keys: tuple[VerifierKey, ...] = ()
    """Keys of the logs that it watches."""
    checkpoint: bytes = b""
    """The last checkpoint of the backup's log that it cosigned."""
    erasures: bytes = b""
    """The newest erasure list that it was shown."""

    def newest(self, given: bytes) -> bytes:
        """The list that counts: the one given, or the witness's. Raises IntegrityFailure where the one given is older.

        A list only ever grows: what the witness has seen must be in it.
        """
        if not given or not self.erasures:
            return given or self.erasures
        mine, theirs = Erasures.open(self.erasures, "the witness state"), Erasures.open(given, "the erasure list")
        if mine.within(theirs):
            return given
        if theirs.within(mine):
            return self.erasures
        raise IntegrityFailure(
            "the erasure list lacks patients whom the witness knows to be forgotten, and the other way round",
            where="the erasure list",
            hint="leave out --erasures: the witness's own is used",
        )


def witnessed(file: Path, state_file: Path | None) -> Witnessed:
    """What the state of a witness says for a backup. Raises BadInput, Refused or IntegrityFailure for a bad state."""
    from audit.witness import WitnessState

    if state_file is None:
        return Witnessed()
    try:
        with open(file, "rb") as opened:
            header, _ = backup.Header.read(opened, str(file))
    except OSError as error:
        raise BadInput(f"the backup cannot be read: {error.strerror}", where=str(file)) from error
    state = WitnessState.load(state_file)
    origin = header.checkpoint.partition(b"\n")[0].decode("utf-8", "replace")
    first = state.watched(origin)
    keys, erasures, follows = [*first.chain.keys], first.erasures, first.successor
    while follows:
        after = state.watched(follows)
        keys += after.chain.keys
        erasures, follows = after.erasures or erasures, after.successor
    return Witnessed(tuple(keys), first.cosigned, erasures)
