"""Who may read the log, which key signs it, and under which passphrase the keys lie."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from audit.actor import Actor
from audit.bag import BagFile
from audit.checkpoint import VerifierKey
from audit.custodian import Custodian
from audit.errors import BadInput, EnvironmentProblem, IntegrityFailure, Refused
from audit.events import Event
from audit.keys import Cost, Recipient, generate
from audit.reading import read
from audit.vault import Vault
from audit.verify import verify

ROOT = Path(__file__).parents[2]
ACTOR = Actor("grace", "officer")
PASSPHRASE = b"correct horse"
CHEAP = Cost(memory_kib=64, iterations=1, lanes=1)


def pin(home):
    return VerifierKey.from_text((home / "keys" / "log.pub").read_text())


def trail(home, pair):
    """Sequence -> event, None where it is sealed to others, of a log that verifies by the pin."""
    verdict = verify(home / "audit" / "log.sqlite", pin(home), home / "audit" / "high-water")
    assert verdict.state == "intact", verdict.sentence
    return {one.sequence: one.event for one in read(home / "audit" / "log.sqlite", pair, verdict.size)}


def copies(home):
    return [Recipient.load(path).name for path in sorted((home / "keys" / "recipients").iterdir())]


@pytest.fixture
def home(vault):
    """An appliance that nobody has open."""
    vault.record(Event("note", ACTOR))
    vault.close()
    return vault.home


def opened(home, passphrase=PASSPHRASE):
    return Vault.open(home, passphrase, alone=True)


# -- recipients


def test_a_newcomer_reads_from_the_next_entry_on(home, people):
    with opened(home) as vault:
        sequence = vault.ceremonies.add_recipient(people[2].recipient.to_dict(), ACTOR)
        after = vault.record(Event("note", ACTOR))
        assert [one.name for one in vault.recipients] == ["auditor", "recovery", "stranger"]
    with Vault.open(home, PASSPHRASE) as vault:
        later = vault.record(Event("note", ACTOR))
    old, new = trail(home, people[0]), trail(home, people[2])
    assert all(old.values()) and [number for number, event in new.items() if event] == [after, later]
    assert old[sequence].kind == "keys.changed" and new[sequence] is None
    assert copies(home) == ["auditor", "recovery", "stranger"]
    detail = old[sequence].detail
    assert detail["change"] == "recipient added" and detail["name"] == "stranger"
    assert detail["key_id"] == people[2].recipient.key_id.hex() and len(detail["recipients"]) == 3
    assert detail["before"] != detail["after"]


def test_a_retired_one_reads_what_it_could_and_nothing_more(home, people):
    with opened(home) as vault:
        vault.ceremonies.add_recipient(people[2].recipient.to_dict(), ACTOR)
        between = vault.record(Event("note", ACTOR))
        gone, retired = vault.ceremonies.retire_recipient("auditor", ACTOR)
        after = vault.record(Event("note", ACTOR))
    assert gone == people[0].recipient.to_dict() and copies(home) == ["recovery", "stranger"]
    read_by_auditor = trail(home, people[0])
    assert read_by_auditor[between] and read_by_auditor[retired] and read_by_auditor[after] is None
    assert all(trail(home, people[1]).values())
    assert read_by_auditor[retired].detail["before"] == read_by_auditor[between - 2].detail["after"]


def test_what_may_not_become_a_recipient_is_refused_and_changes_nothing(home, people):
    twin = Recipient("other name", "X25519", people[0].recipient.public)
    later = generate("later", "MLKEM768-X25519").recipient
    bad_point = Recipient("broken", "X25519", b"\x00" * 32)
    with opened(home) as vault:
        size = len(trail(home, people[0]))
        for newcomer, problem in ((twin, Refused), (later, BadInput), (bad_point, BadInput)):
            with pytest.raises(problem):
                vault.ceremonies.add_recipient(newcomer.to_dict(), ACTOR)
        with pytest.raises(BadInput):
            vault.ceremonies.add_recipient({**people[2].recipient.to_dict(), "key_id": "00"}, ACTOR)
        with pytest.raises(Refused, match="two to sixteen"):
            vault.ceremonies.retire_recipient("auditor", ACTOR)
        for nobody in ("nobody", "", "aud", people[2].recipient.key_id.hex()):
            with pytest.raises(BadInput, match="no recipient"):
                vault.ceremonies.retire_recipient(nobody, ACTOR)
        assert vault.recipients == tuple(one.recipient for one in people[:2])
        assert len(trail(home, people[0])) == size
        vault.record(Event("note", ACTOR))  # a bad point found only now would have blinded the log


def test_a_name_that_two_have_is_ambiguous_and_the_key_id_is_not(home, people):
    second = generate("auditor", "X25519").recipient
    with opened(home) as vault:
        vault.ceremonies.add_recipient(second.to_dict(), ACTOR)
        with pytest.raises(BadInput, match="2 recipients"):
            vault.ceremonies.retire_recipient("auditor", ACTOR)
        gone, _ = vault.ceremonies.retire_recipient(people[0].recipient.key_id.hex()[:12].upper(), ACTOR)
        assert gone["key_id"] == people[0].recipient.key_id.hex() and second in vault.recipients


def test_a_newcomer_of_a_low_order_point_makes_no_appliance(people, tmp_path):
    with pytest.raises(BadInput, match="damaged"):
        Vault.create(
            tmp_path / "new", b"x", [people[0].recipient, Recipient("bad", "X25519", b"\x00" * 32)], cost=CHEAP
        )
    assert not (tmp_path / "new").exists()


def test_keys_are_changed_alone_only(vault, people):
    """Neither by who shares the appliance, nor while somebody else has it open; an opener waits for who changes."""
    for change in (
        lambda: vault.ceremonies.add_recipient(people[2].recipient.to_dict(), ACTOR),
        lambda: vault.ceremonies.retire_recipient("auditor", ACTOR),
        lambda: vault.ceremonies.rotate_key(ACTOR),
        lambda: vault.ceremonies.change_passphrase(b"new", ACTOR, CHEAP),
        lambda: Vault.open(vault.home, PASSPHRASE, alone=True),
    ):
        with pytest.raises(Refused, match="open"):
            change()
    with Vault.open(vault.home, PASSPHRASE) as other:  # together they may
        other.record(Event("note", ACTOR))
    vault.close()
    with opened(vault.home):
        script = "import sys; from audit.vault import Vault; Vault.open(sys.argv[1], b'correct horse'); print('open')"
        waiting = subprocess.Popen(
            [sys.executable, "-c", script, str(vault.home)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=2)
    assert waiting.communicate(timeout=60)[0] == "open\n"


def test_a_disk_that_is_full_changes_nothing_and_stops_who_changes(home, people):
    """The event cannot be committed: the list stays, nothing more can be logged by this process, the next one can."""
    with opened(home) as vault:
        vault._custodian._log._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(EnvironmentProblem):
            vault.ceremonies.add_recipient(people[2].recipient.to_dict(), ACTOR)
        with pytest.raises(Exception, match="closed"):
            vault.record(Event("note", ACTOR))
    with Vault.open(home, PASSPHRASE) as vault:
        assert vault.recipients == tuple(one.recipient for one in people[:2])
        vault.record(Event("note", ACTOR))
    assert "keys.changed" not in [event.kind for event in trail(home, people[0]).values()]


def test_an_intent_whose_log_is_gone_opens_nothing(home, people):
    from dataclasses import replace

    from audit.bag import RECIPIENTS, Intent

    file = BagFile.open(home, PASSPHRASE)
    file.write(replace(file.bag, intent=Intent(RECIPIENTS, 4, (*file.bag.recipients, people[2].recipient))))
    (home / "audit" / "log.sqlite").rename(home / "audit" / "elsewhere")
    with pytest.raises(IntegrityFailure, match="gone"):
        Vault.open(home, PASSPHRASE)
    (home / "audit" / "elsewhere").rename(home / "audit" / "log.sqlite")
    with Vault.open(home, PASSPHRASE) as vault:
        assert people[2].recipient not in vault.recipients  # the log has no such event: it is taken back


# -- the log's key and the passphrase


def test_a_rotated_key_signs_and_the_old_pin_still_verifies(home, people):
    before = pin(home)
    with opened(home) as vault:
        old, new = vault.ceremonies.rotate_key(ACTOR)
        assert vault.log_key == VerifierKey.from_text(new) and VerifierKey.from_text(old) == before
        vault.record(Event("note", ACTOR))
    with opened(home) as vault:
        vault.ceremonies.rotate_key(ACTOR)
    with Vault.open(home, PASSPHRASE) as vault:
        vault.record(Event("note", ACTOR))
        assert vault.log_key == pin(home) != before
    for key in (before, VerifierKey.from_text(new), pin(home)):
        verdict = verify(home / "audit" / "log.sqlite", key, home / "audit" / "high-water")
        assert verdict.state == "intact" and len(verdict.handed_over_at) == 2
    details = [event.detail for event in trail(home, people[0]).values() if event.kind == "keys.changed"]
    assert len(details) == 2 and details[0]["after"] == details[1]["before"]


def test_the_old_log_key_is_nowhere_after_a_rotation(home):
    before = BagFile.open(home, PASSPHRASE).bag
    with opened(home) as vault:
        vault.ceremonies.rotate_key(ACTOR)
    after = BagFile.open(home, PASSPHRASE).bag
    assert after.log_key != before.log_key and after.intent is None
    assert before.log_key not in after.encode() and after.vault_key == before.vault_key


def test_an_older_bag_does_not_open_a_log_that_was_handed_over(home):
    key_file = home / "keys" / "vault.key"
    older = key_file.read_bytes()
    with opened(home) as vault:
        vault.ceremonies.rotate_key(ACTOR)
    key_file.write_bytes(older)
    with pytest.raises((Refused, IntegrityFailure)):
        Vault.open(home, PASSPHRASE)


def test_another_passphrase_opens_the_same_appliance(home, people):
    with opened(home) as vault:
        name = vault.put("report", b"x", actor=ACTOR, patient="P-A")
        with pytest.raises(Refused, match="empty"):
            vault.ceremonies.change_passphrase(b"", ACTOR, CHEAP)
        vault.ceremonies.change_passphrase(b"battery staple", ACTOR, CHEAP)
        vault.ceremonies.add_recipient(people[2].recipient.to_dict(), ACTOR)  # the bag is sealed again, under the new
    with pytest.raises(Refused, match="passphrase"):
        Vault.open(home, PASSPHRASE)
    with Vault.open(home, b"battery staple") as vault, vault.use([name], "TREAT", ACTOR, "ask") as used:
        assert used.read(name) == b"x" and people[2].recipient in vault.recipients
    changes = [event.detail for event in trail(home, people[0]).values() if event.kind == "keys.changed"]
    assert changes[0] == {"change": "passphrase changed"}


def test_the_key_file_is_replaced_and_never_written_over(home):
    """Another name of the old file still shows the old bag: at no moment was there half of one."""
    path, other = home / "keys" / "vault.key", home / "other"
    whole = path.read_bytes()
    other.hardlink_to(path)
    with opened(home) as vault:
        vault.ceremonies.rotate_key(ACTOR)
    assert other.read_bytes() == whole != path.read_bytes()


def test_the_key_file_is_private_and_nothing_of_the_keys_is_shown(home):
    with opened(home) as vault:
        vault.ceremonies.rotate_key(ACTOR)
    assert (home / "keys" / "vault.key").stat().st_mode & 0o777 == 0o600
    bag = BagFile.open(home, PASSPHRASE).bag
    for shown in (repr(bag), repr(BagFile.open(home, PASSPHRASE))):
        assert "key=" not in shown and bag.log_key.hex() not in shown
    custodian = Custodian.open(home, PASSPHRASE)
    custodian.close()
    assert custodian._file.bag.vault_key == custodian._file.bag.log_key == b""


# -- as typed


def test_recipients_as_typed(type_, home, people, tmp_path):
    people[2].recipient.save(tmp_path / "stranger.pub")
    people[2].save(tmp_path / "stranger.key", b"x", CHEAP)
    code, out, _ = type_("audit", "recipient", "add", tmp_path / "stranger.pub")
    assert code == 0 and people[2].recipient.key_id.hex() in out
    for bad in ("stranger.pub", "stranger.key", "missing.pub"):
        code, out, err = type_("audit", "recipient", "add", tmp_path / bad)
        assert code == 3 and out == "" and "Next: " in err
    rows = json.loads(type_("audit", "recipient", "list", "--json")[1])
    assert [(row["name"], row["overdue"]) for row in rows] == [(n, True) for n in ("auditor", "recovery", "stranger")]
    code, out, _ = type_("audit", "recipient", "list")
    assert code == 0 and out.count("OVERDUE") == 4 and out.count("never") == 3
    code, out, _ = type_("audit", "recipient", "retire", "recovery", "--json")
    assert code == 0 and json.loads(out)["retired"] == "recovery"
    assert type_("audit", "recipient", "retire", "auditor")[0] == 3
    assert type_("audit", "recipient", "retire", "nobody")[0] == 3
    assert copies(home) == ["auditor", "stranger"]


def test_rotation_as_typed(type_, home):
    before = pin(home)
    code, out, _ = type_("audit", "rotate-key")
    assert code == 0 and before.fingerprint in out and pin(home).fingerprint in out and "paper form" in out
    data = json.loads(type_("audit", "rotate-key", "--json")[1])
    assert data["new"] == pin(home).fingerprint and data["key"] == pin(home).to_text()
    assert type_("audit", "verify", "--key-pin", before.to_text())[0] == 0
    with Vault.open(home, PASSPHRASE):
        code, _, err = type_("audit", "rotate-key")
    assert code == 3 and "another process" in err


def test_a_passphrase_as_typed(type_, home, tmp_path):
    new = tmp_path / "new"
    new.write_text("battery staple\n")
    new.chmod(0o644)
    code, _, err = type_("passphrase", "--new-file", new)
    assert code == 3 and "chmod 600" in err
    new.chmod(0o600)
    assert type_("passphrase", "--new-file", tmp_path / "missing")[0] == 3
    code, _, err = type_("passphrase")
    assert code == 3 and "--new-file" in err  # there is no terminal here
    code, out, err = type_("passphrase", "--new-file", new)
    assert code == 0 and "battery" not in out + err
    code, _, err = type_("audit", "recipient", "list")
    assert code == 3 and "passphrase is wrong" in err
    Vault.open(home, b"battery staple").close()
