"""The whole main job under --fast, as a new user runs it; and the same cut off by kill -9."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.demo.hospital.structures import NAMES
from appliance.demo.hospital.wheels import cached
from audit.catalogue import Catalogue
from audit.keys import KeyPair
from tests.audit.agreement import differences
from tests.audit.opening import assert_nothing_opens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not cached(), reason="the demo's brain template is not in the cache: run `make demo` once"),
]
COMMAND = [sys.executable, "-m", "appliance.cli.main"]


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "demo", "--fast", "--json", "--dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def cloche(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CLOCHE_PASSPHRASE_FILE": str(folder / "passphrase.demo")}
    command = [*COMMAND, "--home", str(folder / "home"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A finished fast demo that was killed twice on its way."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    for wanted in ("vault/catalogue.sqlite", "synth"):
        process = start(folder)
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline and not reached(folder, wanted):
            time.sleep(0.2)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(folder)
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr[-2000:]
    return folder, json.loads(stdout)


def reached(folder: Path, what: str) -> bool:
    """Whether the killed demo has come far enough: the catalogue exists, or a synth run is under way."""
    catalogue = folder / "home" / "vault" / "catalogue.sqlite"
    if what != "synth" or not catalogue.exists():
        return what != "synth" and catalogue.exists()
    import sqlite3

    with sqlite3.connect(f"file:{catalogue}?mode=ro", uri=True) as database:
        return bool(database.execute("SELECT count(*) FROM runs WHERE kind = 'train'").fetchone()[0])


def test_the_page_tells_all_and_asks_nobody(demo: tuple[Path, dict[str, object]]) -> None:
    folder, results = demo
    page = (folder / "page.html").read_text()
    for word in ("Before and after", "Synthetic tasks", "trail of one record", "McNemar", "intact", "simulated"):
        assert word in page
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert (folder / "page.html").stat().st_mode & 0o077 == 0
    assert results["fast"] is True
    assert {"figures", "gates", "parity", "synthesis", "audit"} <= set(results)


def test_no_word_of_a_record_lies_in_the_home(demo: tuple[Path, dict[str, object]]) -> None:
    folder, _ = demo
    captions = [json.loads(line)["caption"] for line in (folder / "hospital" / "pairs.jsonl").read_text().splitlines()]
    numbers = [json.loads(line)["patient"] for line in (folder / "hospital" / "pairs.jsonl").read_text().splitlines()]
    secrets = {s.encode() for s in (*captions, *NAMES, *numbers, "Is the ", "lesion")}
    files = [p for p in (folder / "home").rglob("*") if p.is_file()]
    assert len(files) > 50
    for path in files:
        data = path.read_bytes()
        assert not [s for s in secrets if len(s) > 5 and s in data], path


def test_the_log_is_intact_and_a_changed_byte_is_named(demo: tuple[Path, dict[str, object]]) -> None:
    folder, _ = demo
    assert cloche(folder, "audit", "verify").returncode == 0
    log = folder / "home" / "audit" / "log.sqlite"
    before = log.read_bytes()
    verdicts = set()
    try:
        for at in range(len(before) // 2, len(before), len(before) // 6):
            log.write_bytes(before[:at] + bytes([before[at] ^ 0x40]) + before[at + 1 :])
            done = cloche(folder, "audit", "verify", "--json")
            found = json.loads(done.stdout)
            assert (done.returncode == 0 and found["state"] == "intact") or (
                done.returncode == 4 and found["failed_at"] is not None
            )
            verdicts.add(done.returncode)
    finally:
        log.write_bytes(before)
    assert 4 in verdicts
    assert cloche(folder, "audit", "verify").returncode == 0


def test_the_model_answers_and_the_answer_is_logged(demo: tuple[Path, dict[str, object]]) -> None:
    folder, _ = demo
    image = next((folder / "hospital" / "images").iterdir())
    entries = json.loads(cloche(folder, "audit", "verify", "--json").stdout)["size"]
    done = cloche(folder, "ask", str(image), "Which plane is this?", "--choices", "axial,coronal,sagittal", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["text"] in ("axial", "coronal", "sagittal")
    assert abs(sum(said["distribution"].values()) - 1) < 1e-6
    assert "visual tokens" in done.stderr and "diagnosis" in done.stderr
    assert json.loads(cloche(folder, "audit", "verify", "--json").stdout)["size"] > entries


def test_the_catalogues_lineage_is_the_logs(demo: tuple[Path, dict[str, object]]) -> None:
    """All that the catalogue states stands in the log; where a run was killed, the log may know more."""
    folder, _ = demo
    key = KeyPair.load(folder / "auditor.demo.key", (folder / "passphrase.demo").read_bytes().strip())
    assert differences(folder / "home", key)[0] == []


def test_who_was_held_out_has_a_proof_and_who_was_learned_from_none(demo: tuple[Path, dict[str, object]]) -> None:
    folder, _ = demo
    model = json.loads(cloche(folder, "models", "--json").stdout)[-1]["id"]
    records = json.loads(cloche(folder, "records", "--json").stdout)
    splits = {record["split"]: record["patient"] for record in records}
    assert cloche(folder, "audit", "absent", splits["held-out"], "--model", model).returncode == 0
    assert cloche(folder, "audit", "absent", splits["train"], "--model", model).returncode == 3


def test_a_patient_of_the_demo_is_forgotten(demo: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    """With every old file at hand nothing derived opens; a model made again without the patient can prove it."""
    folder, old = tmp_path / "out", tmp_path / "old"
    shutil.copytree(demo[0], folder)
    shutil.copytree(folder / "home", old)
    records = json.loads(cloche(folder, "records", "--json").stdout)
    patient = next(record["patient"] for record in records if record["split"] == "train")
    first = json.loads(cloche(folder, "models", "--json").stdout)
    forgotten = cloche(folder, "forget", patient, "--yes", "--retire-models", "--json")
    assert forgotten.returncode == 0, forgotten.stderr
    catalogue = Catalogue(folder / "home" / "vault" / "catalogue.sqlite")
    gone = [one.id for one in catalogue.deleted_objects() if (old / "vault/objects" / one.id[:2] / one.id).exists()]
    catalogue.close()
    assert len(gone) > 24
    assert_nothing_opens(folder / "home", old, (folder / "passphrase.demo").read_bytes().strip(), gone)
    assert cloche(folder, "audit", "verify").returncode == 0
    assert cloche(folder, "records", "check").returncode == 0
    states = {model["id"]: model["state"] for model in json.loads(cloche(folder, "models", "--json").stdout)}
    assert len(first) == 3 and all(states[model["id"]] == "retired" for model in first)
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    assert cloche(folder, "backup", str(backup)).returncode == 0
    for stage in (("synth", "--limit", "6"), ("train", "--epochs", "1", "--rehearse", "8"), ("export",)):
        done = cloche(folder, *stage)
        assert done.returncode == 0, done.stderr
    again = json.loads(cloche(folder, "models", "--json").stdout)[-1]["id"]
    proof = tmp_path / "proof"
    assert cloche(folder, "audit", "absent", patient, "--model", again, "--out", str(proof)).returncode == 0
    assert cloche(folder, "audit", "absent", patient, "--model", first[-1]["id"]).returncode == 3
    pin = str(folder / "home" / "keys" / "log.pub")
    alone = [sys.executable, "-I", "docs/verify_standalone.py", "--absence", str(proof), "--key", pin]
    assert subprocess.run(alone, capture_output=True, text=True, check=False).stdout.startswith("intact")
    shutil.copy(folder / "home" / "audit" / "erasures", tmp_path / "erasures")
    shutil.rmtree(folder / "home")
    key = ("--key", str(folder / "recovery.demo.key"))
    assert cloche(folder, "restore", str(backup), *key, "--home", str(restored)).returncode == 3
    done = cloche(
        folder, "restore", str(backup), *key, "--home", str(restored), "--erasures", str(tmp_path / "erasures")
    )
    assert done.returncode == 0, done.stderr
    restored.rename(folder / "home")
    left = {record["patient"] for record in json.loads(cloche(folder, "records", "--json").stdout)}
    assert left and patient not in left
    assert "was forgotten" in cloche(folder, "forget", patient, "--dry-run").stdout


def test_nothing_of_a_killed_run_is_left(demo: tuple[Path, dict[str, object]]) -> None:
    folder, _ = demo
    runs = json.loads(cloche(folder, "runs", "--json").stdout)
    assert {r["kind"] for r in runs} == {"synth", "train", "align", "export", "evaluate", "sign"}
    assert {r["state"] for r in runs} == {"done"} and len(runs) == 6
    assert not list((folder / "home").rglob("*.part"))


@pytest.mark.parametrize("stage", ["synth", "train", "align", "export", "evaluate"])
def test_a_dry_run_says_what_it_would_do_and_does_nothing(demo: tuple[Path, dict[str, object]], stage: str) -> None:
    folder, _ = demo
    runs = cloche(folder, "runs", "--json").stdout
    more = ("--questions", str(folder / "hospital" / "questions.jsonl")) if stage == "evaluate" else ()
    done = cloche(folder, stage, "--dry-run", *more)
    assert done.returncode == 0 and "would" in done.stdout, done.stderr
    assert "pip install" not in done.stderr and "Warning" not in done.stderr
    assert cloche(folder, "runs", "--json").stdout == runs
