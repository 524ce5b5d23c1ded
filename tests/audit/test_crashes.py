"""The machine against the log: killed between any two statements, eight writers, a full disk, a clock set back."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from audit.checkpoint import Signer
from audit.events import Event
from audit.log import Log
from audit.reading import read
from audit.verify import verify
from tests.audit.adversary import remarks
from tests.audit.test_log import ROOT, child, events_in, headers

BEFORE = 254
"""Events before the one that is interrupted: with it the log has 256 entries, a subtree and an older checkpoint."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, people):
    """A folder with a log of 255 entries, and its key."""
    folder, signer = tmp_path_factory.mktemp("prepared"), Signer.generate("cloche/log/killed")
    with Log.create(
        folder / "log.sqlite", signer, [pair.recipient for pair in people[:2]], folder / "high-water"
    ) as log:
        log.append_many(remarks(0, BEFORE))
        shutil.copytree(folder, folder / "with its wal", ignore=shutil.ignore_patterns("*-shm"))
    return folder / "with its wal", signer


def opened(folder, signer, people):
    return Log(folder / "log.sqlite", signer, [pair.recipient for pair in people[:2]], folder / "high-water")


ENDS = {
    "append": lambda log, heir: log.append(remarks(BEFORE, 1)[0]),
    "batch": lambda log, heir: log.append_many(remarks(BEFORE, 3)),
    "rotate": lambda log, heir: log.rotate(
        heir, Event("keys.changed", remarks(0, 1)[0].actor, detail={"number": BEFORE})
    ),
}

NEEDED = ("BEGIN", "INSERT INTO entries", "INSERT INTO subtrees", "INSERT INTO checkpoints", "UPDATE head", "COMMIT",
          "before the mark", "after the mark")  # fmt: skip
"""What there must be to be interrupted."""


def interrupted(folder, signer, people, what, heir, at):
    """Do it in a child that kills itself before its statement number `at`; returns the statements it began.

    What comes after the last statement, the writing of the high-water mark, counts as two more.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # nothing of pytest's may run in here: it ends by a signal, or at once
        try:
            seen = 0

            def step(statement):
                nonlocal seen
                if seen == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
                os.write(writing, statement.split("(")[0].split("=")[0].encode() + b"\n")

            log = opened(folder, signer, people)
            real = os.pwrite

            def pwrite(*arguments):
                step("before the mark")
                real(*arguments)
                step("after the mark")

            log._connection.set_trace_callback(step)
            os.pwrite = pwrite
            ENDS[what](log, heir)
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        statements = pipe.read().splitlines()
    status = os.waitpid(pid, 0)[1]
    assert (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL) or status == 0
    return statements


@pytest.mark.parametrize("what", sorted(ENDS))
def test_a_kill_between_any_two_statements_leaves_all_or_nothing(prepared, people, tmp_path, what):
    source, signer = prepared
    heir = Signer.generate(signer.key.name)
    whole = shutil.copytree(source, tmp_path / "whole")
    statements = interrupted(whole, signer, people, what, heir, -1)
    kinds = " ".join(statements)
    for needed in (*NEEDED, *(["INSERT INTO rotations"] if what == "rotate" else [])):
        assert needed in kinds, needed
    committed = statements.index("COMMIT")
    for at in range(len(statements) + 1):
        folder = shutil.copytree(source, tmp_path / str(at))
        assert len(interrupted(folder, signer, people, what, heir, at)) == at
        path, mark = folder / "log.sqlite", folder / "high-water"
        found = verify(path, signer.key, mark)
        assert found.state == "intact", (at, found.sentence)
        numbers = [one.event.detail["number"] for one in read(path, people[0], found.size)]
        own = (3 if what == "batch" else 1) if at > committed else 0
        assert numbers == list(range(BEFORE + own)), (at, statements[at : at + 1])
        newest = heir if what == "rotate" and own else signer
        with opened(folder, newest, people) as log:
            log.append(remarks(999, 1)[0])
        found = verify(path, signer.key, mark)
        assert found.state == "intact" and found.key == newest.key.to_text(), (at, found.sentence)
        shutil.rmtree(folder)


def test_eight_writers_share_a_log_without_gap_or_double(kit):
    script = """
        (folder / f"{name} is ready").touch()
        while not (folder / "go").exists():
            time.sleep(0.001)
        for number in range(0, 30, 3):
            log.append(event(number))
            log.append_many([event(number + 1), event(number + 2)])
            time.sleep(0.002)  # longer than a commit: the others come in between
    """
    writers = [child(kit, f"writer {number}", script) for number in range(8)]
    while len(list(kit.path.parent.glob("* is ready"))) < 8 and all(process.poll() is None for process in writers):
        time.sleep(0.01)
    (kit.path.parent / "go").touch()
    for process in writers:
        assert process.communicate(timeout=300)[0] == "" and process.returncode == 0
    found = events_in(kit)
    for number in range(8):
        own = [one.event.detail["number"] for one in found if one.event.actor.user == f"writer {number}"]
        assert own == list(range(30))
    users = [one.event.actor.user for one in found]
    assert sum(a != b for a, b in zip(users, users[1:], strict=False)) > 8, "they did not overlap"


FULL = """
import sys
from pathlib import Path
from audit.errors import ClocheError
from audit.keys import generate
from audit.checkpoint import Signer
from audit.log import Log
from audit.verify import verify
from tests.audit.adversary import remarks
folder = Path(sys.argv[1])
signer = Signer.generate("cloche/log/full")
people = [generate(name, "X25519").recipient for name in ("auditor", "recovery")]
filler = folder / "filler"
filler.write_bytes(b"f" * 100_000)
log = Log.create(folder / "log.sqlite", signer, people, folder / "high-water")
count, refusals = 0, []
while not refusals:
    try:
        log.append(remarks(count, 1)[0])
        count += 1
    except ClocheError as error:
        refusals.append((type(error).__name__, error.exit_code, "Next: free some space" in error.diagnostics()))
found = verify(folder / "log.sqlite", signer.key, folder / "high-water")
assert found.state == "intact" and found.size == count + 1, (found.sentence, count)
filler.unlink()
log.append(remarks(count, 1)[0])
log.close()
found = verify(folder / "log.sqlite", signer.key, folder / "high-water")
assert found.state == "intact" and found.size == count + 3, (found.sentence, count)  # and an opening
print(*refusals[0])
"""


def test_a_small_disk_that_fills_up_stops_the_work_and_leaves_the_log_whole(tmp_path):
    """A real file system without a byte left: a tmpfs of this test's own, where a person may mount one."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare on this machine: no small disk to fill")
    within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=600k none {tmp_path}"
    allowed = subprocess.run([*within, mount], capture_output=True, text=True, check=False)
    if allowed.returncode != 0:
        pytest.skip(f"this machine lets nobody mount a small disk: {allowed.stderr.strip()}")
    done = subprocess.run(
        [*within, f'{mount} && exec "$0" -c "$1" {tmp_path}', sys.executable, FULL],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "EnvironmentProblem 6 True"), done.stderr


def test_a_clock_that_is_set_back_changes_nothing_about_the_order(kit):
    process = child(
        kit,
        "late",
        """
        import datetime as clock, audit.events
        class Back(clock.datetime):
            hours = 0
            @classmethod
            def now(cls, zone=None):
                cls.hours += 1
                return clock.datetime(2031, 1, 1, tzinfo=zone) - clock.timedelta(hours=cls.hours * 1000)
        audit.events.datetime = Back
        for number in range(20):
            log.append(event(number))
        """,
    )
    assert process.communicate(timeout=60)[0] == ""
    found = events_in(kit)
    assert [one.event.detail["number"] for one in found] == list(range(20))
    times, clocks = [one.event.at for one in found], [one.event.clock.split() for one in found]
    assert times == sorted(times, reverse=True) and times[0][:4] == "2030" and times[-1][:4] < "2030"
    assert [int(ns) for _, ns in clocks] == sorted(int(ns) for _, ns in clocks), "this clock nobody sets"
    assert {header.segment for header in headers(kit)} == {0}
