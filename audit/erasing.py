"""The steps of a forgetting that is in the log: each can be done twice, and the old vault key leaves last.

Whoever is killed on the way: the next one to open the appliance does all of them again, from the intent in the bag.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

from audit import database, store
from audit.bag import Bag
from audit.catalogue import Catalogue
from audit.entry import EVENT, Header
from audit.erasures import FILE, MARK, Erasure, Erasures, Forgetting
from audit.errors import IntegrityFailure, storage
from audit.files import replace_file, wipe_and_close
from audit.home import CATALOGUE, LOG, flush
from audit.objects import ObjectStore
from audit.patientkeys import MIGRATIONS, PATIENTS_FILE, object_of, open_key, seal_key

RETIRED = "retired"
"""State of a model, and of a run, that is used no more."""


def erase(home: Path, bag: Bag, wanted: Forgetting, size: int) -> None:
    """Do all that a forgetting does outside the bag.

    Args:
        home: the appliance; the caller holds its keys alone.
        bag: the bag, with the old vault key.
        wanted: what is to go.
        size: entries of the log before its events.

    Raises:
        EnvironmentProblem: the disk refuses; it goes on from there.
    """
    catalogue = Catalogue(home / CATALOGUE)
    try:
        _mark(catalogue, wanted)
        rewrap(
            home, bag.vault_key, wanted.vault_key, lambda name: name not in wanted.patients and _there(catalogue, name)
        )
    finally:
        catalogue.close()
    _list(home, bag, wanted, size)
    _unlink(home, wanted.objects)


def rewrap(home: Path, old: bytes, new: bytes, stays: Callable[[str], bool]) -> None:
    """Put a fresh file of wrapped keys in the place of the one there is; keys that do not stay are in it no more.

    What is deleted from a database lives on in its free pages and in its write-ahead log: so the file is made anew.

    Args:
        home: the appliance.
        old: the vault key that the keys are wrapped by, unless this was done before.
        new: the vault key to wrap them by.
        stays: whether the key of this name is to stay.

    Raises:
        IntegrityFailure: a key that is to stay does not open. EnvironmentProblem: the disk refuses.
    """
    path = home / "keys" / PATIENTS_FILE
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")  # `settle.sweep` knows this form
    with storage(path):
        try:
            rows = _closed(path)
            fresh = database.connect(made, MIGRATIONS)
            try:
                with database.transaction(fresh):
                    for name, wrapped in rows:
                        if stays(name):
                            key = _opened(name, wrapped, old, new, path)
                            fresh.execute("INSERT INTO patients VALUES (?, ?)", (name, seal_key(new, name, key)))
                fresh.execute("PRAGMA journal_mode = DELETE")
            finally:
                fresh.close()
            flush(made)
            before = os.open(path, os.O_RDWR)
            os.replace(made, path)
            flush(path.parent)
            wipe_and_close(before)
        finally:
            for end in ("", "-wal", "-shm", "-journal"):
                made.with_name(made.name + end).unlink(missing_ok=True)


def _closed(path: Path) -> list[tuple[str, bytes]]:
    """All rows of the database, and no write-ahead log beside it any more: SQLite would take it for the new file's."""
    before = sqlite3.connect(path, isolation_level=None)
    try:
        before.execute("PRAGMA secure_delete = ON")
        rows = before.execute("SELECT patient, wrapped FROM patients ORDER BY patient").fetchall()
        before.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before.execute("PRAGMA journal_mode = DELETE")
    finally:
        before.close()
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    flush(path.parent)
    return rows


def _opened(name: str, wrapped: bytes, old: bytes, new: bytes, path: Path) -> bytes:
    """The key of a row; it is under the new vault key already where somebody was killed after the new file came."""
    found = open_key(old, name, wrapped) or open_key(new, name, wrapped)
    if found is None:
        raise IntegrityFailure(
            "a patient's key was changed",
            where=str(path),
            hint="restore the last backup beside it, then the same again",
        )
    return found


def _there(catalogue: Catalogue, name: str) -> bool:
    """Whether what a key opens is still there: those of shared objects go with their object."""
    object_id = object_of(name)
    return not object_id or catalogue.holds(object_id)


def _mark(catalogue: Catalogue, wanted: Forgetting) -> None:
    with catalogue.transaction():
        catalogue.mark_deleted(one for one in wanted.objects if catalogue.holds(one))
        for run in wanted.runs:
            catalogue.set_state(run, RETIRED)
        for model in wanted.retired:
            catalogue.update_model(model, {"state": RETIRED, "retired": wanted.at})
        for model in wanted.kept:
            catalogue.update_model(model, {"kept": wanted.reason, "kept_at": wanted.at})


def _list(home: Path, bag: Bag, wanted: Forgetting, size: int) -> None:
    """Add the patient to the erasure list."""
    known = Erasures.load(home)
    signer = bag.signer()
    note, rotations, rows = _cited(home, size)
    sequence = next((number for number, header in rows if Header.from_bytes(header).class_ == EVENT), size)
    marks = [bag.mark(MARK, patient.encode()) for patient in wanted.patients]
    more = [Erasure(mark.hex(), wanted.at, signer.key.name, sequence) for mark in marks if known.of(mark) is None]
    made = Erasures((*known.erasures, *more), note, signer.key, rotations)
    replace_file(home / FILE, made.sign(signer), mode=0o640)


def _cited(home: Path, size: int) -> tuple[bytes, tuple[bytes, ...], list[tuple[int, bytes]]]:
    """The log's newest checkpoint, its changes of keys, and the entries that were added first; nothing of a log that
    cannot be read: a new one is about to take its place, and the patient stays forgotten."""
    try:
        connection = store.reader(home / LOG)
        try:
            query = "SELECT sequence, header FROM entries WHERE sequence >= ? ORDER BY sequence LIMIT 2"
            rows = connection.execute(query, (size,)).fetchall()
            return store.head(connection).note, tuple(store.rotations(connection)), rows
        finally:
            connection.close()
    except (sqlite3.Error, IntegrityFailure):
        return b"", (), []


def _unlink(home: Path, object_ids: tuple[str, ...]) -> None:
    objects = ObjectStore(home / "vault")
    try:
        for object_id in object_ids:
            objects.remove(object_id)
        objects.settled()
    finally:
        objects.close()
