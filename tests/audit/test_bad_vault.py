"""A vault that somebody else has had in hand: keys, chunks, objects and rows put where they do not belong."""

import shutil
import sqlite3

import pytest

from audit.actor import Actor
from audit.errors import BadInput, ClocheError, IntegrityFailure, Refused
from audit.remote import RemoteVault
from audit.rows import NewObject
from audit.stream import CHUNK_BYTES, MAGIC
from audit.vault import Vault
from tests.audit.conftest import CHEAP, PASSPHRASE

ME = Actor.current("steward")
CANARY = b"Quexlorvian tumour of the left pons"
SEALED = CHUNK_BYTES + 16


def place(vault, object_id):
    return vault.home / "vault" / "objects" / object_id[:2] / object_id


def row(vault, object_id, **columns):
    """Change columns of an object's row."""
    with sqlite3.connect(vault.home / "vault" / "catalogue.sqlite") as connection:
        for name, value in columns.items():
            connection.execute(f"UPDATE objects SET {name} = ? WHERE id = ?", (value, object_id))  # noqa: S608
    connection.close()


def refused(vault, object_id):
    """The error of reading an object through the vault's own process; it says nothing of what is in it."""
    with (
        RemoteVault.open(vault.home, PASSPHRASE) as remote,
        pytest.raises(IntegrityFailure) as failure,
        remote.use([object_id], "TREAT", ME, "ask") as opened,
    ):
        opened.read(object_id)
    assert CANARY.decode() not in failure.value.diagnostics()
    return failure.value


@pytest.mark.parametrize("order", [(0, 1), (0, 2), (1, 2), (1, 0, 2), (0, 1, 1, 2), (2,), ()])
def test_chunks_that_are_missing_moved_or_doubled(vault, order):
    name = vault.put("image", CANARY * 80_000, actor=ME, patient="P-A")
    data = place(vault, name).read_bytes()
    chunks = [data[at : at + SEALED] for at in range(len(MAGIC), len(data), SEALED)]
    assert len(chunks) == 3
    place(vault, name).write_bytes(MAGIC + b"".join(chunks[number] for number in order))
    refused(vault, name)


def test_another_patients_object_in_its_place(vault):
    """File, digest, salt, size and even the patient of the row: the key is of the id, too."""
    mine, other = vault.put_many([NewObject("image", CANARY, "P-A"), NewObject("image", CANARY, "P-B")], actor=ME)
    shutil.copy(place(vault, other), place(vault, mine))
    refused(vault, mine)
    stored = vault.catalogue.object(other)
    row(vault, mine, digest=stored.digest, salt=stored.salt, size=stored.size)
    refused(vault, mine)
    row(vault, mine, patient=stored.patient)
    refused(vault, mine)
    assert [one.kind for one in vault.check(ME).findings] == ["unreadable"]


def test_its_own_older_version_in_its_place(vault):
    """A checkpoint's older state is another object: nothing of its file or row opens under the newer one's id."""
    old = vault.put("checkpoint", CANARY, actor=ME, note={"run": "run-1"})
    kept, stored = place(vault, old).read_bytes(), vault.catalogue.object(old)
    new = vault.put("checkpoint", CANARY[::-1], actor=ME, note={"run": "run-1"})
    vault.delete([old], actor=ME, activity="train")
    place(vault, new).write_bytes(kept)
    refused(vault, new)
    row(vault, new, digest=stored.digest, salt=stored.salt, size=stored.size)
    refused(vault, new)
    with pytest.raises(BadInput, match="deleted"), vault.use([old], "TREAT", ME, "ask"):
        pytest.fail("it was deleted")
    place(vault, old).write_bytes(kept)
    assert ("leftover", old) in {(one.kind, one.id) for one in vault.check(ME).findings}


@pytest.mark.parametrize("swapped", ["vault.key", "patients.sqlite", "both"])
def test_the_keys_of_another_appliance(vault, people, tmp_path, swapped):
    name = vault.put("report", CANARY, actor=ME, patient="P-A")
    vault.close()
    recipients = [one.recipient for one in people[:2]]
    with Vault.create(tmp_path / "other", PASSPHRASE, recipients, cost=CHEAP) as other:
        other.put("report", b"x", actor=ME, patient="P-A")
    for part in ("vault.key", "patients.sqlite") if swapped == "both" else (swapped,):
        shutil.copy(tmp_path / "other" / "keys" / part, vault.home / "keys" / part)
    with (
        pytest.raises(ClocheError) as failure,
        RemoteVault.open(vault.home, PASSPHRASE) as remote,
        remote.use([name], "TREAT", ME, "ask") as opened,
    ):
        opened.read(name)
    assert isinstance(failure.value, IntegrityFailure | Refused)
    assert CANARY.decode() not in failure.value.diagnostics()


def test_a_wrong_passphrase_and_a_newer_catalogue_on_the_command_line(type_, vault, tmp_path):
    vault.put("report", CANARY, actor=ME, patient="P-A")
    vault.close()
    path = vault.home / "vault" / "catalogue.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for words in (("records",), ("records", "check"), ("models",), ("runs",)):
        code, out, err = type_(*words)
        assert (code, out) == (3, "") and "newer version" in err and "Next: " in err
    (tmp_path / "passphrase-of-the-box").write_bytes(b"wrong\n")
    code, out, err = type_("records", "check")
    assert (code, out) == (3, "") and "passphrase is wrong" in err


def test_a_catalogue_that_is_damaged(vault):
    name = vault.put("report", CANARY, actor=ME, patient="P-A")
    row(vault, name, note="{not json")
    with pytest.raises(IntegrityFailure, match="row of the catalogue"):
        vault.check(ME)
    vault.close()
    path = vault.home / "vault" / "catalogue.sqlite"
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(IntegrityFailure):
        RemoteVault.open(vault.home, PASSPHRASE)
