"""The commands as a person types them: forget, backup, witness, destroy, restore."""

import io
import json
import shutil

import pytest

from audit.actor import Actor
from audit.erasures import FILE
from audit.errors import IntegrityFailure
from audit.keys import Cost
from audit.vault import Vault
from audit.witness import WitnessState

ACTOR = Actor.current("steward")
PASSPHRASE = b"correct horse"


@pytest.fixture
def patients(vault):
    made = [vault.pseudonym(number) for number in ("HN-4711", "HN-4712")]
    for number, patient in enumerate(made):
        vault.put("report", b"report", actor=ACTOR, patient=patient)
        run = vault.catalogue.start_run(
            "train", {"epochs": 3, "learning_rate": 0.001, "lora": {"rank": 8}, "rehearse": 0}
        )
        source = vault.catalogue.objects(patient=patient)[0].id
        adapter = vault.put("adapter", b"weights", actor=ACTOR, parents=[source], note={"run": run.id})
        vault.catalogue.add_model("adapter", [adapter], run=run.id, id=f"model-{number}")
        vault.catalogue.finish_run(run.id, {"adapter": adapter})
    vault.close()
    return made


@pytest.fixture
def recovery(tmp_path, people, monkeypatch):
    people[1].save(tmp_path / "recovery.key", b"pass", Cost(64, 1, 1))
    secret = tmp_path / "key-passphrase"
    secret.write_text("pass\n")
    secret.chmod(0o600)
    monkeypatch.setenv("CLOCHE_KEY_PASSPHRASE_FILE", str(secret))
    monkeypatch.setenv("CLOCHE_WITNESS_PASSPHRASE_FILE", str(secret))
    return tmp_path / "recovery.key"


def test_a_patient_is_looked_at_then_forgotten_by_number(type_, patients, monkeypatch):
    code, out, _ = type_("forget", patients[0], "--dry-run", "--retrain-plan")
    assert code == 0 and "would forget" in out and "model-0" in out and "cannot be undone" in out
    assert "--config > train.toml && cloche train --config train.toml" in out and "estimate" in out
    code, _, err = type_("forget", patients[0])
    assert code == 3 and "--yes" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("HN-4711\n"))
    code, out, err = type_("forget", "-", "--yes", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["done"] and found["patients"] == [patients[0]] and "HN-4711" not in out + err
    code, out, _ = type_("forget", patients[0], "--yes")
    assert code == 0 and "was forgotten at" in out
    code, _, err = type_("forget", "P-NOBODY2345", "--yes")
    assert code == 3 and "no such patient" in err
    code, out, _ = type_("models", "--json")
    assert [one["state"] for one in json.loads(out)] == ["retired", ""]
    code, _, err = type_("forget", patients[1], "--keep-models", "x", "--retire-models")
    assert code == 2


def test_a_destroyed_home_is_restored_with_what_the_witness_knows(type_, patients, recovery, tmp_path, vault):
    home = vault.home
    assert type_("backup", tmp_path / "b", "--dry-run")[0] == 0 and not (tmp_path / "b").exists()
    code, out, err = type_("backup", tmp_path / "b")
    assert code == 0 and "sealed to recovery" in out, err
    assert type_("backup", tmp_path / "b")[0] == 3
    assert type_("forget", patients[0], "--yes")[0] == 0
    assert type_("audit", "carry", tmp_path / "carried")[0] == 0
    assert type_("audit", "verify", tmp_path / "carried", "--key-pin", home / "keys/log.pub")[0] == 0
    state = tmp_path / "witness.json"
    code, _, err = type_("audit", "witness", "--state", state, "--pin", home / "keys/log.pub", tmp_path / "carried")
    assert code == 0, err
    newest = (home / FILE).read_bytes()
    shutil.rmtree(home)
    back = ("restore", tmp_path / "b", "--key", recovery, "--home", home)
    code, _, err = type_(*back)
    assert code == 3 and "erasure list" in err and not home.exists()
    code, out, err = type_(*back, "--witness", state, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["forgotten"] == [patients[0]] and found["old_log"]["lost"]
    with Vault.open(home, PASSPHRASE) as opened:
        assert not opened.catalogue.objects(patient=patients[0]) and opened.catalogue.objects(patient=patients[1])
    code, out, err = type_("audit", "verify")
    assert code == 0, err
    watching = WitnessState.open(state, b"pass")
    with pytest.raises(IntegrityFailure, match="not signed by a log"):  # the new log is not adopted yet
        watching.keep_erasures(watching.origins[0], (home / FILE).read_bytes())
    assert watching.keep_erasures(watching.origins[0], newest) == 1


def test_a_witness_takes_no_shorter_list(type_, patients, recovery, tmp_path, vault):
    home, state = vault.home, tmp_path / "witness.json"
    (tmp_path / "stick").mkdir()
    for number, patient in enumerate(patients):
        assert type_("forget", patient, "--yes")[0] == 0
        code, _, err = type_("audit", "checkpoint", "--out", tmp_path / "stick")
        assert code == 0, err
        shutil.copy(home / FILE, tmp_path / f"list-{number}")
    newest = max((tmp_path / "stick").glob("*.checkpoint"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    code, _, err = type_("audit", "witness", "--state", state, "--pin", home / "keys/log.pub", newest)
    assert code == 0, err
    watching = WitnessState.open(state, b"pass")
    with pytest.raises(IntegrityFailure, match="rollback"):
        watching.keep_erasures(watching.origins[0], (tmp_path / "list-0").read_bytes())
    assert watching.keep_erasures(watching.origins[0], (tmp_path / "list-1").read_bytes()) == 2
