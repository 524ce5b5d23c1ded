"""The vault: nothing comes out without its event, nothing lies in it in plain, nothing is half-written."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from audit import manifest
from audit.actor import Actor
from audit.errors import BadInput, EnvironmentProblem, IntegrityFailure, Refused
from audit.events import Event
from audit.reading import read
from audit.vault import NewObject, Vault
from audit.verify import verify

ROOT = Path(__file__).parents[2]
ACTOR = Actor("ada", "steward")
PASSPHRASE = b"correct horse"


def trail(vault, people):
    """The events of the vault's log, as the auditor reads them."""
    home = vault.home
    verdict = verify(home / "audit" / "log.sqlite", vault.log_key, home / "audit" / "high-water")
    assert verdict.state == "intact", verdict.sentence
    return [one.event for one in read(home / "audit" / "log.sqlite", people[0], verdict.size)]


def files(home):
    return sorted(path for path in (home / "vault").rglob("*") if path.is_file() and "sqlite" not in path.name)


@pytest.mark.parametrize("data", [b"", b"a report", os.urandom((2 << 20) + 5)], ids=["empty", "small", "three chunks"])
def test_what_is_put_in_comes_out_by_a_use(vault, data):
    name = vault.put("report", data, actor=ACTOR, patient="P-A")
    with vault.use([name], "TREAT", ACTOR, "ask") as opened:
        assert opened.read(name) == data
        assert b"".join(opened.chunks(name)) == data
    stored = vault.catalogue.object(name)
    assert (stored.kind, stored.patient, stored.size) == ("report", "P-A", len(data))


def test_the_event_is_durable_before_the_plaintext(vault, people):
    name = vault.put("report", b"x", actor=ACTOR, patient="P-A")
    with vault.use([name], "HRESCH", ACTOR, "train", detail={"run": "run-1"}):
        # Another process, the auditor's, sees the event while nothing has been read yet.
        used = trail(vault, people)[-1]
        assert (used.kind, used.purpose, used.objects, used.patients) == ("object.used", "HRESCH", (name,), ("P-A",))
        assert used.activity == "train" and used.detail == {"kinds": {"report": 1}, "run": "run-1"}


def test_no_log_no_data(vault):
    """The log cannot be written: nothing is opened, and nothing put in stays."""
    name = vault.put("report", b"x", actor=ACTOR)
    before = files(vault.home)
    vault._custodian._log._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(EnvironmentProblem), vault.use([name], "TREAT", ACTOR, "ask"):
        pytest.fail("the block must not begin")
    with pytest.raises(EnvironmentProblem):
        vault.put("report", b"y", actor=ACTOR)
    assert files(vault.home) == before and len(vault.catalogue.objects()) == 1


def test_what_was_not_asked_for_or_is_over_is_refused(vault):
    first, second = vault.put_many([NewObject("report", b"1"), NewObject("report", b"2")], actor=ACTOR)
    with vault.use([first], "TREAT", ACTOR, "ask") as opened:
        assert opened.ids == [first]
        with pytest.raises(Refused):
            opened.read(second)
    with pytest.raises(Refused):
        opened.read(first)
    with pytest.raises(Refused, match="purpose"), vault.use([first], "CURIOSITY", ACTOR, "ask"):
        pytest.fail("the block must not begin")
    with pytest.raises(BadInput), vault.use(["nothing"], "TREAT", ACTOR, "ask"):
        pytest.fail("the block must not begin")


def test_the_custodian_gives_no_key_for_an_object_that_its_event_does_not_name(vault):
    stored = vault.catalogue.object(vault.put("report", b"1", actor=ACTOR))
    with pytest.raises(Refused, match="not named"):
        vault._custodian.release([Event("object.used", ACTOR, "TREAT")], [stored])


def test_nothing_of_a_record_stands_in_plain_under_the_home(vault):
    canary, number = b"Quexlorvian tumour of the left pons", "HN-4711-0815"
    patient = vault.pseudonym(number)
    image = vault.put("image", canary * 50, actor=ACTOR, patient=patient)
    vault.put("report", canary, actor=ACTOR, patient=patient, parents=[image], note={"words": 6})
    with vault.use([image], "TREAT", ACTOR, "ask") as opened:
        opened.read(image)
    vault.record(Event("question.answered", ACTOR, "TREAT", patients=(patient,), detail={"question": canary.decode()}))
    for _ in range(2):  # with the databases open, and after they are closed
        for path in vault.home.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            for secret in (canary, b"Quexlorvian", number.encode(), canary.hex().encode()):
                assert secret not in content, path
        vault.close()


def test_files_and_directories_are_the_owners_alone(vault):
    vault.put("report", b"x", actor=ACTOR)
    for path in vault.home.rglob("*"):
        public = path.suffix == ".pub" or path.name == "cloche.json"
        assert path.stat().st_mode & 0o077 == (0o044 if public else 0), path
    assert vault.home.stat().st_mode & 0o077 == 0


def test_pseudonyms_are_stable_and_tell_nothing(vault, people, tmp_path):
    one = vault.pseudonym("12345")
    assert one == vault.pseudonym(" 12345\n") and one != vault.pseudonym("12346")
    assert one.startswith("P-") and len(one) == 12
    with Vault.create(tmp_path / "other", b"x", [p.recipient for p in people[:2]]) as other:
        assert other.pseudonym("12345") != one and other.fingerprint(b"x") != vault.fingerprint(b"x")
    with pytest.raises(BadInput):
        vault.pseudonym("  ")


def test_many_objects_are_one_event_and_the_log_agrees_with_the_catalogue(vault, people):
    image = vault.put("image", b"i", actor=ACTOR, patient="P-A")
    ids = vault.put_many((NewObject("sample", b"%d" % i, "P-A", [image]) for i in range(700)), actor=ACTOR)
    whole = vault.put("manifest", b"m", actor=ACTOR, parents=ids)
    assert [vault.catalogue.object(i).size for i in ids[:11]] == [1] * 10 + [2]
    with vault.use(ids, "HRESCH", ACTOR, "train") as opened:
        assert [opened.read(i) for i in ids[600:603]] == [b"600", b"601", b"602"]
    events = trail(vault, people)
    assert len(events) < 12
    stored = [event for event in events if event.kind == "object.stored"]
    assert sorted(o for e in stored for o in e.objects) == sorted([image, *ids, whole])
    from audit.accounts import parents_named

    for event in stored:
        for name in event.objects:
            expected = parents_named(vault.catalogue.parents(name))
            assert event.detail["parents"].get(name, []) == expected
    assert stored[-1].detail["parents"][whole]["count"] == 700
    used = [event for event in events if event.kind == "object.used"]
    assert sorted(o for e in used for o in e.objects) == sorted(ids)


def test_an_unknown_parent_is_bad_input_before_anything_is_written(vault, people):
    before = len(trail(vault, people))
    with pytest.raises(BadInput, match="no such object"):
        vault.put("report", b"x", actor=ACTOR, parents=["nobody"])
    assert files(vault.home) == [vault.home / "vault" / "lock"] and len(trail(vault, people)) == before


def test_a_large_object_comes_from_a_file(vault, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"G" * 3_000_000)
    name = vault.put("gguf", path, actor=ACTOR)
    with vault.use([name], "HOPERAT", ACTOR, "load") as opened:
        assert opened.read(name) == path.read_bytes()
    with pytest.raises(BadInput, match="cannot be read"):
        vault.put("gguf", tmp_path / "missing", actor=ACTOR)
    assert len(vault.catalogue.objects("gguf")) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "gone"])
def test_a_changed_object_file_is_noticed(vault, damage):
    first, second = vault.put_many([NewObject("report", b"first"), NewObject("report", b"other")], actor=ACTOR)
    path = vault.home / "vault" / "objects" / first[:2] / first
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(data[:-3])
    elif damage == "swap":
        path.write_bytes((vault.home / "vault" / "objects" / second[:2] / second).read_bytes())
    else:
        path.unlink()
    with vault.use([first], "TREAT", ACTOR, "ask") as opened, pytest.raises(IntegrityFailure):
        opened.read(first)


def test_patients_have_keys_of_their_own(vault):
    """A row that claims another patient, or another salt, opens nothing."""
    from dataclasses import replace

    stored = vault.catalogue.object(vault.put("report", b"x", actor=ACTOR, patient="P-A"))
    vault.put("report", b"y", actor=ACTOR, patient="P-B")
    event = Event("object.used", ACTOR, "TREAT", objects=(stored.id,))
    right = vault._custodian.release([event], [stored])[stored.id]
    for change in ({"patient": "P-B"}, {"salt": b"\0" * 32}, {"version": 3}):
        assert vault._custodian.release([event], [replace(stored, **change)])[stored.id] != right
    with pytest.raises(IntegrityFailure, match="gone"):
        vault._custodian.release([event], [replace(stored, patient="P-C")])


def test_deleted_objects_keep_their_row_and_lose_their_file(vault, people):
    old, kept = vault.put_many([NewObject("checkpoint", b"1"), NewObject("checkpoint", b"2")], actor=ACTOR)
    vault.delete([old], actor=ACTOR, activity="train")
    assert [one.id for one in vault.catalogue.objects("checkpoint")] == [kept]
    assert vault.catalogue.object(old).deleted and len(files(vault.home)) == 2  # one object, and the lock
    with pytest.raises(BadInput, match="deleted"), vault.use([old], "TREAT", ACTOR, "train"):
        pytest.fail("the block must not begin")
    assert trail(vault, people)[-1].kind == "object.deleted"


def test_manifests_of_objects(vault):
    ids = vault.put_many([NewObject("sample", b"%d" % i, f"P-{i % 3}") for i in range(9)], actor=ACTOR)
    leaves = vault.manifest_leaves(ids)
    assert len(leaves) == 11 and leaves == vault.manifest_leaves(reversed(ids))
    assert manifest.present(leaves, vault.patient_mark("P-2"))
    assert not manifest.present(leaves, vault.patient_mark("P-3"))
    assert manifest.root_of(leaves) != manifest.root_of(vault.manifest_leaves(ids[1:]))


# -- the home


def test_a_home_that_exists_or_too_few_recipients_are_refused(vault, people, tmp_path):
    recipients = [people[0].recipient, people[1].recipient]
    with pytest.raises(Refused, match="here already"):
        Vault.create(vault.home, b"x", recipients)
    with pytest.raises(Refused, match="two to sixteen"):
        Vault.create(tmp_path / "new", b"x", recipients[:1])
    with pytest.raises(Refused, match="empty"):
        Vault.create(tmp_path / "new", b"", recipients)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_a_wrong_passphrase_no_home_and_a_newer_home_are_refused(vault, tmp_path):
    vault.close()
    with pytest.raises(Refused, match="passphrase"):
        Vault.open(vault.home, b"wrong")
    with pytest.raises(Refused, match="no appliance"):
        Vault.open(tmp_path / "nowhere", PASSPHRASE)
    description = vault.home / "cloche.json"
    found = json.loads(description.read_bytes())
    assert found["format"] == 1
    description.write_text(json.dumps(found | {"format": 2, "made_by": "9.1"}))
    with pytest.raises(Refused, match=r"newer version of Cloche \(9.1\)"):
        Vault.open(vault.home, PASSPHRASE)
    description.write_text("{")
    with pytest.raises(IntegrityFailure):
        Vault.open(vault.home, PASSPHRASE)


def test_a_catalogue_of_a_newer_version_is_refused(vault):
    vault.catalogue._connection.execute("PRAGMA user_version = 99")
    vault.close()
    with pytest.raises(Refused, match="newer version"):
        Vault.open(vault.home, PASSPHRASE)


def test_a_changed_key_file_opens_nothing(vault):
    vault.close()
    path = vault.home / "keys" / "vault.key"
    found = json.loads(path.read_bytes())
    for field, value in (("sealed", found["nonce"]), ("salt", found["nonce"]), ("memory_kib", 0), ("lanes", "x")):
        path.write_text(json.dumps(found | {field: value}))
        with pytest.raises((Refused, BadInput)):
            Vault.open(vault.home, PASSPHRASE)
    path.write_text("[]")
    with pytest.raises((BadInput, IntegrityFailure)):
        Vault.open(vault.home, PASSPHRASE)


def test_a_swapped_recipient_file_does_not_change_who_reads(vault, people):
    """Who can read is sealed under the passphrase; the .pub files in the home are for people to look at."""
    vault.close()
    target = vault.home / "keys" / "recipients" / "1.pub"
    target.unlink()
    people[2].recipient.save(target)
    with Vault.open(vault.home, PASSPHRASE) as again:
        again.put("report", b"x", actor=ACTOR)
        assert people[2].recipient not in again.recipients
        assert trail(again, people)[-1].kind == "object.stored"


def test_two_vaults_on_one_home(vault):
    first = vault.put("report", b"1", actor=ACTOR, patient="P-A")
    with Vault.open(vault.home, PASSPHRASE) as other:
        second = other.put("report", b"2", actor=ACTOR, patient="P-A")
        with vault.use([first, second], "TREAT", ACTOR, "ask") as opened:
            assert (opened.read(first), opened.read(second)) == (b"1", b"2")
        vault.put("report", b"3", actor=ACTOR, patient="P-A")
    assert len(vault.catalogue.objects()) == 3


# -- crashes

CHILD = """
import sys
from pathlib import Path
from audit.actor import Actor
from audit.errors import ClocheError
from audit.vault import NewObject, Vault
actor = Actor("child", "service")
vault = Vault.open(Path(sys.argv[1]), b"correct horse")
"""


def child(home, script):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + textwrap.dedent(script), str(home)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("point", "kept"),
    [
        ("audit.objects.ObjectStore.flush", False),
        ("audit.custodian.Custodian.commit", False),
        ("audit.catalogue.Catalogue.add_object", False),
        ("audit.objects.ObjectStore.publish", True),
    ],
)
def test_killed_at_any_step_an_object_is_there_whole_or_not_at_all(vault, point, kept):
    vault.close()
    module, cls, method = point.rsplit(".", 2)
    script = f"""
        import importlib, os, signal
        def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
        setattr(importlib.import_module("{module}").{cls}, "{method}", die)
        vault.put_many([NewObject("report", b"first"), NewObject("report", b"second")], actor=actor)
    """
    process = child(vault.home, script)
    assert process.wait(timeout=60) == -signal.SIGKILL, process.stdout.read()
    with Vault.open(vault.home, PASSPHRASE) as again:
        found = again.catalogue.objects("report")
        assert len(found) == (2 if kept else 0)
        assert len(files(vault.home)) == len(found) + 1
        assert not list((vault.home / "vault" / "incoming").iterdir())
        with again.use([one.id for one in found], "TREAT", ACTOR, "ask") as opened:
            assert [opened.read(one.id) for one in found] == [b"first", b"second"][: len(found)]


def test_what_another_process_is_writing_is_not_swept(vault):
    """The half-written file of a living process survives that a second one opens the vault."""
    half = vault.home / "vault" / "incoming" / "alive"
    half.write_bytes(b"half")
    Vault.open(vault.home, PASSPHRASE).close()
    assert half.exists()
    vault.close()
    Vault.open(vault.home, PASSPHRASE).close()
    assert not half.exists()


def test_a_full_disk_leaves_nothing_half_written(vault, people):
    before = files(vault.home)
    vault.close()
    process = child(
        vault.home,
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        try:
            vault.put_many([NewObject("small", b"x"), NewObject("large", b"x" * 500_000)], actor=actor)
        except ClocheError as error:
            print(type(error).__name__, error.exit_code, error.diagnostics())
        """,
    )
    said, _ = process.communicate(timeout=60)
    assert said.startswith("EnvironmentProblem 6 ") and "Next: free some space" in said and "incoming" in said
    assert files(vault.home) == before
    with Vault.open(vault.home, PASSPHRASE) as again:
        assert again.catalogue.objects() == []
        assert [event.kind for event in trail(again, people)] == ["appliance.created"]


def test_a_full_disk_at_the_making_leaves_no_home(tmp_path, people):
    for number, one in enumerate(people[:2]):
        one.recipient.save(tmp_path / f"{number}.pub")
    script = """
        import resource, signal, sys
        from pathlib import Path
        from audit.errors import ClocheError
        from audit.keys import Recipient
        from audit.vault import Vault
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        here = Path(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))
        try:
            Vault.create(here / "home", b"x", [Recipient.load(here / "0.pub"), Recipient.load(here / "1.pub")])
        except ClocheError as error:
            print(type(error).__name__)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["EnvironmentProblem"], done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.pub", "1.pub"]
