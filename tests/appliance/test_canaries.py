"""No word of a record lies in plain anywhere, after any stage and after a kill -9 in each.

Every text that came in with a record, and every number of a patient, is a canary. The home, the temporary directory,
the memory file system, the arguments and environments of all processes while they run, and all that was said are swept
for them, in the forms in which text lies about.
"""

import base64
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.jobs.workdir import PREFIX, SHM
from tests.appliance.stages import RECORDS, STAGES, write_hospital

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CAPTION, METADATA, FILE, NUMBER = "Quexlorvian", "Zibbernath^Ottoline", "wexforthal", "MRN77140991"
CANARIES = (CAPTION, "Zibbernath", "Ottoline", FILE, NUMBER)
BEGUN = {"synth": "images written", "train": "1/", "align": "1/2", "export": "quantising", "ask": "asking"}
"""What a stage says once it has something of the records in its hands."""


def forms(word: str) -> dict[str, bytes]:
    """A word as it may lie in a file: plain, in two bytes a letter, in hex, in base64 at each offset, backwards."""
    plain = word.encode()
    found = {
        "utf-8": plain,
        "upper": word.upper().encode(),
        "lower": word.lower().encode(),
        "utf-16-le": word.encode("utf-16-le"),
        "utf-16-be": word.encode("utf-16-be"),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        "reversed": plain[::-1],
    }
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + plain)
        # The letters that the neighbours' bits are in are left out; what remains is the same beside anything.
        found[f"base64 at {offset}"] = whole[-(-8 * offset // 6) : len(whole) - (4 if (len(plain) + offset) % 3 else 0)]
    return found


FORMS = [(word, form, data) for word in CANARIES for form, data in forms(word).items()]


def seen(data: bytes) -> list[str]:
    """The canaries in some bytes, with their forms."""
    return [f"{word} in {form}" for word, form, needle in FORMS if needle in data]


class Watch:
    """Looks at every process of ours, and into the temporary directory, until it is told to stop."""

    def __init__(self, marker: str, places: list[Path]) -> None:
        self.marker, self.places = f"CLOCHE_CANARY={marker}".encode(), places
        self.leaks: set[str] = set()
        self.programs: set[str] = set()
        self.known: dict[Path, tuple[int, int]] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look_on, daemon=True)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.look()

    def look_on(self) -> None:
        while not self.over.wait(0.05):
            self.look()

    def look(self) -> None:
        ours = set[str]()
        for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            if process.name != str(os.getpid()):
                try:
                    arguments, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
                    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                except OSError:
                    continue
                if self.marker in environment or parent in ours:
                    ours.add(process.name)
                    self.programs.add(arguments.replace(b"\0", b" ").decode(errors="replace"))
                    self.leaks |= {f"{leak} of a process" for leak in seen(arguments + environment)}
        for place in self.places:
            for path in place.rglob("*"):
                try:
                    state = path.stat()
                    if path.is_file() and self.known.get(path) != (state.st_mtime_ns, state.st_size):
                        self.known[path] = (state.st_mtime_ns, state.st_size)
                        self.leaks |= {f"{leak}: {path}" for leak in seen(str(path).encode() + path.read_bytes())}
                except OSError:
                    continue


class Box:
    """An appliance in a folder of its own, with a temporary directory that is watched."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.tmp = folder, folder / "home", folder / "tmp"
        self.tmp.mkdir()
        self.secret = folder / "passphrase"
        self.secret.write_text("correct horse battery staple\n")
        self.secret.chmod(0o600)
        self.said = b""
        self.programs: set[str] = set()
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"},
            "CLOCHE_PASSPHRASE_FILE": str(self.secret),
            "CLOCHE_CANARY": folder.name,
            "TMPDIR": str(self.tmp),
        }
        for name in ("auditor", "recovery"):
            self.cloche("audit", "keygen", name, "--out", str(folder))
        self.cloche("init", *(f"--recipient={folder / name}.pub" for name in ("auditor", "recovery")))
        (folder / "in").mkdir()

    def cloche(self, *words: str, **how: object) -> bytes:
        return self.run(["-m", "appliance.cli.main", "--home", str(self.home), *words], **how)  # type: ignore[arg-type]

    def stage(self, stage: str, **how: object) -> bytes:
        return self.run(["-m", "tests.appliance.stages", str(self.home), stage], **how)  # type: ignore[arg-type]

    def run(self, words: list[str], stop_at: str = "", stdin: bytes = b"") -> bytes:
        """Run a program to its end, or kill it when it says something; what it said is kept. Returns its stdout."""
        with Watch(self.folder.name, [self.tmp]) as watch:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            assert process.stdin and process.stdout and process.stderr
            process.stdin.write(stdin)
            process.stdin.close()
            heard = []
            for line in process.stderr:
                heard.append(line)
                if stop_at and stop_at.encode() in line:
                    time.sleep(0.05)
                    os.killpg(process.pid, signal.SIGKILL)
                    stop_at = ""
            out = process.stdout.read()
            code = process.wait()
        self.programs |= watch.programs
        self.said += out + b"".join(heard)
        assert not watch.leaks
        assert code == (-signal.SIGKILL if code < 0 else 0) and not stop_at, self.said[-3000:]
        self.killed = code < 0
        return out

    def sweep(self) -> None:
        """Look everywhere. Raises AssertionError naming what lies where."""
        left = [path for path in SHM.iterdir() if path.name.startswith((PREFIX, "cloche"))]
        for place in (self.home, self.tmp, *left):
            for path in place.rglob("*"):
                assert not seen(str(path.relative_to(place)).encode()), path
                if path.is_file():
                    assert not seen(path.read_bytes()), path
        assert not seen(self.said)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """An appliance that was killed once in every stage, and then finished it."""
    made = Box(tmp_path_factory.mktemp("canary"))
    source = write_hospital(made.folder / "hospital", f"{CAPTION}.", METADATA, FILE, NUMBER)
    # The folder's own path is typed by the steward: only names inside it are canaries.
    made.cloche("ingest", str(source), "--held-out", "0", stop_at="8/8 pairs checked")
    made.sweep()
    made.cloche("ingest", str(source), "--held-out", "0")
    made.sweep()
    for stage in STAGES:
        made.stage(stage, stop_at=BEGUN[stage])
        assert made.killed
        made.sweep()
        made.stage(stage)
        made.sweep()
    yield made


def test_the_canaries_would_be_found(tmp_path: Path) -> None:
    for filler in (b"", b"a", b"ab"):
        for word in CANARIES:
            assert seen(filler + word.encode()) and seen(base64.b64encode(filler + word.encode() + b" tail"))
            assert seen(word.encode("utf-16")) and seen(word.encode().hex().encode())
    assert not seen(b"an innocent sentence about a lesion")
    source = write_hospital(tmp_path / "in", f"{CAPTION}.", METADATA, FILE, NUMBER)
    assert seen(source.read_bytes()) and all(seen(path.read_bytes()) for path in source.parent.glob("*.png"))


def test_no_canary_lies_in_plain_after_any_stage_or_a_crash_in_it(box: Box) -> None:
    box.sweep()
    assert len(json.loads(box.cloche("records", "--json"))) == RECORDS
    assert json.loads(box.cloche("records", "check", "--json"))["findings"] == []
    for command in (("models",), ("runs",), ("status",), ("audit", "verify")):
        box.cloche(*command)
    box.sweep()


def test_the_vaults_own_process_was_looked_at_too(box: Box) -> None:
    assert any("audit.service" in program for program in box.programs)
    assert any("train/gguf/driver.py" in program for program in box.programs)  # llama.cpp's converter


def test_nothing_is_left_of_what_was_killed(box: Box) -> None:
    assert not [path for path in box.tmp.rglob("*") if path.is_file()]
    assert not list((box.home / "work").glob("*"))
    assert not list((box.home / "vault" / "incoming").iterdir())
    held = [path for path in SHM.glob(f"{PREFIX}*") if path.stat().st_uid == os.getuid()]
    for path in held:  # of another test's process, if any: a killed one's would have been removed
        folder = os.open(path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
