"""No log, no data, over the whole main job: what is read has an earlier event; what cannot be logged is not read."""

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from audit.keys import KeyPair
from audit.reading import read
from audit.service import listen
from audit.verify import verify
from tests.appliance.stages import RECORDS, STAGES, write_hospital

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CANARY = "Quexlorvian"
PASSPHRASE = "correct horse battery staple"


@dataclass
class Reads:
    """Every object file that the vault's process opened for reading, with how many entries the log had then."""

    home: Path
    found: list[tuple[str, int]] = field(default_factory=list)
    watching: bool = True

    def __post_init__(self) -> None:
        self.log = sqlite3.connect(f"file:{self.home}/audit/log.sqlite?mode=ro", uri=True, check_same_thread=False)
        self.lock = threading.Lock()
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by the interpreter before a file is opened; `os.open`, which only flushes here, has no mode."""
        if not self.watching or event != "open" or arguments[1] != "r":
            return
        path = Path(str(arguments[0]))
        if self.home / "vault" in path.parents and path.parent.name != "vault":
            with self.lock:  # another connection sees what is committed, and nothing else
                self.found.append((path.name, self.log.execute("SELECT count(*) FROM entries").fetchone()[0]))


@dataclass
class Made:
    """A finished main job."""

    home: Path
    secret: Path
    auditor: KeyPair
    reads: list[tuple[str, int]]

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "CLOCHE_PASSPHRASE_FILE": str(self.secret), **more}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The main job, each stage in a process of its own, the vault's process being this one: it is watched."""
    folder = tmp_path_factory.mktemp("trail")
    home, secret, where = folder / "home", folder / "passphrase", folder / "socket"
    secret.write_text(f"{PASSPHRASE}\n")
    secret.chmod(0o600)
    cloche = [sys.executable, "-m", "appliance.cli.main", "--home", str(home)]
    known = {**os.environ, "CLOCHE_PASSPHRASE_FILE": str(secret)}

    def run(*words: str, **more: str) -> None:
        done = subprocess.run(words, cwd=ROOT, env=known | more, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    for name in ("auditor", "recovery"):
        run(*cloche, "audit", "keygen", name, "--out", str(folder))
    run(*cloche, "init", *(f"--recipient={folder / name}.pub" for name in ("auditor", "recovery")))
    reads, ready = Reads(home), threading.Event()
    threading.Thread(target=listen, args=(home, PASSPHRASE.encode(), where, ready.set), daemon=True).start()
    assert ready.wait(30)
    source = write_hospital(folder / "hospital", f"{CANARY}.")
    run(*cloche, "ingest", str(source), "--held-out", "0", CLOCHE_CUSTODIAN=str(where))
    for stage in STAGES:
        run(sys.executable, "-m", "tests.appliance.stages", str(home), stage, CLOCHE_CUSTODIAN=str(where))
    reads.watching = False
    auditor = KeyPair.load(folder / "auditor.key", PASSPHRASE.encode())
    yield Made(home, secret, auditor, reads.found)


def test_each_object_that_was_read_has_an_earlier_event_that_names_it(made: Made) -> None:
    log = made.home / "audit" / "log.sqlite"
    used: dict[str, int] = {}
    for logged in read(log, made.auditor, verify(log).size):
        if logged.event is not None and logged.event.kind == "object.used":
            for name in logged.event.objects:
                used.setdefault(name, logged.sequence)
    for name, entries in made.reads:
        assert used[name] < entries  # it was in the log, committed, when the file was opened
    with sqlite3.connect(f"file:{made.home}/vault/catalogue.sqlite?mode=ro", uri=True) as catalogue:
        records = {one for row in catalogue.execute("SELECT image, report FROM records") for one in row}
    assert len(records) == 2 * RECORDS and records <= {name for name, _ in made.reads}


COMMANDS = (
    "ask {image} 'Is there a lesion?'",
    "ask {image} 'Is there a lesion?' --json",
    "synth --json",
    "train --epochs 1 --rehearse 0 --json",
    "align --steps 1 --json",
    "export --json",
    "ingest {source} --json",
    "records check --json",
    "audit show --key {key} --json",
    "records --json",
    "models --json",
    "runs --json",
)
"""The last three read the catalogue alone, which stands in plain and holds nothing of a record: they may answer."""


def state(home: Path) -> tuple[list[str], str]:
    """Names of all files, and all that the catalogue says."""
    with sqlite3.connect(f"file:{home}/vault/catalogue.sqlite?mode=ro", uri=True) as catalogue:
        said = "\n".join(catalogue.iterdump())
    files = (str(path) for path in home.rglob("*") if path.is_file())
    return sorted(name for name in files if not name.endswith(("-wal", "-shm"))), said


@pytest.mark.parametrize("part", ["audit", "."], ids=["the log read-only", "the home read-only"])
@pytest.mark.parametrize("command", COMMANDS, ids=[one.split()[0] + str(k) for k, one in enumerate(COMMANDS)])
def test_where_the_log_cannot_be_written_no_command_yields_anything(
    made: Made, tmp_path: Path, part: str, command: str
) -> None:
    locked = shlex.quote(str(made.home / part))
    mounted = f"mount --bind {locked} {locked} && mount -o remount,ro,bind {locked} && "
    unshared = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*unshared, mounted + "true"], check=False).returncode:
        pytest.skip("no mount of one's own here")
    Image.new("L", (64, 64)).save(tmp_path / "asked.png")
    write_hospital(tmp_path / "more", f"{CANARY}.", number="M")
    before = state(made.home)
    words = command.format(
        image=tmp_path / "asked.png",
        source=tmp_path / "more" / "pairs.jsonl",
        key=made.home.parent / "auditor.key",
    )
    line = f"exec {sys.executable} -m appliance.cli.main --home {shlex.quote(str(made.home))} {words}"
    done = subprocess.run(
        [*unshared, mounted + line], cwd=ROOT, env=made.environment(), capture_output=True, text=True, check=False
    )
    assert state(made.home) == before
    assert "Traceback" not in done.stderr and CANARY not in done.stdout + done.stderr
    if command in COMMANDS[-3:] and part == "audit":
        assert done.returncode == 0
        return
    assert done.returncode in (4, 6), (done.returncode, done.stderr[-2000:])
    assert done.stdout == "" and "cloche: " in done.stderr and "Next: " in done.stderr
