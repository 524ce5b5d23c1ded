"""Working weights: in memory or in the home's own folder, private, and gone when their process is, however it ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.jobs import workdir as module
from appliance.jobs.workdir import PREFIX, SHM, sweep, workdir
from audit.errors import EnvironmentProblem

ROOT = Path(__file__).parents[2]
OWNER = """
import sys, time
from pathlib import Path
from appliance.jobs.workdir import workdir
with workdir(Path(sys.argv[1]), 1) as work:
    (work / "merged").mkdir()
    (work / "merged" / "weights").write_bytes(b"w" * 1000)
    print(work, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("memory", [True, False])
def test_it_is_private_and_gone_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: bool) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    if not memory:
        monkeypatch.setattr(module, "SHM", tmp_path / "no-such-place")
        monkeypatch.setattr(module, "_room", lambda place: 100 if place == tmp_path / "home" / "work" else 0)
    (tmp_path / "home").mkdir()
    with workdir(tmp_path / "home", 10) as work:
        assert work.parent == (SHM if memory else tmp_path / "home" / "work")
        assert work.stat().st_mode & 0o077 == 0 and work.stat().st_uid == os.getuid()
        if not memory:
            assert work.parent.stat().st_mode & 0o077 == 0
        (work / "weights").write_bytes(b"w")
        sweep(tmp_path / "home")
        assert (work / "weights").exists()  # a folder that is in use is nobody's to remove
    assert not work.exists()
    with pytest.raises(ValueError, match="broken"), workdir(tmp_path / "home", 10) as work:
        raise ValueError("broken")
    assert not work.exists()


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    dead, alive = (subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2))
    assert dead.stdout and alive.stdout
    left, used = Path(dead.stdout.readline().strip()), Path(alive.stdout.readline().strip())
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert (left / "merged" / "weights").exists()
    sweep(tmp_path)
    assert not left.exists() and (used / "merged" / "weights").exists()
    alive.kill()
    alive.wait()
    sweep(tmp_path)
    assert not used.exists()


def test_a_link_that_somebody_left_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"x")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / f"{PREFIX}link").symlink_to(victim)
    sweep(tmp_path)
    assert (victim / "file").exists()


def test_no_room_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="no such room"), workdir(tmp_path, 1 << 60):
        pytest.fail("there is no such room")
