"""`cloche train` in two processes of the same box: one run, one adapter, and every reading in the log."""

import os
import shlex
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from audit.keys import KeyPair
from audit.reading import read
from audit.verify import verify
from tests.appliance.stages import write_hospital

ROOT = Path(__file__).parents[2]
LAUNCH = (
    "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    " --main_process_port 0 --module tests.appliance.stages"
)


@pytest.mark.slow
@pytest.mark.parametrize("custodian", [True, False])
def test_two_processes_make_one_run_and_every_reading_is_in_the_log(tmp_path: Path, custodian: bool) -> None:
    home, secret, where = tmp_path / "home", tmp_path / "passphrase", tmp_path / "door"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    around = os.environ | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "CLOCHE_PASSPHRASE_FILE": str(secret), "CREDENTIALS_DIRECTORY": str(tmp_path),
    }  # fmt: skip

    def python(words: str, **more: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(words)],
            cwd=ROOT, env=around | more, capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]

    cloche = f"appliance.cli.main --home {home}"
    for name in ("auditor", "recovery"):
        python(f"{cloche} audit keygen {name} --out {tmp_path}")
    python(f"{cloche} init --recipient {tmp_path}/auditor.pub --recipient {tmp_path}/recovery.pub")
    python(f"{cloche} ingest {write_hospital(tmp_path / 'hospital')} --held-out 0")
    python(f"tests.appliance.stages {home} synth")
    serving = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(f"{cloche} custodian --socket {where}")], cwd=ROOT, env=around
    ) if custodian else None  # fmt: skip
    try:
        while serving and not where.exists():
            assert serving.poll() is None
        python(f"{LAUNCH} {home} train", **({"CLOCHE_CUSTODIAN": str(where)} if custodian else {}))
    finally:
        if serving:
            serving.terminate()
            serving.wait()
    with sqlite3.connect(f"file:{home}/vault/catalogue.sqlite?mode=ro", uri=True) as catalogue:
        runs = catalogue.execute("SELECT state FROM runs WHERE kind = 'train'").fetchall()
        models = catalogue.execute("SELECT count(*) FROM models WHERE kind = 'adapter'").fetchone()
    assert runs == [("done",)] and models == (1,)
    log = home / "audit" / "log.sqlite"
    auditor = KeyPair.load(tmp_path / "auditor.key", b"correct horse")
    events = [e.event for e in read(log, auditor, verify(log).size) if e.event is not None]
    mine = [e for e in events if e.activity == "train"]
    count = Counter(e.kind for e in mine)
    assert count["run.started"] == count["run.finished"] == 1
    assert count["run.step"] >= 1
    readings = [e for e in mine if e.kind == "object.used" and "process" in e.detail]
    assert {e.detail["process"] for e in readings} == {0, 1}
    assert len({e.objects for e in readings}) == 1  # both may read all; each opens what its rows hold
