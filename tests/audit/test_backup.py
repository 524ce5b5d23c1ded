"""Backup and restore, by destroying the home; what was forgotten since stays forgotten."""

import shutil
from pathlib import Path

import pytest

from audit import backup
from audit.actor import Actor
from audit.bag import BagFile
from audit.checkpoint import VerifierKey
from audit.erasures import FILE, MARK, Erasures
from audit.errors import BadInput, ClocheError, IntegrityFailure, Refused
from audit.newfile import new_file
from audit.reading import read
from audit.remote import RemoteVault
from audit.restoring import restore
from audit.vault import Vault
from audit.verify import verify

ACTOR = Actor.current("operator")
PASSPHRASE = b"correct horse"


@pytest.fixture
def filled(vault):
    """A home with two patients' reports, a large shared object, and one that was deleted."""
    patients = [vault.pseudonym(number) for number in ("4711", "4712")]
    made = [vault.put("report", f"report of {one}".encode(), actor=ACTOR, patient=one) for one in patients]
    large = vault.put("gguf", bytes(range(256)) * 12_000, actor=ACTOR)
    gone = vault.put("checkpoint", b"old", actor=ACTOR)
    vault.delete([gone], actor=ACTOR, activity="train")
    vault.close()
    return vault.home, patients, made, large


def back_up(home: Path, to: Path) -> Path:
    with RemoteVault.open(home, PASSPHRASE) as vault, new_file(to) as file:
        for piece in vault.backup(ACTOR, to.name):
            file.write(piece)
    return to


def bring_back(file, people, target, **more):
    more = more or {"none_known": "nobody was forgotten, says the steward"}
    return restore(file, people[1], target, PASSPHRASE, ACTOR, **more)


def verdict_of(home):
    return verify(home / "audit/log.sqlite", VerifierKey.from_text((home / "keys/log.pub").read_text()))


def test_a_destroyed_home_comes_back_whole_under_a_new_log(filled, people, tmp_path):
    home, _, made, large = filled
    file = back_up(home, tmp_path / "b.cloche")
    assert file.stat().st_mode & 0o777 == 0o600
    old = verdict_of(home)
    shutil.rmtree(home)
    done = bring_back(file, people, home)
    assert done.objects == 3 and not done.remains.lost and not done.forgotten
    new = verdict_of(home)
    assert new.state == "intact" and new.origin != old.origin and old.origin in new.goes_on_from
    with Vault.open(home, PASSPHRASE) as vault, vault.use([*made, large], "TREAT", ACTOR, "ask") as opened:
        assert opened.read(large) == bytes(range(256)) * 12_000
        assert opened.read(made[0]).startswith(b"report of")
    kinds = [one.event.kind for one in read(home / "audit/log.sqlite", people[0], new.size)]
    assert kinds[0] == "log.restarted" and "backup.restored" in kinds
    (kept,) = (home / "audit/old").glob("*.sqlite")
    assert verify(kept, VerifierKey.from_text(kept.with_suffix(".pub").read_text())).state == "intact"


def test_a_backup_shows_its_checkpoint_and_nothing_else(filled, people, tmp_path):
    home, patients, _, _ = filled
    file = back_up(home, tmp_path / "b.cloche")
    with open(file, "rb") as opened:
        header, _ = backup.Header.read(opened, "b")
    from audit.checkpoint import open_note

    pin = VerifierKey.from_text((home / "keys/log.pub").read_text())
    assert open_note(header.checkpoint, pin).size == verdict_of(home).size
    content = file.read_bytes()
    assert not any(one.encode() in content for one in patients) and b"report" not in content


def test_who_was_forgotten_after_the_backup_stays_forgotten(filled, people, tmp_path):
    home, patients, made, large = filled
    file = back_up(home, tmp_path / "b.cloche")
    with Vault.open(home, PASSPHRASE, alone=True) as vault:
        vault.forget(patients[0], ACTOR)
    listed = (home / FILE).read_bytes()
    last = BagFile.open(home, PASSPHRASE).bag.signer()
    (first,) = Erasures.load(home).erasures
    with Vault.open(home, PASSPHRASE) as vault:
        witnessed = vault.checkpoint()
    shutil.rmtree(home)
    with pytest.raises(Refused, match="needs the erasure list"):
        restore(file, people[1], home, PASSPHRASE, ACTOR)
    assert not home.exists()
    done = bring_back(file, people, home, erasures=listed, elsewhere=witnessed)
    assert done.forgotten == (patients[0],) and done.remains.lost  # the forgetting itself was witnessed, and is lost
    with Vault.open(home, PASSPHRASE) as vault:
        assert not vault.catalogue.holds(made[0]) and vault.catalogue.holds(made[1]) and vault.catalogue.holds(large)
        with pytest.raises(BadInput, match="deleted"), vault.use([made[0]], "TREAT", ACTOR, "ask"):
            pass
        with pytest.raises(Refused, match="forgotten"):
            vault.put("report", b"x", actor=ACTOR, patient=patients[0])
        assert Erasures.load(home).of(vault.mark(MARK, patients[0].encode())) == first  # with its first date
    assert last.key.name == first.origin != verdict_of(home).origin
    again = back_up(home, tmp_path / "c.cloche")  # and a second time round
    listed = (home / FILE).read_bytes()
    shutil.rmtree(home)
    bring_back(again, people, home, erasures=listed)
    with Vault.open(home, PASSPHRASE) as vault:
        assert not vault.catalogue.holds(made[0]) and Erasures.load(home).erasures == (first,)


def test_another_appliances_erasure_list_is_refused(filled, people, tmp_path):
    home, patients, _, _ = filled
    recipients = [people[0].recipient, people[1].recipient]
    from audit.keys import Cost

    with Vault.create(tmp_path / "other", PASSPHRASE, recipients, cost=Cost(64, 1, 1), actor=ACTOR) as other:
        patient = other.pseudonym("1")
        other.put("report", b"x", actor=ACTOR, patient=patient)
    with Vault.open(tmp_path / "other", PASSPHRASE, alone=True) as other:
        other.forget(patient, ACTOR)
    file = back_up(home, tmp_path / "b.cloche")
    with pytest.raises(Refused, match="not signed by a log"):
        bring_back(file, people, tmp_path / "new", erasures=(tmp_path / "other" / FILE).read_bytes())
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))


def test_wrong_key_wrong_passphrase_and_a_place_that_is_taken(filled, people, tmp_path):
    home, *_ = filled
    file = back_up(home, tmp_path / "b.cloche")
    with pytest.raises(Refused, match="another key"):
        restore(file, people[0], tmp_path / "new", PASSPHRASE, ACTOR, none_known="x")
    with pytest.raises(Refused, match="passphrase"):
        restore(file, people[1], tmp_path / "new", b"wrong", ACTOR, none_known="x")
    with pytest.raises(Refused, match="something here"):
        bring_back(file, people, home)
    with pytest.raises(BadInput, match="no backup"):
        bring_back(home / "cloche.json", people, tmp_path / "new")
    with pytest.raises(BadInput, match="cannot be read"):
        bring_back(tmp_path / "nowhere", people, tmp_path / "new")
    with pytest.raises(Refused, match="exists already"):
        back_up(home, file)
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))


def test_a_changed_backup_leaves_nothing_behind(filled, people, tmp_path):
    home, *_ = filled
    data = back_up(home, tmp_path / "b.cloche").read_bytes()
    length = len(data)
    first = 12 + int.from_bytes(data[8:12], "big") + 8
    chunk = (1 << 20) + 16
    swapped = data[:first] + data[first + chunk : first + 2 * chunk] + data[first : first + chunk]
    cases = {
        "cut": data[:-1], "half": data[: length // 2], "header only": data[:first], "empty": b"",
        "chunk missing": data[:first] + data[first + chunk :], "continued": data + b"\0",
        "swapped": swapped + data[first + 2 * chunk :],
    }  # fmt: skip
    for at in [*range(0, first, 97), first + 5, first + chunk - 1, length // 2, length - 1]:
        cases[f"flip {at}"] = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    for name, changed in cases.items():
        (tmp_path / "broken").write_bytes(changed)
        with pytest.raises(ClocheError) as raised:
            bring_back(tmp_path / "broken", people, tmp_path / "new")
        assert isinstance(raised.value, IntegrityFailure | BadInput | Refused), name
        assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*")), name


def test_a_hostile_path_in_a_backup_is_refused(filled, people, tmp_path, monkeypatch):
    """Whoever has the recovery holder's public key can seal a backup: its paths are not to be trusted."""
    from audit.restoring import _safe

    for path in (
        "../x",
        "/etc/passwd",
        "keys/../../x",
        "keys//x",
        "",
        ".",
        "bin/x",
        "keys/.x",
        "keys/a\0b",
        "x" * 4096,
    ):
        with pytest.raises(IntegrityFailure, match="no appliance has"):
            _safe(path, set(), "b")
    assert _safe("keys/vault.key", set(), "b") == Path("keys/vault.key")
