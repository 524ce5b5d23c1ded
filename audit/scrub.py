"""The scrub: every object of the vault against the catalogue, inside the vault's own process.

It reads what lies on the disk and tells what does not fit, by id; no byte of an object leaves the process.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO

from audit import stream
from audit.actor import Actor
from audit.catalogue import Catalogue
from audit.errors import IntegrityFailure
from audit.events import Event
from audit.objects import READ_BYTES, ObjectStore
from audit.printable import printable
from audit.rows import StoredObject

if TYPE_CHECKING:
    from audit.vault import Vault

KINDS = {
    "missing": "its file is gone",
    "changed": "its file is not the one that was stored",
    "unreadable": "its file is the one that was stored, and its key does not open it: its row or key was changed",
    "keyless": "its patient's key is gone or was changed",
    "size": "its size is not what the catalogue says",
    "leftover": "it was deleted, and its file is still there",
    "stray": "a file that no row of the catalogue names",
    "contradiction": "its row names something that the catalogue does not hold, or another patient's",
}
"""What a scrub can find, in words that follow an object's id."""
NAMED = 500
"""Ids that the event of a scrub names at most; it counts them all."""
_STEP_BYTES, _STEP_OBJECTS = 32 << 20, 256
"""How much is read between two words about progress."""
_ID = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit."""

    kind: str
    """A key of `KINDS`."""
    id: str
    """The object, record or model concerned; of a stray file its name."""


@dataclass(frozen=True)
class Checked:
    """What a scrub found."""

    objects: int
    """Objects that were looked at."""
    bytes: int
    """Bytes of files that were read."""
    fast: bool
    """Whether only the files' digests were compared, and nothing was decrypted."""
    findings: tuple[Finding, ...]
    """What does not fit; empty where all does."""

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind."""
        kinds = [finding.kind for finding in self.findings]
        return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


@dataclass(frozen=True)
class Step:
    """How far a scrub is."""

    done: int
    """Bytes of files read."""
    total: int
    """Bytes of all of them, about."""


class Hashed:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, sha256()
        self.bytes = 0
        """Bytes read so far."""

    def read(self, count: int) -> bytes:
        """The next bytes."""
        piece = self._file.read(count)
        self._digest.update(piece)
        self.bytes += len(piece)
        return piece

    def rest(self) -> str:
        """Digest of the whole file, hex, what is left of it included."""
        while self.read(READ_BYTES):
            pass
        return self._digest.hexdigest()


def scrub(
    catalogue: Catalogue, store: ObjectStore, key_of: Callable[[StoredObject], bytes], fast: bool
) -> Iterator[Step | Checked]:
    """Check everything; how far it is from time to time, and at last what was found.

    Args:
        catalogue: the vault's.
        store: the vault's files.
        key_of: an object's key. Raises IntegrityFailure where its patient has none.
        fast: compare files' digests only; otherwise every chunk is decrypted, too.

    Raises:
        IntegrityFailure: the catalogue itself cannot be read.
        EnvironmentProblem: the disk cannot be read.
    """
    found: list[Finding] = []
    try:
        objects, deleted = catalogue.objects(), catalogue.deleted_objects()
        found += [Finding("contradiction", name) for name in dict.fromkeys(_contradictions(catalogue))]
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityFailure("a row of the catalogue cannot be read", hint="restore the last backup") from error
    total, read, since = sum(one.size for one in objects), 0, (0, 0)
    for number, stored in enumerate(objects):
        kind, size = _check(store, stored, key_of, fast)
        read += size
        if kind and not catalogue.object(stored.id).deleted:  # it may be deleted while we look
            found.append(Finding(kind, stored.id))
        if read - since[0] >= _STEP_BYTES or number - since[1] >= _STEP_OBJECTS:
            since = read, number
            yield Step(min(read, total), total)
    found += [Finding("leftover", one.id) for one in deleted if store.holds(one.id)]
    known = {one.id for one in (*objects, *deleted)}
    # A file gets its final name after its row is there: what is new since we began has one, too.
    strays = sorted(set(store.names()) - known - {one.id for one in catalogue.objects()})
    found += [Finding("stray", printable(name)[:80]) for name in strays]
    yield Checked(len(objects), read, fast, tuple(found))


def _check(
    store: ObjectStore, stored: StoredObject, key_of: Callable[[StoredObject], bytes], fast: bool
) -> tuple[str, int]:
    """What is wrong with one object (empty: nothing), and the bytes of its file."""
    try:
        key = key_of(stored)
    except IntegrityFailure:
        return "keyless", 0
    try:
        file = store.open(stored.id)
    except IntegrityFailure:
        return "missing", 0
    size, opens = 0, True
    with file:
        hashed = Hashed(file)
        try:
            for chunk in () if fast else stream.open_chunks(key, hashed, where=stored.id):
                size += len(chunk)
        except IntegrityFailure:
            opens = False
        if hashed.rest() != stored.digest:
            return "changed", hashed.bytes
    wrong_size = stream.sealed_size(stored.size) != hashed.bytes if fast else size != stored.size
    return "unreadable" if not opens else "size" if wrong_size else "", hashed.bytes


def _contradictions(catalogue: Catalogue) -> Iterator[str]:
    """Ids of rows that contradict others."""
    patients = {one.id: one.patient for one in (*catalogue.objects(), *catalogue.deleted_objects())}
    for record in catalogue.records(gone=True):
        if any(patients.get(part) != record.patient for part in (record.image, record.report)):
            yield record.id
    models = catalogue.models()
    names = {model.id for model in models}
    for model in models:
        if not patients.keys() >= set(model.objects) or (model.parent_model and model.parent_model not in names):
            yield model.id
    for child, parent in catalogue.links():
        if child not in patients or parent not in patients:
            yield child


def event_of(checked: Checked, actor: Actor) -> Event:
    """What the log says of a scrub: counts, and the ids of what does not fit (of the catalogue's own only)."""
    ids = (one.id for one in checked.findings if one.kind != "stray" and _ID.fullmatch(one.id))
    detail = {"checked": checked.objects, "bytes": checked.bytes, "fast": checked.fast, "found": checked.counts}
    return Event(
        "appliance.checked",
        actor,
        outcome="serious" if checked.findings else "success",
        objects=tuple(dict.fromkeys(ids))[:NAMED],
        activity="records check",
        detail=detail,
    )


def run(vault: "Vault", steps: Iterator[Step | Checked], report: Callable[[int, int, str], None]) -> Checked:
    """Go through a scrub's steps, telling how far it is. Raises as `scrub`."""
    for step in steps:
        if isinstance(step, Checked):
            return step
        report(step.done >> 10, step.total >> 10, "KiB")
    raise IntegrityFailure("the scrub ended early", where=str(vault.home), hint="type the same command again")
