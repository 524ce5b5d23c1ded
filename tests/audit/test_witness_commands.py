"""The officer's walk between laptop and appliance, typed: checkpoint, witness, visit, import, verify, heartbeat."""

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.cli.main import main
from audit.actor import Actor
from audit.carry import carry
from audit.checkpoint import Signer, open_note
from audit.cosignature import open_cosignature
from audit.errors import BadInput
from audit.events import Event
from audit.handout import prepare
from audit.home import LOG
from audit.keys import Cost
from audit.log import Log
from audit.proofs import ConsistencyProof
from audit.reading import read
from audit.rotation import Predecessor, new_origin
from audit.witness import WitnessState

ROOT = Path(__file__).parents[2]
DAY_S = 86_400
ADA = Actor("ada", "steward")


@pytest.fixture
def secrets(tmp_path):
    """Files with the passphrases of both machines."""
    found = {}
    for name, word in (("box", "correct horse"), ("laptop", "battery staple")):
        found[name] = tmp_path / f"{name}.passphrase"
        found[name].write_text(word + "\n")
        found[name].chmod(0o600)
    return found


@pytest.fixture
def type_(capsys, monkeypatch, vault, secrets, tmp_path):
    """Type a command on one of the two machines; returns its exit code, stdout and stderr."""

    def run(*arguments, on="box", stdin=None):
        monkeypatch.setenv("CLOCHE_HOME", str(vault.home if on == "box" else tmp_path / "no appliance here"))
        monkeypatch.setenv("CLOCHE_PASSPHRASE_FILE", str(secrets[on]))
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(leaving.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def laptop(type_, vault, tmp_path):
    """A laptop whose witness has pinned the log's key, and a stick."""
    (tmp_path / "stick").mkdir()
    state = tmp_path / "witness.json"
    code, out, err = type_("audit", "witness", "--state", state, "--pin", vault.log_key.to_text(), on="laptop")
    assert code == 0 and "fingerprint" in err and "nothing cosigned yet" in out
    return state


@pytest.fixture
def walk(type_, laptop, tmp_path):
    """Checkpoint on the appliance, witness on the laptop; the checkpoint's file."""

    def go(*options):
        code, out, err = type_("audit", "checkpoint", "--out", tmp_path / "stick", "--json", *options)
        assert code == 0, err
        file = Path(json.loads(out)["files"][0])
        code, _, err = type_("audit", "witness", "--state", laptop, file, on="laptop")
        assert code == 0, err
        return file

    return go


def note(vault, count=1):
    """Remarks in the log; before the first of an open vault stands the opening of its segment."""
    vault.record_many([Event("note", ADA) for _ in range(count)])


# -- checkpoint


def test_checkpoint_prints_the_proof_and_writes_the_files(type_, vault, tmp_path):
    vault.record(Event("note", ADA))
    stick = tmp_path / "stick"
    stick.mkdir()
    code, out, err = type_("audit", "checkpoint")
    proof = ConsistencyProof.from_bytes(out.encode())
    assert code == 0 and proof.old_size == 0 and proof.hashes == () and open_note(proof.note, vault.log_key).size == 4
    code, out, err = type_("audit", "checkpoint", "--out", stick, "--since", 2)
    name = vault.log_key.name.rsplit("/", 1)[1] + "-4"
    assert sorted(path.name for path in stick.iterdir()) == [f"{name}.checkpoint", f"{name}.proof"]
    assert (stick / f"{name}.checkpoint").read_bytes() == proof.note
    written = (stick / f"{name}.proof").read_bytes()
    assert written == out.encode() and written.startswith(b"old 2\n") and str(stick / f"{name}.proof") in err
    assert ConsistencyProof.from_bytes(written).hashes
    found = json.loads(type_("audit", "checkpoint", "--json", "--since", 2)[1])
    assert (found["size"], found["since"], found["files"]) == (4, 2, []) and found["proof"].encode() == written


def test_checkpoint_needs_no_passphrase_and_changes_nothing(type_, vault, tmp_path, monkeypatch, secrets):
    vault.close()
    secrets["box"].unlink()
    before = (vault.home / LOG).read_bytes()
    assert type_("audit", "checkpoint")[0] == 0
    assert (vault.home / LOG).read_bytes() == before


def test_checkpoint_refuses_what_makes_no_sense(type_, vault, tmp_path):
    assert type_("audit", "checkpoint", "--since", 99)[0] == 3
    assert type_("audit", "checkpoint", "--witnessed")[0] == 3
    assert type_("audit", "checkpoint", "--since", -1)[0] == 2
    assert type_("audit", "checkpoint", "--out", tmp_path / "missing")[0] == 2
    assert type_("audit", "checkpoint", on="laptop")[0] == 3


def test_checkpoint_of_a_log_that_does_not_fit_its_own_checkpoint_exits_4(type_, vault):
    import sqlite3

    note(vault, 3)
    vault.close()
    connection = sqlite3.connect(vault.home / LOG, isolation_level=None)
    connection.execute("DROP TRIGGER entries_stay")
    connection.execute("DELETE FROM entries WHERE sequence = 4")
    connection.close()
    code, out, err = type_("audit", "checkpoint")
    assert code == 4 and out == "" and "audit verify" in err


def test_the_qr_code_is_a_picture_or_a_drawing(type_, vault, tmp_path):
    pytest.importorskip("segno")
    png, svg = tmp_path / "c.png", tmp_path / "c.svg"
    assert type_("audit", "checkpoint", "--qr", png)[0] == 0 and type_("audit", "checkpoint", "--qr", svg)[0] == 0
    assert svg.read_bytes().startswith(b"<?xml") and b"<svg" in svg.read_bytes()
    assert modules(png) == encoded(json.loads(type_("audit", "checkpoint", "--json")[1])["proof"])
    code, out, _ = type_("audit", "checkpoint", "--qr", "-")
    assert code == 0 and out.startswith("old 0\n") and sum(out.count(block) for block in "█▀▄") > 300
    assert type_("audit", "checkpoint", "--json", "--qr", png)[0] == 0


def modules(path: Path) -> list[list[int]]:
    """The black (1) and white fields of the picture, its quiet zone of 4 fields left out; a field is 4 pixels."""
    image = pytest.importorskip("PIL.Image").open(path).convert("1")
    return [[int(not image.getpixel((x, y))) for x in range(16, image.width - 16, 4)]
            for y in range(16, image.height - 16, 4)]  # fmt: skip


def encoded(text: str) -> list[list[int]]:
    """What a QR encoder makes of the text."""
    import segno

    return [list(row) for row in segno.make(text, error="m", micro=False).matrix]


def test_without_segno_the_text_still_comes_and_the_qr_code_says_what_to_install(vault, tmp_path):
    program = "import sys\nsys.modules['segno'] = None\nfrom appliance.cli.main import main\nmain(sys.argv[1:])\n"
    start = [sys.executable, "-c", program, "--home", str(vault.home), "audit", "checkpoint"]
    plain = subprocess.run(start, cwd=ROOT, capture_output=True, text=True, check=False)
    assert plain.returncode == 0 and plain.stdout.startswith("old 0\n")
    done = subprocess.run(
        [*start, "--qr", str(tmp_path / "x.png")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 6 and 'pip install "segno' in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_a_text_too_long_for_a_qr_code_is_bad_input():
    pytest.importorskip("segno")
    from appliance.cli.officer.qr import drawn

    with pytest.raises(BadInput, match="too long"):
        drawn("x" * 3000)


# -- witness


def test_the_whole_walk(type_, vault, laptop, walk, tmp_path, people):
    origin = vault.log_key.name
    first = walk()
    assert Path(f"{first}.cosigned").read_bytes() == WitnessState.load(laptop).watched(origin).cosigned
    WitnessState.load(laptop).add_read(origin, "hopper", "audit show", {"patient": "P-ABC"})
    visit = tmp_path / "stick" / "visit"
    code, out, _ = type_("audit", "visit", visit, "--state", laptop, on="laptop")
    assert code == 0 and "1 readings" in out and visit.stat().st_mode & 0o777 == 0o600
    code, out, _ = type_("audit", "import", visit)
    assert code == 0 and "pinned now" in out and "readings: 1 new" in out and "witnessed to 2 at " in out
    code, out, _ = type_("audit", "import", visit, "--json")
    found = json.loads(out)
    assert code == 0 and found["sequences"] == [] and found["reads"] == 0 and found["witnessed_to"] == 2
    kinds = [one.event.kind for one in read(vault.home / LOG, people[0], 99) if one.event]
    assert kinds[-3:] == ["keys.changed", "audit.read", "checkpoint.witnessed"]
    code, out, _ = type_("audit", "verify")
    assert code == 0 and out.startswith("intact, witnessed to 2 at 2") and "unwitnessed tail 2..6: 6 entries" in out
    # The next checkpoint starts from there by itself, and its receipt tells the laptop what was taken.
    assert json.loads(type_("audit", "checkpoint", "--json")[1])["since"] == 2
    second = walk("--witnessed")
    assert second.with_suffix(".receipt").is_file() and second.with_suffix(".proof").read_bytes().startswith(b"old 2\n")
    shown = json.loads(type_("audit", "witness", "--state", laptop, "--show", "--json", on="laptop")[1])
    (log,) = shown["logs"]
    assert (log["size"], log["reads"], log["reads_waiting"], log["successor"]) == (6, 1, 0, "")
    assert 0 <= log["age_s"] < 600 and log["pinned"] == vault.log_key.to_text()
    code, out, _ = type_("audit", "witness", "--state", laptop, "--show", on="laptop")
    assert code == 0 and f"log: {origin}" in out and "cosigned to 6 at" in out


def test_the_proof_is_computed_from_a_carried_log(type_, vault, laptop, walk, tmp_path):
    walk()
    note(vault, 20)
    carried = tmp_path / "stick" / "carried.sqlite"
    carry(vault.home / LOG, carried)
    older = prepare(carried, 0).proof.note
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "x.checkpoint").write_bytes(older)
    code, _, err = type_("audit", "witness", "--state", laptop, alone / "x.checkpoint", on="laptop")
    assert code == 3 and "proof is missing" in err
    code, out, err = type_("audit", "witness", "--state", laptop, alone / "x.checkpoint", carried, on="laptop")
    assert code == 0 and "cosigned" in out
    note(vault)
    longer = tmp_path / "stick" / "longer.sqlite"
    carry(vault.home / LOG, longer)
    code, out, err = type_("audit", "witness", "--state", laptop, longer, "--json", on="laptop")
    found = json.loads(out)
    key = WitnessState.load(laptop).key
    assert code == 0 and open_cosignature(found["cosigned"].encode(), key)[0].size == found["size"] == 24
    assert Path(found["file"]).name == "longer.sqlite.cosigned"
    code, _, err = type_("audit", "witness", "--state", laptop, carried, on="laptop")
    assert code == 4 and "rollback" in err


def test_the_text_of_a_qr_code_is_enough(type_, vault, laptop, tmp_path):
    note(vault, 5)
    scanned = type_("audit", "checkpoint")[1].encode()
    code, out, _ = type_("audit", "witness", "--state", laptop, "-", on="laptop", stdin=scanned)
    key = WitnessState.load(laptop).key
    assert code == 0 and open_cosignature(out.encode(), key)[0].size == 8
    note(vault)
    scanned = type_("audit", "checkpoint", "--since", 8)[1].encode()
    out_file = tmp_path / "made"
    code, out, _ = type_("audit", "witness", "--state", laptop, "-", "--out", out_file, on="laptop", stdin=scanned)
    assert code == 0 and open_cosignature(out_file.read_bytes(), key)[0].size == 9


def test_witness_refuses(type_, vault, laptop, walk, tmp_path, secrets):
    stick, origin = tmp_path / "stick", vault.log_key.name
    first = walk()
    note(vault, 4)
    code, out, _ = type_("audit", "checkpoint", "--out", stick, "--json")  # from 0: nothing was imported
    file = Path(json.loads(out)["files"][0])

    def refused(code, says, *arguments, **given):
        found = type_("audit", "witness", "--state", laptop, *arguments, on="laptop", **given)
        assert found[0] == code and says in found[2] and found[1] == "", found
        assert WitnessState.load(laptop).last(origin)[0].size == 2

    refused(3, "starts from 0 entries, the witness knows 2", file)
    refused(3, "another checkpoint", first, file.with_suffix(".proof"))
    (stick / "garbage.checkpoint").write_bytes(file.read_bytes() + b"garbage")
    refused(4, "no signed note", stick / "garbage.checkpoint", file.with_suffix(".proof"))
    (stick / "bad.proof").write_bytes(b"old 2\nxxxx\n\n" + file.read_bytes())
    refused(3, "32 bytes in base64", file, stick / "bad.proof")
    refused(3, "cannot be read", stick / "missing")
    refused(3, "no signed checkpoint", "-", stdin=b"")
    stranger = Signer.generate("cloche/log/stranger")
    (stick / "s.checkpoint").write_bytes(stranger.sign_text(b"cloche/log/stranger\n1\n" + b"A" * 43 + b"=\n"))
    refused(3, "does not watch", stick / "s.checkpoint")
    refused(3, "another key", "--pin", Signer.generate(origin).key.to_text())
    refused(2, "--adopt with --pin", "--adopt", file)
    secrets["laptop"].write_text("wrong\n")
    refused(3, "passphrase is wrong", file)
    laptop.chmod(0o644)
    code, _, err = type_("audit", "witness", "--state", laptop, "--show", on="laptop")
    assert code == 3 and "chmod 600" in err


def test_a_fork_of_the_same_size_exits_4(type_, vault, laptop, walk, tmp_path, kit, event, people):
    """The stolen key signs another history; the laptop has seen the true one."""
    walk()
    stolen = vault._custodian._log._signer
    forged, mark = tmp_path / "forged", tmp_path / "forged-mark"
    with Log.create(forged, stolen, [people[0].recipient, people[1].recipient], mark) as log:
        log.append(event(1))
    carried = tmp_path / "forged.sqlite"
    carry(forged, carried)
    code, out, err = type_("audit", "witness", "--state", laptop, carried, on="laptop")
    assert code == 4 and "fork" in err and out == ""


def test_a_state_is_not_made_without_a_pin(type_, vault, tmp_path):
    state = tmp_path / "new.json"
    code, _, err = type_("audit", "witness", "--state", state, on="laptop")
    assert code == 3 and "--pin" in err and not state.exists()
    assert type_("audit", "witness", "--state", state, "--pin", "no+key+line", on="laptop")[0] == 3
    assert type_("audit", "witness", "--state", state, "--show", on="laptop")[0] == 3
    assert not state.exists()


def test_a_log_that_was_handed_over_is_followed(type_, vault, laptop, walk, tmp_path):
    first = walk()
    old = vault._custodian._log._signer
    vault.close()
    mark = vault.home / "audit" / "high-water"
    new = Signer.generate(old.key.name)
    with Log(vault.home / LOG, old, vault.recipients, mark) as log:
        log.append(Event("note", ADA))
        size = log.rotate(new, Event("keys.changed", ADA)) + 1
        log.append(Event("note", ADA))
    (vault.home / "keys" / "log.pub").write_text(new.key.to_text() + "\n")
    stick = tmp_path / "stick"
    code, out, _ = type_("audit", "checkpoint", "--since", 2, "--out", stick, "--json")
    files = [Path(one) for one in json.loads(out)["files"]]
    assert code == 0 and [one.suffix for one in files] == [".checkpoint", ".proof", f".rotation-{size}"]
    hidden = tmp_path / "alone"
    hidden.mkdir()
    for one in files[:2]:
        shutil.copy(one, hidden)
    code, _, err = type_("audit", "witness", "--state", laptop, hidden / files[0].name, on="laptop")
    assert code == 4 and "not signed by the log's key" in err
    given = ["--rotation", files[2], hidden / files[0].name]
    copy, unaware = tmp_path / "copy.json", tmp_path / "unaware.json"
    shutil.copy2(laptop, copy)
    shutil.copy2(laptop, unaware)
    assert type_("audit", "witness", "--state", copy, *given, on="laptop")[0] == 0
    assert type_("audit", "witness", "--state", laptop, files[0], on="laptop")[0] == 0
    shown = json.loads(type_("audit", "witness", "--state", laptop, "--show", "--json", on="laptop")[1])["logs"][0]
    assert shown["key"] == new.key.to_text() and shown["pinned"] == old.key.to_text()
    code, out, _ = type_("audit", "verify", "--witness", unaware)  # home's pin is the new key, the state's the old one
    assert code == 0 and out.startswith("intact, witnessed to 2 at")
    carried = tmp_path / "carried.sqlite"
    carry(vault.home / LOG, carried)
    code, out, _ = type_("audit", "verify", carried, "--witness", laptop, on="laptop")
    assert code == 0 and "witnessed to" in out
    # An old cosigned file, signed by the old key, still anchors a log whose newest key is the new one.
    code, out, _ = type_("audit", "verify", carried, "--key-pin", new.key.to_text(), "--witness", f"{first}.cosigned")
    assert code == 0 and out.startswith("intact, witnessed to 2")


def test_a_log_that_began_anew_is_adopted(type_, vault, laptop, walk, tmp_path, people, event):
    walk()
    note(vault, 3)
    carried = tmp_path / "old.sqlite"
    carry(vault.home / LOG, carried)
    last = prepare(carried, 0).checkpoint
    signer = Signer.generate(new_origin(last))
    predecessor = Predecessor(signer.key.name, "lost", last, vault.log_key).sign(signer)
    fresh = tmp_path / "fresh"
    recipients = [people[0].recipient, people[1].recipient]
    with Log.create(fresh, signer, recipients, tmp_path / "mark", predecessor=predecessor) as log:
        log.append(event(1))
    new_log = tmp_path / "new.sqlite"
    carry(fresh, new_log)
    pin = ["--pin", signer.key.to_text()]
    code, _, err = type_("audit", "witness", "--state", laptop, new_log, on="laptop")
    assert code == 3 and "does not watch" in err
    code, _, err = type_("audit", "witness", "--state", laptop, *pin, "--adopt", new_log, on="laptop")
    assert code == 4 and "proof" in err
    arguments = ["--adopt", new_log, "--old-log", carried, new_log]
    code, out, err = type_("audit", "witness", "--state", laptop, *pin, *arguments, on="laptop")
    assert code == 0 and signer.key.name in out, err
    code, _, err = type_("audit", "witness", "--state", laptop, carried, on="laptop")
    assert code == 3 and "goes on from this one" in err
    code, out, _ = type_("audit", "verify", new_log, "--witness", laptop, on="laptop")
    assert code == 0 and out.startswith("intact, witnessed to 2 at")
    code, out, _ = type_("audit", "visit", tmp_path / "v", "--state", laptop, "--json", on="laptop")
    assert code == 0 and json.loads(out)["origin"] == signer.key.name


# -- visit and import


def test_visit_and_import_refuse(type_, vault, laptop, tmp_path, secrets):
    stick = tmp_path / "stick"
    assert type_("audit", "visit", stick / "v", "--state", tmp_path / "none", on="laptop")[0] == 3
    assert type_("audit", "visit", stick / "v", "--state", laptop, "--log", "cloche/log/x", on="laptop")[0] == 3
    (stick / "no").write_bytes(b"nothing")
    assert type_("audit", "import", stick / "no")[0] == 3
    assert type_("audit", "import", stick / "missing")[0] == 2
    assert type_("audit", "visit", stick / "v", "--state", laptop, on="laptop")[0] == 0
    secrets["box"].write_text("wrong\n")
    assert type_("audit", "import", stick / "v")[0] == 3
    other = Signer.generate("cloche/log/other")
    type_("audit", "witness", "--state", laptop, "--pin", other.key.to_text(), on="laptop")
    code, _, err = type_("audit", "visit", stick / "v", "--state", laptop, on="laptop")
    assert code == 3 and "--log" in err
    code, out, _ = type_("audit", "visit", stick / "v", "--state", laptop, "--log", other.key.name, on="laptop")
    assert code == 0
    secrets["box"].write_text("correct horse\n")
    code, _, err = type_("audit", "import", stick / "v")
    assert code == 3 and "another log" in err


def test_a_question_on_the_laptop_is_noted_before_it_is_answered(type_, vault, laptop, tmp_path, people, monkeypatch):
    origin, copy, key = vault.log_key.name, tmp_path / "carried.sqlite", tmp_path / "auditor.key"
    people[0].save(key, b"battery staple", Cost(64, 1, 1))
    carry(vault.home / LOG, copy)
    ask = ["audit", "show", copy, "--key-pin", vault.log_key.to_text(), "--key", key, "--patient", "P-7Q2MZKX3RA"]
    code, _, err = type_(*ask, on="laptop")
    assert code == 0 and "not noted" in err
    monkeypatch.setenv("CLOCHE_WITNESS", str(laptop))
    code, _, err = type_(*ask, on="laptop")
    (read_,) = WitnessState.load(laptop).watched(origin).waiting
    assert code == 0 and "not noted" not in err and read_.command == "audit show"
    assert read_.patients == ("P-7Q2MZKX3RA",) and read_.detail["entries_read"] == 2
    laptop.chmod(0o644)  # what cannot be noted is not answered
    code, out, err = type_(*ask, on="laptop")
    assert code == 3 and out == "" and "chmod 600" in err
    laptop.chmod(0o600)
    code, out, _ = type_("audit", "visit", tmp_path / "visit", on="laptop")  # --state from the environment, too
    assert code == 0
    assert type_("audit", "import", tmp_path / "visit")[0] == 0
    (event,) = [
        one.event for one in read(vault.home / LOG, people[0], 99) if one.event and one.event.kind == "audit.read"
    ]
    assert event.patients == ("P-7Q2MZKX3RA",) and event.detail["asked"]["entries_read"] == 2


# -- verify


@pytest.fixture
def carried(vault, walk, tmp_path):
    """A log witnessed to 2 of its 5 entries, on the laptop, and the files about it."""
    first = walk()
    note(vault, 2)
    path = tmp_path / "carried.sqlite"
    carry(vault.home / LOG, path)
    return path, Path(f"{first}.cosigned"), first


def test_verify_with_the_state_needs_no_pin_and_no_passphrase(type_, vault, carried, laptop, secrets):
    path, _, _ = carried
    secrets["laptop"].unlink()
    code, out, _ = type_("audit", "verify", path, "--witness", laptop, on="laptop")
    assert code == 0 and out.startswith("intact, witnessed to 2 at 2") and ", unwitnessed tail 2..5: 5 entries" in out
    found = json.loads(type_("audit", "verify", path, "--witness", laptop, "--json", on="laptop")[1])
    assert found["anchored"] is True and found["witnessed_to"] == 2 and found["witnessed_at"].endswith("Z")
    assert found["sentence"] + "\n" == out


def test_verify_with_a_cosigned_and_with_a_plain_checkpoint(type_, vault, carried, laptop):
    path, cosigned, plain = carried
    pin = ["--key-pin", vault.log_key.to_text()]
    witness_key = WitnessState.load(laptop).key.to_text()
    with_key = [*pin, "--witness", cosigned, "--witness-key", witness_key]
    code, out, _ = type_("audit", "verify", path, *with_key, on="laptop")
    assert code == 0 and out.startswith("intact, witnessed to 2 at 2")
    for file in (cosigned, plain):  # no witness's key: the log's own word, kept elsewhere
        code, out, _ = type_("audit", "verify", path, *pin, "--witness", file, on="laptop")
        assert code == 0 and out.startswith("intact, witnessed to 2, unwitnessed tail 2..5: 5 entries")
        assert type_("audit", "verify", path, *pin, "--witness", file, "--require-witness", "9w", on="laptop")[0] == 5
    assert type_("audit", "verify", path, "--witness", cosigned, on="laptop")[0] == 3
    other = Signer.generate("x").key.to_text()
    assert type_("audit", "verify", path, *pin, "--witness", cosigned, "--witness-key", other, on="laptop")[0] == 3


def test_require_witness_looks_at_the_age(type_, vault, carried, laptop):
    path, _, _ = carried
    origin = vault.log_key.name
    for given in ("1h", "7d", "12h", "4w", "3600s", "90m"):
        assert type_("audit", "verify", path, "--witness", laptop, "--require-witness", given, on="laptop")[0] == 0
    for given in ("", "7", "d", "-1d", "1.5d", "7 d", "1y", "\u0667d"):
        assert type_("audit", "verify", path, "--witness", laptop, "--require-witness", given, on="laptop")[0] == 2
    state = WitnessState.open(laptop, b"battery staple")
    last = prepare(path, 2)
    state.cosign(last.proof.note, 2, last.proof.hashes, int(time.time()) + 10 * DAY_S)
    code, out, err = type_("audit", "verify", path, "--witness", laptop, "--require-witness", "1h", on="laptop")
    assert code == 5 and "future" in err and out.startswith("intact, witnessed to 5 at")
    assert state.last(origin)[0].size == 5


def test_require_witness_fails_where_the_cosignature_is_old(type_, vault, laptop, tmp_path):
    state = WitnessState.open(laptop, b"battery staple")
    path = tmp_path / "carried.sqlite"
    carry(vault.home / LOG, path)
    made = ["audit", "verify", path, "--witness", laptop, "--require-witness"]
    code, out, err = type_(*made, "7d", on="laptop")  # pinned, never cosigned
    assert code == 5 and "no witness's cosignature" in err and out.startswith("intact, unwitnessed")
    way = prepare(path, 0).proof
    state.cosign(way.note, 0, (), int(time.time()) - 8 * DAY_S)
    code, out, err = type_(*made, "7d", on="laptop")
    assert code == 5 and "8.0 days old, 7.0 are allowed" in err and out.startswith("intact, witnessed to 2 at")
    assert type_(*made, "9d", on="laptop")[0] == 0


def test_verify_fails_where_the_log_contradicts_the_witness(type_, vault, carried, laptop, tmp_path, people, event):
    """Cut short, put back, or rebuilt with the stolen key: exit 4 against the state and against the cosigned file."""
    path, cosigned, _ = carried
    stolen = vault._custodian._log._signer
    forged = tmp_path / "forged"
    with Log.create(forged, stolen, [people[0].recipient, people[1].recipient], tmp_path / "m1") as log:
        log.append_many([event(number) for number in range(3)])
    empty = tmp_path / "empty"
    Log.create(empty, stolen, [people[0].recipient, people[1].recipient], tmp_path / "m2").close()
    other = tmp_path / "other"
    stranger = Signer.generate("cloche/log/stranger")
    with Log.create(other, stranger, [people[0].recipient, people[1].recipient], tmp_path / "m3") as log:
        log.append(event(1))
    for log, against in [(forged, laptop), (forged, cosigned), (empty, laptop), (empty, cosigned), (other, laptop)]:
        pin = [] if against == laptop else ["--key-pin", vault.log_key.to_text()]
        given = [log, *pin, "--witness", against, "--require-witness", "1h"]
        code, out, _ = type_("audit", "verify", *given, on="laptop")
        assert code == 4 and out.startswith("FAILED at entry "), (log, against, out)
    assert type_("audit", "verify", path, "--witness", laptop, on="laptop")[0] == 0


def test_a_log_that_the_state_does_not_know_exits_4(type_, vault, carried, laptop, tmp_path, people, event):
    state = WitnessState.open(laptop, b"battery staple")
    state.pin(Signer.generate("cloche/log/second").key)
    stranger = Signer.generate("cloche/log/stranger")
    other = tmp_path / "other"
    with Log.create(other, stranger, [people[0].recipient, people[1].recipient], tmp_path / "m3") as log:
        log.append(event(1))
    code, out, err = type_("audit", "verify", other, "--witness", laptop, on="laptop")
    assert code == 4 and "does not know" in err and out == ""
    assert type_("audit", "verify", carried[0], "--witness", laptop, on="laptop")[0] == 0


def test_the_states_pin_counts_not_the_one_in_the_home(type_, vault, laptop, people, event, tmp_path):
    """A log rebuilt under its own name with another key, and the home's pin changed to fit; nothing cosigned yet."""
    recipients, mark = vault.recipients, vault.home / "audit" / "high-water"
    vault.close()
    assert type_("audit", "verify", "--witness", laptop)[0] == 0
    for path in (vault.home / LOG, mark):
        path.unlink()
    thief = Signer.generate(vault.log_key.name)
    with Log.create(vault.home / LOG, thief, recipients, mark) as log:
        log.append(event(1))
    (vault.home / "keys" / "log.pub").write_text(thief.key.to_text() + "\n")
    assert type_("audit", "verify")[0] == 0
    code, _, err = type_("audit", "verify", "--witness", laptop)
    assert code == 4 and "not the one that the witness has pinned" in err
    pin = ["--key-pin", thief.key.to_text()]
    assert type_("audit", "verify", vault.home / LOG, *pin, "--witness", laptop, on="laptop")[0] == 4
    code, out, _ = type_("audit", "verify", vault.home / LOG, "--witness", laptop, on="laptop")
    assert code == 4 and out.startswith("FAILED at entry 0")


def test_a_damaged_witness_file_is_no_traceback(type_, vault, carried, laptop, tmp_path):
    path, cosigned, _ = carried
    pin = ["--key-pin", vault.log_key.to_text()]
    bad = tmp_path / "bad"
    for data in (b"", b"{", cosigned.read_bytes()[:50], laptop.read_bytes()[:-40], b"\xff" * 99):
        bad.write_bytes(data)
        bad.chmod(0o600)
        code, out, err = type_("audit", "verify", path, *pin, "--witness", bad, on="laptop")
        assert code in (3, 4) and out == "" and "bug of ours" not in err
    found = json.loads(laptop.read_bytes())
    found["logs"][vault.log_key.name]["key"] = Signer.generate(vault.log_key.name).key.to_text()
    bad.write_text(json.dumps(found))
    code, _, err = type_("audit", "verify", path, "--witness", bad, on="laptop")
    assert code == 4 and "changed by somebody else" in err


def test_what_was_witnessed_of_an_older_log_is_not_held_against_a_new_one(type_, vault, laptop, walk, tmp_path):
    """After a restart under a new origin the home still holds the last cosigned checkpoint of the old one."""
    walk()
    visit = tmp_path / "stick" / "visit"
    type_("audit", "visit", visit, "--state", laptop, on="laptop")
    assert type_("audit", "import", visit)[0] == 0
    recipients = vault.recipients
    vault.close()
    for name in ("log.sqlite", "high-water"):
        (vault.home / "audit" / name).unlink()
    fresh = Signer.generate("cloche/log/fresh")
    with Log.create(vault.home / LOG, fresh, recipients, vault.home / "audit" / "high-water") as log:
        log.append(Event("note", ADA))
    (vault.home / "keys" / "log.pub").write_text(fresh.key.to_text() + "\n")
    code, out, _ = type_("audit", "verify")
    assert code == 0 and out.startswith("intact, unwitnessed: 2 entries")
    assert json.loads(type_("audit", "checkpoint", "--json")[1])["since"] == 0


# -- heartbeat


def test_heartbeat_is_an_event_of_its_own_class(type_, vault, people):
    code, out, _ = type_("audit", "heartbeat", "--json")
    sequence = json.loads(out)["sequence"]
    assert code == 0
    (beat,) = [one for one in read(vault.home / LOG, people[0], sequence + 1) if one.sequence == sequence]
    assert beat.event.kind == "heartbeat" and beat.event.actor.role == "service"
    assert type_("audit", "heartbeat")[1] == f"heartbeat: entry {sequence + 2:,}\n"  # a segment of its own process
