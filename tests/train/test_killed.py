"""Killed at ten random points by a real SIGKILL, resumed: the adapter of the run that was not killed, bit for bit."""

import multiprocessing
import signal
import time
from pathlib import Path
from random import Random

import pytest

from tests.train import killed

KILLS = 10


@pytest.fixture
def processes() -> multiprocessing.context.ForkServerContext:
    """Processes that begin with the libraries loaded and nothing else done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.killed", "transformers", "peft"])
    return context


@pytest.mark.slow
def test_ten_kills_leave_the_same_adapter(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: multiprocessing.context.BaseContext
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the fork server is asked once, and sums in the same order ever after
    rng = Random(7)

    def run(directory: Path, events: int | None) -> list[object]:
        """What a run tells until it is done, or until it is killed after so many events."""
        directory.mkdir(exist_ok=True)
        ours, theirs = processes.Pipe(duplex=False)
        process = processes.Process(target=killed.train, args=(tiny_model, directory, theirs))
        process.start()
        theirs.close()
        told: list[object] = []
        while events is None or len(told) < events:
            assert ours.poll(120), "the run says nothing"
            told.append(ours.recv())
            if told[-1] == "done":
                break
        if told[-1] != "done":
            time.sleep(rng.random() * 0.02)  # anywhere in the step, or in the writing of the checkpoint
            process.kill()
        process.join(60)
        assert process.exitcode == (0 if told[-1] == "done" else -signal.SIGKILL)
        return told

    whole = run(tmp_path / "whole", None)
    steps = max(step for step in whole if isinstance(step, int)) + 1
    assert steps > 2 * KILLS
    begun = []
    for _ in range(KILLS):
        told = run(tmp_path / "killed", rng.randint(2, 9))
        assert told[-1] != "done"
        begun.append(told[0])
    last = run(tmp_path / "killed", None)
    assert last[-1] == "done" and 0 < last[0] < steps - 1  # type: ignore[operator]
    assert begun[0] == 0 and len(set(begun)) > 3 and begun == sorted(begun)
    assert (tmp_path / "killed" / "adapter").read_bytes() == (tmp_path / "whole" / "adapter").read_bytes()
