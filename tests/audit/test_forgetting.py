"""Forgetting: with every old file at hand, and every key but the destroyed ones, nothing of the patient opens."""

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
from audit.datasets import freeze
from audit.erasures import FILE, Erasures
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.reading import read
from audit.remote import RemoteVault
from audit.rows import NewObject, Record
from audit.vault import Vault
from audit.verify import verify
from tests.audit.opening import assert_nothing_opens, rows_of

ACTOR = Actor.current("steward")
PASSPHRASE = b"correct horse"
CANARY = b"Zebulon Quartermain of Room 9"


def fill(vault):
    """Two patients, a packed set of both, a model of it, an answer of the model's, a checkpoint without parents."""
    patients = [vault.pseudonym("4711"), vault.pseudonym("4712")]
    items = [NewObject("report", CANARY + bytes([n]), patient) for n, patient in enumerate(patients)]
    reports = vault.put_many(items, actor=ACTOR)
    for patient, report in zip(patients, reports, strict=True):
        vault.catalogue.add_record(Record("", patient, report, report, vault.fingerprint(report.encode()), "train"))
    root = freeze(vault, reports, actor=ACTOR, activity="freeze").hex()
    synth = vault.catalogue.start_run("synth", {"chunk": 2}, 0, root)
    packed = vault.put("conversations", CANARY * 2, actor=ACTOR, parents=reports, note={"run": synth.id})
    vault.catalogue.finish_run(synth.id, {"conversations": packed})
    run = vault.catalogue.start_run("train", {"synth": synth.id}, 0, root)
    adapter = vault.put("adapter", b"weights" + CANARY, actor=ACTOR, parents=[packed], note={"run": run.id})
    model = vault.catalogue.add_model("adapter", [adapter], manifest_root=root, run=run.id)
    answers = vault.put("answers", CANARY * 3, actor=ACTOR, parents=[adapter], note={"run": run.id})
    vault.catalogue.finish_run(run.id, {"adapter": adapter, "model": model.id})
    cut = vault.catalogue.start_run("train", {"synth": synth.id, "epochs": 9}, 0, root)
    checkpoint = vault.put("checkpoint", CANARY * 4, actor=ACTOR, note={"run": cut.id})
    other = vault.put("metrics", b"0.5", actor=ACTOR, note={"run": run.id})
    return {
        "patients": patients, "reports": reports, "packed": packed, "adapter": adapter, "model": model.id,
        "answers": answers, "checkpoint": checkpoint, "metrics": other, "runs": [synth.id, run.id, cut.id],
    }  # fmt: skip


@pytest.fixture
def filled(vault):
    made = fill(vault)
    vault.close()
    return vault.home, made


def events_of(home, pair):
    verdict = verify(home / "audit/log.sqlite", VerifierKey.from_text((home / "keys/log.pub").read_text()))
    assert verdict.state == "intact", verdict.sentence
    return [one.event for one in read(home / "audit/log.sqlite", pair, verdict.size)]


def sequences_of(home, pair):
    pin = VerifierKey.from_text((home / "keys/log.pub").read_text())
    return [one.sequence for one in read(home / "audit/log.sqlite", pair, verify(home / "audit/log.sqlite", pin).size)]


def test_a_plan_says_what_goes_and_changes_nothing(filled):
    home, made = filled
    with Vault.open(home, PASSPHRASE) as vault:
        before = vault.catalogue.objects()
        plan = vault.plan_forgetting(made["patients"][0], ACTOR)
        assert vault.catalogue.objects() == before
    assert plan.own == (made["reports"][0],)
    assert set(plan.shared) == {made["packed"], made["answers"], made["checkpoint"]}
    assert plan.weights == (made["adapter"],) and plan.models == (made["model"],)
    assert list(plan.runs) == made["runs"] and plan.others == (made["patients"][1],)


def test_nothing_opens_with_all_but_the_destroyed_keys(filled, tmp_path, people):
    """The old home whole (databases, pages, write-ahead logs), the passphrase, and the new bag with its keys."""
    home, made = filled
    old = tmp_path / "old"
    with Vault.open(home, PASSPHRASE) as vault:  # open: the write-ahead logs are there and are copied
        vault.put("report", b"x", actor=ACTOR, patient=made["patients"][1])
        shutil.copytree(home, old)
    gone = [made["reports"][0], made["packed"], made["adapter"], made["answers"], made["checkpoint"]]
    with RemoteVault.open(home, PASSPHRASE, alone=True) as vault:
        done = vault.forget(made["patients"][0], ACTOR)
        with vault.use([made["reports"][1]], "TREAT", ACTOR, "ask") as opened:  # the other patient's is as it was
            assert opened.read(made["reports"][1]) == CANARY + b"\x01"
        again = vault.put("report", b"y", actor=ACTOR, patient=made["patients"][1])
        with vault.use([again], "TREAT", ACTOR, "ask") as opened:
            assert opened.read(again) == b"y"
    assert done.entry > 0
    assert_nothing_opens(home, old, PASSPHRASE, gone)
    kinds = [event.kind for event in events_of(home, people[0])]
    assert kinds.index("patient.forgotten") < kinds.index("object.deleted") < kinds.index("model.retired")


def test_models_are_retired_and_what_read_the_patient_is_gone_on_with_no_more(filled, people):
    home, made = filled
    with Vault.open(home, PASSPHRASE, alone=True) as vault:
        vault.forget(made["patients"][0], ACTOR)
        assert vault.catalogue.model(made["model"]).note["state"] == "retired"
        assert vault.catalogue.latest_model("adapter") is None
        assert vault.catalogue.latest("synth") is None and vault.catalogue.latest("train", None).state == "retired"
        assert [one.patient for one in vault.catalogue.records()] == [made["patients"][1]]
        assert {one.kind for one in vault.catalogue.objects()} == {"report", "leaves", "metrics"}


def test_a_model_is_kept_by_a_decision_that_stands_in_the_log(filled, people):
    home, made = filled
    with Vault.open(home, PASSPHRASE, alone=True) as vault:
        vault.forget(made["patients"][0], ACTOR, keep_models="the ethics board decided so on 3 May")
        assert vault.catalogue.latest_model("adapter").note["kept"] == "the ethics board decided so on 3 May"
        with vault.use([made["adapter"]], "HRESCH", ACTOR, "export") as opened:
            assert opened.read(made["adapter"]).startswith(b"weights")
        for object_id in (made["packed"], made["answers"], made["checkpoint"]):
            assert not vault.catalogue.holds(object_id)
    kept = [event for event in events_of(home, people[0]) if event.kind == "model.kept"]
    assert [event.reason for event in kept] == ["the ethics board decided so on 3 May"]


def test_forgetting_twice_says_when_and_an_unknown_patient_is_named(filled, people):
    home, made = filled
    with Vault.open(home, PASSPHRASE, alone=True) as vault:
        vault.forget(made["patients"][0], ACTOR)
        size = len(events_of(home, people[0]))
        again = vault.forget(made["patients"][0], ACTOR)
        assert again.entry == -1 and again.plan.forgotten_at
        assert len(events_of(home, people[0])) == size
        with pytest.raises(BadInput, match="no such patient"):
            vault.forget("P-UNKNOWN234", ACTOR)
        with pytest.raises(Refused, match="forgotten"):  # and does not come in again
            vault.put("report", b"z", actor=ACTOR, patient=made["patients"][0])
    (erased,) = Erasures.load(home).erasures
    places = [place for place, event in enumerate(events_of(home, people[0])) if event.kind == "patient.forgotten"]
    assert len(places) == 1 and erased.sequence == sequences_of(home, people[0])[places[0]]
    assert made["patients"][0].encode() not in (home / FILE).read_bytes()


def test_who_has_the_appliance_open_is_not_cut_off(filled):
    home, made = filled
    with Vault.open(home, PASSPHRASE) as training:
        with pytest.raises(Refused, match="another process"):
            RemoteVault.open(home, PASSPHRASE, alone=True)
        with pytest.raises(Refused, match="another process"):
            training.forget(made["patients"][0], ACTOR)
        with training.use([made["packed"]], "HRESCH", ACTOR, "train") as opened:
            assert opened.read(made["packed"])


def test_a_changed_erasure_list_is_named(filled):
    home, made = filled
    with Vault.open(home, PASSPHRASE, alone=True) as vault:
        vault.forget(made["patients"][0], ACTOR)
    data = (home / FILE).read_bytes()
    mark = Erasures.load(home).erasures[0].mark.encode()
    (home / FILE).write_bytes(data.replace(mark, mark[::-1]))
    with pytest.raises(IntegrityFailure, match="erasure list was changed"):
        Erasures.load(home)
    (home / FILE).write_bytes(data[:40])
    with pytest.raises(BadInput, match="no erasure list"):
        Erasures.load(home)


@pytest.fixture
def out(tmp_path):
    """Where the copies lie: in memory where there is room, as hundreds of them are flushed."""
    memory = Path("/dev/shm")  # noqa: S108 a directory of its own is made in it
    made = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path)
    yield Path(made)
    shutil.rmtree(made)


def killed(home, people, out, ceremony):
    """Copies of a home, each killed one line later; the last was not."""
    people[2].recipient.save(out / "unused.pub")
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "tests/audit/killed.py"), home, out, ceremony, out / "unused.pub"]
    ours = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(list(map(str, command)), env=ours, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    copies = sorted((path for path in out.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    assert len(copies) > 10
    return [*copies, out / "done"]


def forgotten_in(home, made, people):
    """Opened once more: either all is there, or the patient is gone for good, and the log says which."""
    with Vault.open(home, PASSPHRASE, alone=True) as vault:
        there = vault.catalogue.holds(made["reports"][0])
        for object_id in [made["reports"][0], made["packed"], made["adapter"], made["answers"], made["checkpoint"]]:
            assert vault.catalogue.holds(object_id) == there
            assert (home / "vault/objects" / object_id[:2] / object_id).exists() == there
            if there:
                with vault.use([object_id], "TREAT", ACTOR, "ask") as opened:
                    assert CANARY in opened.read(object_id)
        with vault.use([made["reports"][1], made["metrics"]], "TREAT", ACTOR, "ask") as opened:
            assert opened.read(made["reports"][1]) == CANARY + b"\x01" and opened.read(made["metrics"]) == b"0.5"
        again = vault.put("report", b"y", actor=ACTOR, patient=made["patients"][1])
        with vault.use([again], "TREAT", ACTOR, "ask") as opened:
            assert opened.read(again) == b"y"
        names = [name for name, _ in rows_of(home)]
        assert (made["patients"][0] in names) == there == (not Erasures.load(home).erasures)
        assert (f"object/{made['packed']}" in names) == there
    assert BagFile.open(home, PASSPHRASE).bag.intent is None
    assert not [path for path in home.rglob(".*") if path.name.endswith(".new")]
    assert ("patient.forgotten" in [event.kind for event in events_of(home, people[0])]) == (not there)
    return not there


def test_a_patient_is_forgotten_whole_or_not_at_all_and_never_comes_back(filled, people, out):
    home, made = filled
    key, seen = BagFile.open(home, PASSPHRASE).bag.vault_key, []
    for copy in killed(home, people, out, "forget"):
        begun = BagFile.open(copy, PASSPHRASE).bag.intent is not None
        Vault.open(copy, PASSPHRASE).close()
        if begun and Erasures.load(copy).erasures:  # no half of a bag with the old vault key in it is left
            assert not [path for path in (copy / "keys").iterdir() if path.name.startswith(".")]
        gone = forgotten_in(copy, made, people)
        assert (BagFile.open(copy, PASSPHRASE).bag.vault_key != key) == gone
        assert forgotten_in(copy, made, people) == gone  # and stays so
        seen.append(gone)
        shutil.rmtree(copy)
    assert seen == sorted(seen) and not seen[0] and seen[-1]


def test_who_finishes_a_forgetting_may_be_killed_too(filled, people, out):
    """Of the copies with an intent in the bag, the first, the middle and the last are opened, and killed in that."""
    home, made = filled
    begun = [one for one in killed(home, people, out, "forget") if BagFile.open(one, PASSPHRASE).bag.intent is not None]
    for number, copy in enumerate((begun[0], begun[len(begun) // 2], begun[-1])):
        again = out / f"again-{number}"
        again.mkdir()
        assert len({forgotten_in(one, made, people) for one in killed(copy, people, again, "open")}) == 1


def test_a_full_disk_leaves_the_patient_forgotten_or_as_before(filled, people, tmp_path):
    """The limit on the size of a file stands in for a full disk; the process is one of its own."""
    home, made = filled
    script = (
        "import resource, signal, sys; from audit.vault import Vault; from audit.actor import Actor\n"
        "from audit.errors import ClocheError; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "vault = Vault.open(Path(sys.argv[1]), b'correct horse', alone=True)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n"
        "try: vault.forget(sys.argv[2], Actor.current('steward'))\n"
        "except ClocheError as error: sys.exit(error.exit_code)\n"
    )
    root, seen = Path(__file__).parents[2], set()
    for limit in (0, 1000, 5000, 20000, 100_000, 150_000, 200_000, 1 << 20):
        copy = tmp_path / str(limit)
        shutil.copytree(home, copy)
        command = [sys.executable, "-c", script, str(copy), made["patients"][0], str(limit)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, check=False)
        assert done.returncode in (0, 6), done.stderr
        seen.add((done.returncode, forgotten_in(copy, made, people)))
    assert (0, True) in seen and (6, False) in seen and (0, False) not in seen


def test_a_home_that_cannot_be_written_to_is_named_and_stays_as_it_was(filled, people):
    """A read-only bind mount in a mount namespace of its own; root is stopped by it, too."""
    home, made = filled
    script = (
        "import sys; from pathlib import Path; from audit.errors import ClocheError\n"
        "from audit.vault import Vault; from audit.actor import Actor\n"
        "def go(): Vault.open(Path(sys.argv[1]), b'correct horse', alone=True).forget(sys.argv[2], ACTOR)\n"
        "ACTOR = Actor.current('steward')\n"
        "try: go()\n"
        "except ClocheError as error: print(error.what); sys.exit(error.exit_code)\n"
    )
    mounted = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 99; exec "$2" -c "$3" "$1" "$4"'
    command = ["unshare", "-rm", "sh", "-c", mounted, "sh", str(home), sys.executable, script, made["patients"][0]]
    ours = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    try:
        done = subprocess.run(command, env=ours, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"this kernel lets nobody mount here: {done.stderr.strip()}")
    assert done.returncode == 6 and "refused to write" in done.stdout, done.stdout + done.stderr
    assert not forgotten_in(home, made, people)
