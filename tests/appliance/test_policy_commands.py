"""Policy and consent as people type them, and what the stages make of them."""

import io
import json
import sys
from pathlib import Path

import pytest

from appliance.jobs.common import Desk, training_records
from appliance.jobs.questions import sources_of
from audit.actor import Actor
from audit.errors import BadInput, Refused
from audit.policy import Terms
from audit.vault import Vault
from tests.appliance.conftest import NUMBER, STEWARD, Run, bring_in

POLICY = """
[consent]
required = true
[consent.tags]
research = ["HRESCH", "HOPERAT"]
[[rules]]
name = "no-research-2019"
source = "pacs-2019"
purposes = ["TREAT"]
"""
OPERATOR = Actor("ada", "operator")


@pytest.fixture
def box(vault: Vault, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Type commands on the vault's box."""
    secret = tmp_path / "passphrase"
    secret.write_bytes(b"correct horse\n")
    secret.chmod(0o600)
    monkeypatch.setenv("CLOCHE_PASSPHRASE_FILE", str(secret))
    monkeypatch.setenv("CLOCHE_HOME", str(vault.home))
    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def test_a_policy_is_checked_tried_and_set(box: Run, vault: Vault, file: Path) -> None:
    code, said, _ = box("policy", "show", "--json")
    assert code == 0 and json.loads(said)["where"] == "no policy.toml"
    code, said, _ = box("policy", "check", str(file))
    assert code == 0 and "rule no-research-2019: source pacs-2019; only for TREAT" in said
    code, said, _ = box("policy", "set", str(file), "--dry-run")
    assert code == 0 and "would be in force" in said and not (vault.home / "policy.toml").exists()
    code, said, _ = box("policy", "set", str(file), "--json")
    assert code == 0 and (vault.home / "policy.toml").read_text() == POLICY
    code, shown, _ = box("policy", "show", "--json")
    assert json.loads(shown)["digest"] == json.loads(said)["digest"]
    file.write_text("[consent]\nrequired = 'yes'\n")
    for words in (("check", str(file)), ("set", str(file)), ("set", str(file), "--dry-run")):
        code, said, told = box("policy", *words)
        assert code == 3 and not said and "policy.toml, consent.required" in told
    assert (vault.home / "policy.toml").read_text() == POLICY
    code, _, told = box("policy", "check", str(file.parent / "none"))
    assert code == 3 and "no such file" in told


def test_consent_comes_with_what_comes_in(box: Run, vault: Vault, folder: Path, file: Path) -> None:
    words = ("ingest", str(folder), "--consent", "research", "--expires", "2999-12-31", "--source", "pacs-2024")
    code, _, told = box(*words)
    assert code == 3 and "knows no consent tag" in told and not vault.catalogue.records()
    box("policy", "set", str(file))
    for wrong in (("--expires", "soon"), ("--source", "../x"), ("--consent", "Research")):
        code, _, told = box("ingest", str(folder), *wrong)
        assert code == 3 and not vault.catalogue.records()
    assert box(*words)[0] == 0
    records = vault.catalogue.records()
    assert {(r.consent, r.expires, r.source) for r in records} == {("research", "2999-12-31", "pacs-2024")}
    code, said, _ = box("records")
    assert code == 0 and said.count("research until 2999-12-31") == 20


def test_consent_is_entered_and_withdrawn_by_command(box: Run, vault: Vault, folder: Path, file: Path) -> None:
    bring_in(vault, folder)
    box("policy", "set", str(file))
    ids = [r.id for r in vault.catalogue.records()]
    assert box("records", "consent", *ids, "--tag", "research", "--dry-run")[0] == 0
    assert not vault.catalogue.record(ids[0]).consent
    assert box("records", "consent", *ids, "--tag", "research", "--expires", "2020-01-01")[0] == 0
    assert "EXPIRED" in box("records")[1]
    assert box("records", "consent", *ids, "--expires", "never")[0] == 0
    patient = vault.pseudonym(NUMBER)
    code, said, _ = box("records", "consent", patient, "--patient", "--withdraw", "--json")
    assert code == 0 and len(json.loads(said)["records"]) == 10
    assert {r.consent for r in vault.catalogue.records(patient=patient)} == {"withdrawn"}
    for words, code in ((("rec-none", "--withdraw"), 3), ((ids[0],), 2), (("P-NOBODY", "--patient", "--withdraw"), 3)):
        assert box("records", "consent", *words)[0] == code
    assert "10 by consent.withdrawn" in box("policy", "show")[1]


def test_one_withdrawn_record_does_not_stop_training(
    vault: Vault, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring_in(vault, folder, terms=Terms("research", "", "", ""))
    vault.set_policy(POLICY.encode(), OPERATOR)
    desk, held = Desk(vault, STEWARD), vault.catalogue.records("train")
    assert training_records(desk) == held and not capsys.readouterr().err
    vault.set_consent([held[0].id], STEWARD, withdraw=True)
    vault.set_consent([held[1].id], STEWARD, expires="2020-01-01")
    assert training_records(desk) == held[2:]
    said = capsys.readouterr().err
    assert "leaves out 2 of 10 records: 1 by consent.expired, 1 by consent.withdrawn" in said
    assert len(sources_of(desk)) == 18
    with pytest.raises(Refused, match="does not allow"), vault.use([held[0].image], "HRESCH", STEWARD, "train"):
        pytest.fail("it was withdrawn")
    vault.set_consent([one.id for one in held], STEWARD, withdraw=True)
    with pytest.raises(Refused, match="allows none of 10 records"):
        training_records(desk)
    with pytest.raises(BadInput, match="no records of the split"):
        training_records(desk, "nowhere")


def test_two_identities_become_one_and_two_again(
    box: Run, vault: Vault, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_in(vault, folder)
    one, other = vault.pseudonym("HN200300"), vault.pseudonym(NUMBER)
    code, said, _ = box("records", "link", one, other, "--dry-run")
    assert code == 0 and "would be one patient" in said and vault.catalogue.identities(one) == (one,)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{NUMBER}\n"))
    code, said, told = box("records", "link", one, "-")
    assert code == 0 and "WARNING" in said and NUMBER not in said + told
    assert vault.catalogue.identities(other) == tuple(sorted((one, other)))
    code, said, _ = box("records", "--json")
    assert {tuple(row["identities"]) for row in json.loads(said)} == {tuple(sorted((one, other)))}
    assert box("records", "link", one, other)[0] == 3
    assert box("records", "link", one, "P-NOBODY")[0] == 3
    code, said, _ = box("records", "link", other, one, "--undo")
    assert code == 0 and vault.catalogue.identities(one) == (one,)


def test_a_linked_patient_stays_on_one_side_of_the_split(vault: Vault, folder: Path) -> None:
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    (folder / "pairs.jsonl").write_text("\n".join(lines[:2]) + "\n")
    bring_in(vault, folder)
    one, other = vault.pseudonym("HN200300"), vault.pseudonym(NUMBER)
    vault.link(one, other, STEWARD)
    (folder / "pairs.jsonl").write_text(lines[2].replace("HN200300", "HN-NEW") + "\n")
    bring_in(vault, folder)
    vault.link(one, vault.pseudonym("HN-NEW"), STEWARD)
    assert set(vault.catalogue.identities(other)) == {one, other, vault.pseudonym("HN-NEW")}
