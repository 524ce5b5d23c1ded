"""A new log that goes on from one that was stolen, lost, damaged, or brought back by a backup."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from audit.actor import Actor
from audit.bag import BagFile
from audit.checkpoint import Checkpoint, VerifierKey
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.events import Event
from audit.reading import read
from audit.restart import remains, restart
from audit.rotation import has_predecessor
from audit.vault import Vault
from audit.verify import verify

ACTOR = Actor("grace", "officer")
PASSPHRASE = b"correct horse"
LOG, MARK, KEY, PIN = "audit/log.sqlite", "audit/high-water", "keys/vault.key", "keys/log.pub"


@pytest.fixture
def home(vault):
    """An appliance with four entries that nobody has open."""
    vault.put("report", b"x", actor=ACTOR, patient="P-A")
    vault.record(Event("note", ACTOR))
    vault.close()
    return vault.home


@pytest.fixture
def backup(home, tmp_path):
    """A copy of the home of four entries; the home itself goes on to six, and its newest checkpoint is kept."""
    shutil.copytree(home, tmp_path / "backup")
    with Vault.open(home, PASSPHRASE) as vault:
        vault.record(Event("note", ACTOR))
        (tmp_path / "witnessed").write_bytes(vault.checkpoint())
    return tmp_path / "backup"


def size_of(home):
    return verify(home / LOG).size


def pin(home):
    return VerifierKey.from_text((home / PIN).read_text())


def first_event(home, pair):
    verdict = verify(home / LOG, pin(home), home / MARK)
    assert verdict.state == "intact" and has_predecessor(verdict.origin), verdict.sentence
    return next(read(home / LOG, pair, verdict.size)).event


def usable(home, people):
    """The appliance opens, its data can be read, and the log takes it down."""
    with Vault.open(home, PASSPHRASE) as vault:
        assert vault.recipients == tuple(one.recipient for one in people[:2])
        (name,) = [one.id for one in vault.catalogue.objects("report")]
        with vault.use([name], "TREAT", ACTOR, "ask") as used:
            assert used.read(name) == b"x"
    assert verify(home / LOG, pin(home), home / MARK).size == 4  # two openings, log.restarted, object.used


def test_after_a_theft_the_new_log_cites_all_of_the_old_one(home, people):
    before, whole = pin(home), size_of(home)
    found, kept = restart(home, PASSPHRASE, "stolen", ACTOR)
    assert (found.kept, found.last.size, found.lost, found.wrong, found.forked) == (whole, whole, None, "", False)
    event = first_event(home, people[0])
    assert event.kind == "log.restarted" and event.reason == "stolen" and event.actor.user == "grace"
    assert event.detail["old_log"]["root"] == found.last.root.hex() and event.detail["old_log"]["lost"] == []
    verdict = verify(home / LOG, pin(home), home / MARK)
    assert verdict.goes_on_from == f"{before.name} (stolen), {whole} entries, root {found.last.root.hex()}"
    kept = Path(kept)
    assert VerifierKey.from_text(kept.with_suffix(".pub").read_text()) == before != pin(home)
    assert verify(kept, before, kept.with_suffix(".high-water")).size == whole
    assert [one.event.kind for one in read(kept, people[0], whole)][0] == "appliance.created"
    usable(home, people)


def test_what_a_killed_writer_left_beside_the_log_goes_with_it(vault, people, tmp_path):
    """A -wal that was never folded in belongs to the old log; beside the new one SQLite would take it for its own."""
    vault.put("report", b"x", actor=ACTOR, patient="P-A")
    home = tmp_path / "killed"
    shutil.copytree(vault.home, home)
    assert (home / "audit" / "log.sqlite-wal").stat().st_size
    whole, key, old_key = size_of(vault.home), pin(home), BagFile.open(home, PASSPHRASE).bag.log_key
    found, kept = restart(home, PASSPHRASE, "stolen", ACTOR)
    assert found.kept == whole and Path(f"{kept}-wal").stat().st_size
    assert verify(Path(kept), key, Path(kept).with_suffix(".high-water")).size == whole
    assert old_key not in BagFile.open(home, PASSPHRASE).bag.encode()
    usable(home, people)


def test_a_restored_log_that_does_not_open_is_gone_on_from(home, backup, people):
    """The older copy of the log under the newer mark: the mark knows what was lost."""
    whole = size_of(home)
    shutil.copy(backup / LOG, home / LOG)
    with pytest.raises(IntegrityFailure, match="cut short"):
        Vault.open(home, PASSPHRASE)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path.name != "lock"}
    found = remains(home, PASSPHRASE)
    assert found.lost == (size_of(backup), whole - 1) and found.last.size == whole
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path.name != "lock"}
    assert {path: data for path, data in after.items() if not path.name.endswith(("-wal", "-shm"))} == before
    restart(home, PASSPHRASE, "restored", ACTOR)
    assert first_event(home, people[0]).detail["old_log"]["lost"] == list(found.lost)
    usable(home, people)


def test_a_whole_backup_does_not_know_what_it_lost_but_the_witness_does(backup, home, people, tmp_path):
    note = (tmp_path / "witnessed").read_bytes()
    witnessed = Checkpoint.from_body(note)
    assert remains(backup, PASSPHRASE).lost is None
    assert remains(backup, PASSPHRASE, note).lost == (size_of(backup), witnessed.size - 1)
    found, _ = restart(backup, PASSPHRASE, "restored", ACTOR, note)
    assert found.last == witnessed and not found.forked
    assert first_event(backup, people[0]).detail["old_log"]["size"] == witnessed.size
    usable(backup, people)


def test_a_log_that_is_damaged_or_gone_or_without_a_mark(home, backup, people, tmp_path):
    def damaged(path):
        connection = sqlite3.connect(path / LOG)
        connection.execute("DROP TRIGGER entries_do_not_change")
        connection.execute("UPDATE entries SET body = zeroblob(1024) WHERE sequence = 2")
        connection.commit()
        connection.close()

    whole = size_of(home)
    cases = {
        "damaged": (damaged, 2, whole),
        "no database": (lambda path: (path / LOG).write_bytes(b"x" * 9000), 0, whole),
        "gone": (lambda path: (path / LOG).unlink(), 0, whole),
        "no mark": (lambda path: (path / MARK).unlink(), whole, whole),
        "nothing": (lambda path: [(path / name).unlink() for name in (LOG, MARK)], 0, 0),
    }
    for name, (harm, kept, last) in cases.items():
        copy = tmp_path / name
        shutil.copytree(home, copy)
        harm(copy)
        found = remains(copy, PASSPHRASE)
        assert (found.kept, found.last.size) == (kept, last), name
        assert found.lost == ((kept, last - 1) if kept < last else None), name
        assert bool(found.wrong) == (name != "no mark"), name
        restart(copy, PASSPHRASE, "lost", ACTOR)
        assert first_event(copy, people[0]).detail["old_log"]["wrong"] == found.wrong
        usable(copy, people)
        assert not (copy / "audit" / "next").exists()


def test_an_older_key_file_is_a_lost_log_key(home, people):
    """The bag of before a rotation: its key cannot go on writing, and the log still says where it belongs."""
    older = (home / KEY).read_bytes()
    with Vault.open(home, PASSPHRASE, alone=True) as vault:
        vault.ceremonies.rotate_key(ACTOR)
    whole = size_of(home)
    (home / KEY).write_bytes(older)
    with pytest.raises((Refused, IntegrityFailure)):
        Vault.open(home, PASSPHRASE)
    found, kept = restart(home, PASSPHRASE, "lost", ACTOR)
    assert (found.kept, found.lost) == (whole, None)
    assert verify(Path(kept), found.key).state == "intact"
    usable(home, people)


def test_what_a_thief_has_signed_is_a_fork(home, backup, people):
    """The backup goes on in another way than the home: the same key, two histories."""
    with Vault.open(backup, PASSPHRASE) as vault:
        vault.record(Event("note", ACTOR, detail={"another": "history"}))
        same_size = vault.checkpoint()
        vault.record(Event("note", ACTOR))
        larger = vault.checkpoint()
    assert remains(home, PASSPHRASE, same_size).forked
    assert not remains(home, PASSPHRASE).forked
    smaller = same_size
    with Vault.open(home, PASSPHRASE) as vault:
        vault.record(Event("note", ACTOR))
        vault.record(Event("note", ACTOR))
    assert remains(home, PASSPHRASE, smaller).forked
    found, _ = restart(home, PASSPHRASE, "stolen", ACTOR, larger)
    assert found.forked and first_event(home, people[0]).detail["old_log"]["forked"] is True


def test_the_same_origin_twice_is_kept_under_two_names(home, people):
    older = {name: (home / name).read_bytes() for name in (LOG, MARK, KEY, PIN)}
    _, first = restart(home, PASSPHRASE, "stolen", ACTOR)
    for name, data in older.items():
        (home / name).write_bytes(data)
    _, second = restart(home, PASSPHRASE, "restored", ACTOR)
    assert first != second and all(verify(Path(kept)).state == "intact" for kept in (first, second))
    _, third = restart(home, PASSPHRASE, "stolen", ACTOR)  # and a chain of them
    assert verify(home / LOG, pin(home)).goes_on_from.startswith(verify(Path(third)).origin)
    usable(home, people)


def test_what_a_reader_makes_while_a_log_is_half_put_away_replaces_nothing(tmp_path):
    """A reader between two renames may make an empty -wal where the real one was."""
    from audit.settle import _put_away

    real, stray = tmp_path / "kept-wal", tmp_path / "log-wal"
    real.write_bytes(b"frames")
    stray.write_bytes(b"")
    _put_away(stray, real)
    assert real.read_bytes() == b"frames" and not stray.exists()


def test_what_is_refused(home, vault, tmp_path):
    with pytest.raises(BadInput, match="reason"):
        restart(home, PASSPHRASE, "bored", ACTOR)
    with pytest.raises(Refused, match="passphrase"):
        restart(home, b"wrong", "stolen", ACTOR)
    with pytest.raises(Refused, match="no appliance"):
        restart(tmp_path / "nowhere", PASSPHRASE, "stolen", ACTOR)
    with pytest.raises(IntegrityFailure):
        restart(home, PASSPHRASE, "stolen", ACTOR, b"no note")
    with Vault.open(home, PASSPHRASE), pytest.raises(Refused, match="another process"):
        restart(home, PASSPHRASE, "stolen", ACTOR)
    assert not (home / "audit" / "old").exists()
    Vault.open(home, PASSPHRASE).close()


# -- as typed


def test_a_new_origin_as_typed(type_, home, backup, tmp_path):
    before = pin(home)
    code, out, _ = type_("audit", "new-origin", "--reason", "stolen", "--dry-run")
    assert code == 0 and "lost:    nothing" in out and pin(home) == before
    code, _, err = type_("audit", "new-origin", "--reason", "stolen")  # nobody there to say yes
    assert code == 3 and "old log:" in err and "--yes" in err and pin(home) == before
    assert type_("audit", "new-origin")[0] == 2
    code, out, _ = type_("audit", "new-origin", "--reason", "stolen", "--yes")
    assert code == 0 and pin(home).fingerprint in out and "paper form" in out and pin(home) != before
    (kept,) = (home / "audit" / "old").glob("*.sqlite")
    assert str(kept) in out
    assert type_("audit", "verify")[0] == 0
    assert type_("audit", "verify", kept, "--key-pin", kept.with_suffix(".pub"))[0] == 0
    witnessed = Checkpoint.from_body((tmp_path / "witnessed").read_bytes()).size
    lost = ("--checkpoint", tmp_path / "witnessed")
    code, out, _ = type_("audit", "new-origin", "--reason", "restored", *lost, "--dry-run", home=backup)
    assert code == 0 and f"to {witnessed - 1}: they were signed for" in out
    code, out, _ = type_("audit", "new-origin", "--reason", "restored", *lost, "--yes", "--json", home=backup)
    data = json.loads(out)
    assert code == 0 and data["before"]["lost"][1] == witnessed - 1 and data["fingerprint"] == pin(backup).fingerprint
    (tmp_path / "witnessed").write_bytes(b"no note")
    assert type_("audit", "new-origin", "--reason", "lost", *lost, "--dry-run", home=backup)[0] == 4
