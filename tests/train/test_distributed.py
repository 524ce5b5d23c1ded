"""Several processes train what one trains: real processes, started by `accelerate launch`, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audit.errors import BadInput, Refused
from tests.train.launched import train
from train.checkpoints import MemoryStore
from train.distributed import Team, here, join
from train.lora import unpack

ROOT = Path(__file__).parents[2]


def launch(model: Path, work: Path, rows_per_step: int, *more: int | str) -> subprocess.CompletedProcess[str]:
    """Two processes on the CPU. accelerate starts several only with --multi_gpu; with --cpu alone it starts one."""
    work.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        str(ROOT / "tests/train/launched.py"), str(model), str(work), str(rows_per_step), *map(str, more),
    ]  # fmt: skip
    around = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=around, capture_output=True, text=True, timeout=300, check=False)


def alone(model: Path, work: Path, rows_per_step: int) -> bytes:
    work.mkdir()
    return train(model, work, rows_per_step)


def calls(work: Path) -> list[str]:
    return (work / "calls").read_text().splitlines()


@pytest.mark.slow
def test_two_processes_train_the_adapter_of_one(tiny_model: Path, tmp_path: Path) -> None:
    """With five rows and steps of three, a process has two rows, one, or none."""
    wanted = alone(tiny_model, tmp_path / "one", 3)
    found = launch(tiny_model, tmp_path / "two", 3)
    assert found.returncode == 0, found.stderr[-2000:]
    both = [(tmp_path / "two" / f"adapter.{rank}").read_bytes() for rank in (0, 1)]
    assert both[0] == both[1]
    one, two = unpack(wanted)[0], unpack(both[0])[0]
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=5e-6)
    losses = [[float(x) for x in (tmp_path / w).read_text().split()] for w in ("one/losses.0", "two/losses.1")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert {line.split()[-1] for line in calls(tmp_path / "two")} == {"0"}  # the first alone keeps, tells and names
    assert calls(tmp_path / "two") == calls(tmp_path / "one")


@pytest.mark.slow
def test_two_processes_go_on_after_a_kill(tiny_model: Path, tmp_path: Path) -> None:
    """Steps of two rows: each process adds one gradient to another's, in which order is all the same, bit for bit."""
    wanted = alone(tiny_model, tmp_path / "one", 2)
    killed = launch(tiny_model, tmp_path / "two", 2, 3)
    assert killed.returncode != 0
    assert not list((tmp_path / "two").glob("adapter.*"))
    assert (tmp_path / "two" / "checkpoint").exists()
    again = launch(tiny_model, tmp_path / "two", 2)
    assert again.returncode == 0, again.stderr[-2000:]
    lines = calls(tmp_path / "two")
    assert lines.count("load 0") == 2 and "load 1" not in lines
    assert lines.count("step 0 0") == 1 and lines.count("step 3 0") == 2
    assert (tmp_path / "two" / "adapter.0").read_bytes() == (tmp_path / "two" / "adapter.1").read_bytes() == wanted


@pytest.mark.slow
def test_two_processes_that_measure_differently_stop_together(tiny_model: Path, tmp_path: Path) -> None:
    done = launch(tiny_model, tmp_path, 2, "disagree")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (
        [tuple(map(float, line.split())) for line in (tmp_path / f"held.{rank}").read_text().splitlines()]
        for rank in (0, 1)
    )
    assert 2 < len(one) == len(two) < 12 * 2, "stopped early, after the same step"
    for (own, gone_by), (other, theirs) in zip(one, two, strict=True):
        assert own != other and gone_by == theirs == pytest.approx((own + other) / 2, rel=1e-12)
    assert (tmp_path / "adapter.0").read_bytes() == (tmp_path / "adapter.1").read_bytes()


def test_one_process_is_a_team_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    team, store = join(), MemoryStore()
    assert team == Team(0, 1) and team.first
    assert team.share([1, 2, 3]) == [1, 2, 3]
    assert team.store(store) is store
    assert team.told(b"x") == b"x" and team.summed(2.5) == 2.5
    assert not torch.distributed.is_initialized()


def test_every_row_is_in_one_share() -> None:
    for size in (1, 2, 3, 7):
        shares = [Team(rank, size).share(range(5)) for rank in range(size)]
        assert sorted(row for share in shares for row in share) == [0, 1, 2, 3, 4]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("0", "0"), ("x", "2"), ("0", "")])
def test_a_wrong_environment_is_refused(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(BadInput, match="RANK"):
        here()


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "192.0.2.1")
    with pytest.raises(Refused, match="network"):
        join()
