"""The officer's questions as they are typed: answers, exit codes, and logs that are damaged, empty or sealed."""

import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from audit.actor import Actor
from audit.events import Event
from audit.home import LOG
from audit.keys import KeyPair
from audit.log import Log
from audit.reading import read
from tests.audit.conftest import CHEAP
from tests.audit.history import HELD_OUT, LEARNED, live
from tests.audit.test_officer import flip

ROOT = Path(__file__).parents[2]
QUESTIONS = [
    ("show",), ("patient", LEARNED), ("user", "ada"), ("model", "model-one"), ("disclosures", LEARNED),
    ("export", "--csv"), ("report",),
]  # fmt: skip


@pytest.fixture
def lived(vault):
    return live(vault)


@pytest.fixture
def ask(type_, key_file, tmp_path):
    """Ask a question with the auditor's key; files go to a fresh name."""
    count = 0

    def run(command, *arguments, key=key_file, **options):
        nonlocal count
        out = ()
        if command in ("export", "report") and "--out" not in arguments:
            count += 1
            out = ("--out", tmp_path / f"out-{count}")
        return type_("audit", command, *arguments, "--key", key, *out, **options)

    return run


def log_of(tmp_path, people, events, name="log/test"):
    """A log of its own with these events; its path."""
    from audit.checkpoint import Signer

    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite"
    recipients = [people[0].recipient, people[1].recipient]
    with Log.create(path, Signer.generate(f"cloche/{name}"), recipients, tmp_path / f"{path.name}-mark") as log:
        log.append_many(events)
    return path


# -- each question


def test_show_filters(ask, lived):
    def kinds(*options):
        code, out, _ = ask("show", "--json", *options)
        assert code == 0
        return [one["kind"] for one in json.loads(out)]

    assert kinds("--actor", "grace", "--outcome", "failed") == ["access.refused"]
    assert set(kinds("--kind", "model", "--kind", "disclosure.made")) == {
        "model.evaluated", "model.signed", "model.exported", "disclosure.made"}  # fmt: skip
    assert set(kinds("--action", "d")) == set() and "record.ingested" in kinds("--action", "C")
    assert kinds("--role", "operator") == [] and kinds("--range", "..1") == ["appliance.created"]
    assert kinds("--purpose", "TREAT", "--last", "1") == ["question.answered"]
    assert kinds("--until", "2020-01-01") == [] and set(kinds("--since", "1d")) == set(kinds())
    assert "run.step" in kinds("--patient", LEARNED)


@pytest.mark.parametrize(
    "options",
    [
        ("--since", "yesterday"), ("--until", "2026-02-30"), ("--range", "9..3"), ("--range", "7"), ("--range", ".."),
        ("--range", "a..b"), ("--kind", "nothing"), ("--purpose", "FUN"),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(ask, lived, options):
    code, out, err = ask("show", *options)
    assert code == 3 and out == "" and "Next:" in err
    assert ask("show", "--action", "X")[0] == 2 and ask("show", "--outcome", "X")[0] == 2


def test_patient_is_told_in_tables_and_as_json(ask, lived):
    code, out, err = ask("patient", LEARNED)
    assert code == 0 and "intact" in err
    for expected in (lived.records[LEARNED], "run-synth", "run-train", lived.pack, "model-one", "disclosure.made"):
        assert expected in out
    assert HELD_OUT not in out and lived.records[HELD_OUT] not in out
    found = json.loads(ask("patient", LEARNED, "--json")[1])
    assert found["events"] == 5 and found["models"][0]["name"] == "model-one"
    assert found["uses"][0]["first_at"].endswith("Z")
    assert "No model in this log" in ask("patient", HELD_OUT)[1]


def test_an_unknown_name_is_no_error(ask, lived):
    for command, name, says in (
        ("patient", "P-NOBODY", "There is no event about P-NOBODY in this log."),
        ("user", "nobody", "There is no event of nobody's in this log."),
        ("model", "model-two", "There is no event about a model model-two in this log."),
        ("disclosures", "P-NOBODY", "There is no disclosure about P-NOBODY in this log since "),
    ):
        code, out, _ = ask(command, name)
        assert code == 0 and out.startswith(says)
        assert ask(command, name, "--json")[0] == 0
    assert json.loads(ask("model", "model-two", "--json")[1]) == []


def test_user_and_model(ask, lived):
    code, out, _ = ask("user", "grace")
    assert code == 0 and "question.answered" in out and "access.refused (serious)" in out and "clinician" in out
    code, out, _ = ask("model", "model-one")
    assert code == 0 and "ab" * 32 in out and "run-train" in out and lived.gguf in out and "model.signed" in out
    assert json.loads(ask("model", lived.gguf, "--json")[1])[0]["name"] == "model-one"


def test_disclosures_as_a_table_csv_and_json(ask, lived, vault):
    vault.record(Event("disclosure.made", Actor("ada", "steward"), patients=(LEARNED,), detail={"recipient": "=cmd|1"}))
    code, out, _ = ask("disclosures", LEARNED)
    assert code == 0 and "Uppsala University" in out and "healthcare research: study" in out
    head, first, _, last = csv.reader(io.StringIO(ask("disclosures", LEARNED, "--csv")[1]))
    assert head == ["date", "recipient", "address", "description", "purpose", "entry"]
    assert first[1:3] == ["Uppsala University", "Box 256, Uppsala"] and last[1] == "'=cmd|1"
    found = json.loads(ask("disclosures", LEARNED, "--json")[1])
    assert [one["recipient"] for one in found] == ["Uppsala University", "model.gguf", "=cmd|1"]


def test_a_look_back_leaves_out_what_is_older(ask, lived, vault):
    old = Event("disclosure.made", Actor("ada", "steward"), patients=("P-OLD",), at="2001-02-03T00:00:00Z")
    vault.record(old)
    assert ask("disclosures", "P-OLD")[1].startswith("There is no disclosure")
    assert "2001-02-03" in ask("disclosures", "P-OLD", "--years", 200)[1]
    assert ask("disclosures", "P-OLD", "--years", 0)[0] == 2


# -- export


@pytest.mark.parametrize("form", ["csv", "jsonl", "fhir"])
def test_export_writes_a_private_file_with_its_digest(ask, lived, tmp_path, form):
    out = tmp_path / "events"
    code, said, _ = ask("export", f"--{form}", "--out", out, "--json", "--actor", "ada")
    told = json.loads(said)
    data = out.read_bytes()
    assert code == 0 and told["sha256"] == hashlib.sha256(data).hexdigest() and told["verdict"]["state"] == "intact"
    assert out.stat().st_mode & 0o777 == 0o600
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
        assert len(rows) == told["events"] and {row["user"] for row in rows} == {"ada"} and rows[0]["entry"] == "1"
    elif form == "jsonl":
        rows = [json.loads(line) for line in data.decode().splitlines()]
        assert len(rows) == told["events"] and rows == json.loads(ask("show", "--json", "--actor", "ada")[1])
    else:
        entries = json.loads(data)["entry"]
        assert len(entries) >= told["events"] and entries[0]["resource"]["resourceType"] == "AuditEvent"
        assert data.decode() == ask("show", "--fhir", "--actor", "ada")[1]
    code, said, err = ask("export", f"--{form}", "--out", out)
    assert code == 3 and "exists already" in err and out.read_bytes() == data


def test_export_refuses_the_home_a_missing_folder_and_no_format(ask, lived, vault, tmp_path):
    inside = vault.home / "events.csv"
    code, _, err = ask("export", "--csv", "--out", inside)
    assert code == 3 and "into the appliance" in err and not inside.exists()
    assert ask("report", "--out", vault.home / "audit" / ".." / "report.html")[0] == 3
    assert ask("export", "--csv", "--out", tmp_path / "nowhere" / "x")[0] == 3
    assert ask("export", "--out", tmp_path / "x")[0] == 2


def test_no_cell_of_an_export_is_a_formula(ask, people, tmp_path, vault):
    names = ["=HYPERLINK(1)", "+1", "-1", "@x"]
    path = log_of(tmp_path, people, [Event("note", Actor(name, name), activity=name) for name in names])
    out = tmp_path / "events.csv"
    assert ask("export", path, "--csv", "--out", out)[0] == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text(), newline="")))
    assert [(row["user"], row["role"], row["activity"]) for row in rows] == [(f"'{name}",) * 3 for name in names]


# -- review


def test_a_review_is_an_event_with_a_summary(ask, lived, vault, monkeypatch, tmp_path, people):
    box, mine = tmp_path / "box", tmp_path / "mine"
    for path, secret in ((box, "correct horse"), (mine, "pass")):
        path.write_text(secret)
        path.chmod(0o600)
    monkeypatch.setenv("CLOCHE_PASSPHRASE_FILE", str(box))
    monkeypatch.setenv("CLOCHE_KEY_PASSPHRASE_FILE", str(mine))
    before = list(read(vault.home / LOG, people[0], 1 << 40))
    code, out, _ = ask("review", "--by", "G. Hopper", "--finding", "one refusal, explained", "--since", "1d", "--json")
    assert code == 0
    told = json.loads(out)
    new = list(read(vault.home / LOG, people[0], 1 << 40))[len(before) :]
    event = next(one.event for one in new if one.event.kind == "audit.reviewed")
    assert event.actor.role == "officer" and event.detail["by"] == "G. Hopper"
    assert event.detail["findings"] == "one refusal, explained"
    assert (event.detail["from"], event.detail["until"]) == (before[0].sequence, before[-1].sequence + 1)
    assert event.detail["summary"]["events"] == len(before) and event.detail["summary"]["failures"] == 1
    assert event.detail["summary"]["kinds"]["question.answered"] == 2 and told["summary"] == event.detail["summary"]
    report = tmp_path / "report.html"
    assert ask("report", "--out", report)[0] == 0 and "one refusal, explained" in report.read_text()
    code, out, _ = ask("review", "--by", "G. Hopper", "--finding", "x", "--range", "1..4")
    assert code == 0 and "entries 1 to 4" in out


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 2), (("--range", "4000..5000"), 3), (("--range", "1..2", "--by", " "), 3),
        (("--range", "1..2", "--finding", "x" * 501), 3), (("--range", "1..2", "--finding", "a\nb"), 3),
    ],
)  # fmt: skip
def test_a_review_of_nothing_or_without_words_is_refused(ask, lived, options, code):
    reviews = ask("show", "--kind", "audit.reviewed", "--json")[1]
    defaults = () if "--by" in options else ("--by", "G. Hopper")
    defaults += () if "--finding" in options else ("--finding", "fine")
    assert ask("review", *options, *defaults)[0] == code
    assert ask("show", "--kind", "audit.reviewed", "--json")[1] == reviews


def test_a_review_of_a_changed_log_or_of_a_copy_is_refused(ask, lived, vault, tmp_path):
    vault.close()
    path = vault.home / LOG
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    assert ask("review", copy, "--by", "a", "--finding", "b", "--since", "1d")[0] == 3
    flip(path)
    before = path.read_bytes()
    assert ask("review", "--by", "a", "--finding", "b", "--since", "1d")[0] == 4
    assert path.read_bytes() == before


# -- logs of every kind


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question[0])
def test_another_key_or_a_wrong_passphrase_answers_nothing(ask, lived, tmp_path, question):
    code, out, err = ask(*question, key=tmp_path / "stranger.key")
    assert code == 3 and out == "" and "sealed to this key" in err
    (tmp_path / "passphrase").write_text("wrong\n")
    code, out, err = ask(*question)
    assert code == 3 and out == "" and "passphrase is wrong" in err
    assert not list(tmp_path.glob("*out-*"))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question[0])
def test_a_damaged_log_answers_up_to_the_change_and_exits_4(ask, lived, vault, tmp_path, question, people):
    path = vault.home / LOG
    vault.close()
    copy = tmp_path / "carried.sqlite"
    copy.write_bytes(path.read_bytes())
    import sqlite3

    connection = sqlite3.connect(copy)
    connection.executescript("PRAGMA journal_mode = DELETE; DROP TRIGGER entries_do_not_change;")
    last = connection.execute("SELECT max(sequence) FROM entries").fetchone()[0]
    body = connection.execute("SELECT body FROM entries WHERE sequence = ?", (last,)).fetchone()[0]
    changed = bytes([body[0] ^ 1]) + body[1:]
    connection.execute("UPDATE entries SET body = ? WHERE sequence = ?", (changed, last))
    connection.commit()
    connection.close()
    code, out, err = ask(question[0], *question[1:], copy, "--json")
    assert code == 4 and f"FAILED at entry {last}" in err
    found = json.loads(out)
    if question[0] == "show":
        assert [one["sequence"] for one in found][-1] == last - 1 and len(found) > 20
    elif question[0] == "export":
        assert found["events"] > 20 and found["verdict"]["failed_at"] == last
    elif question[0] == "report":
        page = Path(found["html"]).read_text()
        assert "The log was changed" in page and f"Entry {last} is the first" in page and not found["qr"]
    elif question[0] == "disclosures":
        assert [one["recipient"] for one in found] == ["Uppsala University"]  # the last entry was the other one
    else:
        assert found


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question[0])
def test_an_empty_log_has_an_answer(ask, people, tmp_path, question):
    path = log_of(tmp_path, people, [])
    command, *rest = question
    for options in ((), ("--json",)):
        code, out, err = ask(command, *rest, path, *options, home=tmp_path / "nowhere")
        assert code == 0 and "0 entries" in err, err


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question[0])
def test_what_is_sealed_to_others_is_counted_and_said(ask, people, tmp_path, question):
    """The auditor's key came later: the first segment is not for it."""
    from audit.checkpoint import Signer

    signer, path, mark = Signer.generate("cloche/log/late"), tmp_path / "late.sqlite", tmp_path / "late-mark"
    auditor, recovery, stranger = people
    with Log.create(path, signer, [recovery.recipient, stranger.recipient], mark) as log:
        log.append_many([Event("note", Actor("ada", "steward"))] * 3)
    with Log(path, signer, [auditor.recipient, recovery.recipient], mark) as log:
        log.append(Event("note", Actor("ada", "steward"), patients=(LEARNED,)))
    command, *rest = question
    code, out, err = ask(command, *rest, path, home=tmp_path / "nowhere")
    assert code == 0 and "3 of 4 events are sealed to other keys." in err
    if command == "report":
        assert "3 further events are sealed" in Path(out.strip()).read_text()


def test_hostile_names_reach_no_terminal_as_commands(ask, people, tmp_path):
    path = log_of(tmp_path, people, [Event("note", Actor("[bold]x[/]", "a"), patients=("[red]P",))])
    for command in (("show",), ("user", "[bold]x[/]"), ("patient", "[red]P")):
        code, out, _ = ask(*command, path)
        assert code == 0 and ("[bold]x[/]" in out and "[red]P" in out), out
    code, out, _ = ask("patient", "\x1b[2J\u202e", path)
    assert code == 0 and "\x1b" not in out and "\u202e" not in out and "\\x1b[2J\\u202e" in out


def test_a_missing_or_foreign_file_is_no_traceback(ask, lived, tmp_path):
    (tmp_path / "noise").write_bytes(b"not a database" * 99)
    for command, *rest in QUESTIONS:
        assert ask(command, *rest, tmp_path / "missing")[0] == 3
        assert ask(command, *rest, tmp_path / "noise")[0] == 4


def test_a_pin_of_another_log_fails(ask, lived, tmp_path, people):
    other = log_of(tmp_path, people, [])
    from audit import store

    connection = store.reader(other)
    line = store.head(connection).key.decode()
    connection.close()
    assert ask("show", "--key-pin", line)[0] == 4


def test_questions_work_with_the_base_install_only(lived, vault, people, tmp_path, monkeypatch):
    """click, cryptography, rich and sqlite-utils: a process in which nothing else can be imported."""
    people[0].save(tmp_path / "auditor.key", b"pass", CHEAP)
    (tmp_path / "pw").write_text("pass\n")
    (tmp_path / "pw").chmod(0o600)
    vault.close()
    copy = tmp_path / "carried.sqlite"
    copy.write_bytes((vault.home / LOG).read_bytes())
    program = (
        "import sys\n"
        "class Wall:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in {'torch', 'numpy', 'PIL', 'segno', 'reportlab', 'transformers'}:\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "from appliance.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    monkeypatch.setenv("CLOCHE_PASSPHRASE_FILE", str(tmp_path / "pw"))
    for command, *rest in QUESTIONS:
        out = ["--out", str(tmp_path / command)] if command in ("export", "report") else []
        typed = ["audit", command, *rest, str(copy), "--key", str(tmp_path / "auditor.key"), *out]
        done = subprocess.run(
            [sys.executable, "-c", program, *typed], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "package segno" in (tmp_path / "report").read_text()
    typed = ["audit", "report", str(copy), "--key", str(tmp_path / "auditor.key"), "--out", str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, "-c", program, *typed, "--pdf", str(tmp_path / "two.pdf")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 6 and "pip install 'cloche[report]'" in done.stderr and not (tmp_path / "two").exists()


def test_the_private_keys_passphrase_has_a_file_of_its_own(ask, lived, vault, tmp_path, monkeypatch):
    vault.close()
    copy = tmp_path / "copy"
    copy.write_bytes((vault.home / LOG).read_bytes())
    monkeypatch.setenv("CLOCHE_KEY_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    monkeypatch.setenv("CLOCHE_PASSPHRASE_FILE", str(tmp_path / "nothing"))
    assert ask("user", "ada", copy)[0] == 0
    assert KeyPair.load(tmp_path / "auditor.key", b"pass").recipient.name == "auditor"
