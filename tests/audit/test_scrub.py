"""The scrub: what was changed in the vault is named by its id, and nothing else of it is told."""

import json
import os
import sqlite3

import pytest

from audit.actor import Actor
from audit.remote import RemoteVault
from audit.rows import NewObject, Record
from audit.stream import CHUNK_BYTES, sealed_size
from audit.vault import Vault
from tests.audit.conftest import PASSPHRASE
from tests.audit.test_vault import trail

ME = Actor.current("steward")
CANARY = b"Quexlorvian tumour of the left pons"


@pytest.fixture
def filled(vault):
    """A record of each of two patients, and a model."""
    for patient in ("P-AAAAAAAAAA", "P-BBBBBBBBBB"):
        image, report = vault.put_many(
            [NewObject("image", CANARY * 40_000, patient), NewObject("report", CANARY, patient)], actor=ME
        )
        vault.catalogue.add_record(Record(f"rec-{patient[2:5].lower()}", patient, image, report, patient, "train"))
    adapter = vault.put("adapter", b"weights", actor=ME)
    vault.catalogue.add_model("adapter", [adapter], id="model-one")
    return vault


def place(vault, object_id):
    return vault.home / "vault" / "objects" / object_id[:2] / object_id


def change(vault, sql, *values):
    """Change the catalogue as somebody else with the disk in hand would."""
    with sqlite3.connect(vault.home / "vault" / "catalogue.sqlite") as connection:
        connection.execute(sql, values)
    connection.close()


def of_kind(vault, kind):
    return [one.id for one in vault.catalogue.objects(kind)]


def found(vault, fast=False):
    return {(one.kind, one.id) for one in vault.check(ME, fast).findings}


@pytest.mark.parametrize("fast", [False, True])
def test_a_sound_vault_is_found_sound_and_the_log_says_so(filled, people, fast):
    told = []
    checked = filled.check(ME, fast, lambda *step: told.append(step))
    files = sum(place(filled, one.id).stat().st_size for one in filled.catalogue.objects())
    assert (checked.objects, checked.bytes, checked.fast, checked.findings) == (5, files, fast, ())
    event = trail(filled, people)[-1]
    assert (event.kind, event.outcome, event.objects) == ("appliance.checked", "success", ())
    assert event.detail == {"checked": 5, "bytes": files, "fast": fast, "found": {}}


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_the_size_of_a_sealed_file(vault, size):
    assert place(vault, vault.put("image", bytes(size), actor=ME)).stat().st_size == sealed_size(size)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("damage", ["flip", "chunk", "cut", "longer", "empty", "swap", "gone"])
def test_a_changed_file_is_named(filled, people, fast, damage):
    image, other = of_kind(filled, "image")
    path = place(filled, image)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        sealed = CHUNK_BYTES + 16
        path.write_bytes({
            "flip": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
            "chunk": data[:8] + data[8 + sealed :],
            "cut": data[: 8 + sealed],
            "longer": data + b"x",
            "empty": b"",
            "swap": place(filled, other).read_bytes(),
        }[damage])  # fmt: skip
    kind = "missing" if damage == "gone" else "changed"
    assert found(filled, fast) == {(kind, image)}
    event = trail(filled, people)[-1]
    assert (event.outcome, event.objects, event.detail["found"]) == ("serious", (image,), {kind: 1})


def test_what_only_decryption_sees(filled):
    """The file and its digest were both changed: another patient's object put in an object's place, row and all."""
    image, other = of_kind(filled, "image")
    place(filled, image).write_bytes(place(filled, other).read_bytes())
    change(filled, "UPDATE objects SET digest = (SELECT digest FROM objects WHERE id = ?) WHERE id = ?", other, image)
    assert found(filled, fast=True) == set()
    assert found(filled) == {("unreadable", image)}


@pytest.mark.parametrize("column", ["salt", "version", "patient"])
def test_a_row_that_was_changed_opens_nothing(filled, column):
    image = of_kind(filled, "image")[0]
    value = {"salt": bytes(32), "version": 7, "patient": "P-BBBBBBBBBB"}[column]
    change(filled, f"UPDATE objects SET {column} = ? WHERE id = ?", value, image)  # noqa: S608
    expected = {("unreadable", image)} | ({("contradiction", "rec-aaa")} if column == "patient" else set())
    assert found(filled) == expected


@pytest.mark.parametrize("fast", [False, True])
def test_the_catalogue_against_itself_and_the_files(filled, fast):
    image, other = of_kind(filled, "image")
    report = of_kind(filled, "report")[1]
    adapter = of_kind(filled, "adapter")[0]
    change(filled, "UPDATE objects SET size = size - 1 WHERE id = ?", image)
    change(filled, "UPDATE records SET report = 'nothing' WHERE id = 'rec-aaa'")
    change(filled, "UPDATE models SET parent_model = 'model-none' WHERE id = 'model-one'")
    change(filled, "INSERT INTO parents VALUES ('nobody', ?)", adapter)
    change(filled, "UPDATE objects SET deleted = 'yesterday' WHERE id = ?", other)
    change(filled, "DELETE FROM objects WHERE id = ?", report)
    hostile = filled.home / "vault" / "objects" / "zz"
    hostile.mkdir()
    (hostile / "zz\x1b[2J\n").write_bytes(b"")
    (filled.home / "vault" / "objects" / image).write_bytes(b"")
    assert found(filled, fast) == {
        ("size", image),
        ("contradiction", "rec-aaa"),
        ("contradiction", "rec-bbb"),  # its report's row is gone
        ("contradiction", "model-one"),
        ("contradiction", "nobody"),
        ("leftover", other),
        ("stray", report),
        ("stray", "zz\\x1b[2J\\n"),
        ("stray", f"objects/{image}"),
    }


def test_a_patient_without_a_key(filled):
    filled.close()
    with sqlite3.connect(filled.home / "keys" / "patients.sqlite") as keys:
        keys.execute("DELETE FROM patients WHERE patient = 'P-BBBBBBBBBB'")
    keys.close()
    with Vault.open(filled.home, PASSPHRASE) as again:
        lost = {one.id for one in again.catalogue.objects(patient="P-BBBBBBBBBB")}
        assert found(again) == {("keyless", one) for one in lost} and len(lost) == 2


def test_through_the_process_it_is_the_same_and_carries_on(filled):
    many = [NewObject("sample", os.urandom(50), "P-AAAAAAAAAA") for _ in range(600)]
    name = filled.put_many(many, actor=ME)[-1]
    place(filled, name).write_bytes(b"CLOCHEB1")
    told = []
    with RemoteVault.open(filled.home, PASSPHRASE) as remote:
        checked = remote.check(ME, report=lambda *step: told.append(step))
        assert checked == filled.check(ME) and [one.id for one in checked.findings] == [name]
        assert told == sorted(told) and len(told) >= 2 and told[-1][0] <= told[-1][1]
        assert remote.checkpoint()


def test_the_command(type_, filled):
    image = of_kind(filled, "image")[0]
    code, out, err = type_("records", "check")
    assert code == 0 and out.startswith("5 objects, ") and "their keys open them" in out
    assert len(type_("records")[1].splitlines()) == 2
    place(filled, image).write_bytes(b"no object file")
    code, out, err = type_("records", "check")
    assert code == 4 and out.startswith(f"{image}  changed") and "restore" in err
    code, out, _ = type_("records", "check", "--fast", "--json")
    told = json.loads(out)
    assert code == 4 and told["findings"] == [{"kind": "changed", "id": image}] and told["found"] == {"changed": 1}
    assert CANARY.decode() not in out + err and "no object file" not in out
