"""A SIGKILL before any line of a ceremony that touches the disk: it never was, or it is whole, and the log says which.

What a power loss adds (writes that were never flushed) is not tried here: the page cache survives a SIGKILL.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from audit.actor import Actor
from audit.bag import BagFile
from audit.checkpoint import VerifierKey
from audit.errors import Refused
from audit.events import Event
from audit.reading import read
from audit.vault import Vault
from audit.verify import verify

ROOT = Path(__file__).parents[2]
ACTOR = Actor("ada", "steward")
PASSPHRASE, NEW_PASSPHRASE = b"correct horse", b"battery staple"
AUDIT = Path("audit")


@pytest.fixture
def home(vault):
    vault.put("report", b"x", actor=ACTOR)
    vault.close()
    return vault.home


@pytest.fixture
def out(tmp_path):
    """Where the copies lie: in memory where there is room, as hundreds of them are flushed."""
    memory = Path("/dev/shm")  # noqa: S108 a directory of its own is made in it
    made = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path)
    yield Path(made)
    shutil.rmtree(made)


def killed(home, people, out, ceremony):
    """Copies of a home, each killed one line later; the last was not."""
    newcomer = out / "newcomer.pub"
    people[2].recipient.save(newcomer)
    command = [sys.executable, str(ROOT / "tests/audit/killed.py"), home, out, ceremony, newcomer]
    ours = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), env=ours, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    copies = sorted((path for path in out.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    assert len(copies) > 20
    return [*copies, out / "done"]


def verdict_of(home):
    pin = VerifierKey.from_text((home / "keys" / "log.pub").read_text())
    return verify(home / AUDIT / "log.sqlite", pin, home / AUDIT / "high-water")


def events(home, pair):
    verdict = verdict_of(home)
    assert verdict.state == "intact", f"{home}: {verdict.sentence}"
    return [one.event for one in read(home / AUDIT / "log.sqlite", pair, verdict.size)]


def check_whole(home, people, recipients):
    """Opened once more alone: no half of a file is left, the copies are the bag's, and the log goes on."""
    with Vault.open(home, PASSPHRASE, alone=True) as vault:
        assert set(vault.recipients) == set(recipients)
        vault.put("report", b"y", actor=ACTOR)
        with vault.use([vault.catalogue.objects("report")[0].id], "TREAT", ACTOR, "ask") as used:
            assert used.read(used.ids[0]) == b"x"
        names = [one.name for one in vault.recipients]
    assert not [path for path in home.rglob(".*") if path.name.endswith(".new")]
    copies = [
        (home / "keys" / "recipients" / f"{number}.pub").read_text().count(f'"{name}"')
        for number, name in enumerate(names, 1)
    ]
    assert copies == [1] * len(names) == [1] * len(list((home / "keys" / "recipients").iterdir()))
    assert BagFile.open(home, PASSPHRASE).bag.intent is None
    assert events(home, people[0])[-1].kind == "object.used"


def test_a_recipient_is_added_with_its_event_or_not_at_all(home, people, out):
    old, new = [one.recipient for one in people[:2]], [one.recipient for one in people]
    seen = []
    for copy in killed(home, people, out, "add"):
        assert verdict_of(copy).state == "intact", copy  # before anybody has opened it again
        Vault.open(copy, PASSPHRASE).close()
        added = "keys.changed" in [event.kind for event in events(copy, people[0])]
        check_whole(copy, people, new if added else old)
        last = events(copy, people[2])[-1]
        assert (last is not None) == added
        seen.append(added)
        shutil.rmtree(copy)
    assert seen == sorted(seen) and not seen[0] and seen[-1]


def test_the_log_is_handed_over_or_not_at_all(home, people, out):
    before = VerifierKey.from_text((home / "keys" / "log.pub").read_text())
    seen = []
    for copy in killed(home, people, out, "rotate"):
        assert verdict_of(copy).state == "intact", copy
        with Vault.open(copy, PASSPHRASE) as vault:
            handed = vault.log_key != before
            assert vault.log_key.to_text() == (copy / "keys" / "log.pub").read_text().strip()
        check_whole(copy, people, [one.recipient for one in people[:2]])
        found = verify(copy / AUDIT / "log.sqlite", before, copy / AUDIT / "high-water")
        assert found.state == "intact" and len(found.handed_over_at) == handed
        assert ("keys.changed" in [event.kind for event in events(copy, people[0])]) == handed
        seen.append(handed)
        shutil.rmtree(copy)
    assert seen == sorted(seen) and not seen[0] and seen[-1]


def test_one_of_two_passphrases_opens_and_the_new_one_stands_in_the_log(home, people, out):
    seen = []
    for copy in killed(home, people, out, "passphrase"):
        logged = "keys.changed" in [event.kind for event in events(copy, people[0])]
        try:
            Vault.open(copy, PASSPHRASE).close()
            changed = False
        except Refused:
            Vault.open(copy, NEW_PASSPHRASE).close()
            changed = True
        assert logged or not changed  # the event comes first: it may stand for a change that never came to happen
        seen.append(changed)
        shutil.rmtree(copy)
    assert seen == sorted(seen) and not seen[0] and seen[-1]


def shortened(home, tmp_path):
    """The home with an older copy of its log: the mark says two entries more."""
    log = home / AUDIT / "log.sqlite"
    shutil.copy(log, tmp_path / "older")
    with Vault.open(home, PASSPHRASE) as vault:
        vault.record(Event("note", ACTOR))
    shutil.copy(tmp_path / "older", log)


@pytest.mark.parametrize("reason", ["stolen", "restored"])
def test_a_new_log_stands_in_the_old_ones_place_or_the_old_one_does(home, people, tmp_path, out, reason):
    size = verdict_of(home).size
    if reason == "restored":
        shortened(home, tmp_path)
    old_origin = BagFile.open(home, PASSPHRASE).bag.origin
    seen = []
    for copy in killed(home, people, out, reason):
        begun = BagFile.open(copy, PASSPHRASE).bag.origin != old_origin
        seen.append(begun)
        if not begun:
            if reason == "restored":
                assert verdict_of(copy).state == "failed"  # as it was
            else:
                check_whole(copy, people, [one.recipient for one in people[:2]])
                assert verdict_of(copy).origin == old_origin
            shutil.rmtree(copy)
            continue
        Vault.open(copy, PASSPHRASE).close()
        check_whole(copy, people, [one.recipient for one in people[:2]])
        verdict, first = verdict_of(copy), events(copy, people[0])[0]
        assert verdict.origin != old_origin and old_origin in verdict.goes_on_from
        assert first.kind == "log.restarted" and first.reason == reason
        assert not (copy / AUDIT / "next").exists()
        (kept,) = (copy / AUDIT / "old").glob("*.sqlite")
        key = VerifierKey.from_text(kept.with_suffix(".pub").read_text())
        mark = kept.with_suffix(".high-water")
        assert verify(kept, key, mark).state == ("failed" if reason == "restored" else "intact")
        found = verify(kept, key)
        assert found.state == "intact" and found.size == size
        shutil.rmtree(copy)
    assert seen == sorted(seen) and not seen[0] and seen[-1]


@pytest.mark.parametrize("ceremony", ["add", "rotate", "stolen"])
def test_who_finishes_a_ceremony_may_be_killed_too(home, people, out, ceremony):
    """Of the copies with an intent in the bag, the first, the middle and the last are opened, and killed in that."""
    begun = [
        copy for copy in killed(home, people, out, ceremony) if BagFile.open(copy, PASSPHRASE).bag.intent is not None
    ]
    for number, copy in enumerate((begun[0], begun[len(begun) // 2], begun[-1])):
        again = out / f"again-{number}"
        again.mkdir()
        outcomes = set()
        for second in killed(copy, people, again, "open"):
            with Vault.open(second, PASSPHRASE) as vault:
                outcomes.add((vault.log_key, vault.recipients))
            check_whole(second, people, vault.recipients)
        assert len(outcomes) == 1  # what the log said after the first kill is what became of it
