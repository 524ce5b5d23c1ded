"""A program that `accelerate launch` starts: trains the tiny model by run_sft with a checkpoint in a file.

launched.py MODEL WORK ROWS_PER_STEP [STEP]   (rank 0 is killed by SIGKILL when STEP has been taken)
launched.py MODEL WORK ROWS_PER_STEP disagree  (each rank sees other held-out pictures, and stops early)
"""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from audit.conversation import Conversation, Turn
from tests.train.conftest import picture
from train import sft, step
from train.checkpoints import MemoryStore
from train.data.samples import Sample
from train.distributed import join, leave
from train.lora import LoraConfig
from train.models.features import Features
from train.models.loading import load
from train.sft import SftConfig, run_sft
from train.step import Learner

IMAGES = ("1:128:128", "2:128:128", "3:128:128", "4:128:128", "5:128:128")
ANSWERS = ("left", "right red", "No.")


def talk(k: int, n: int) -> Conversation:
    """What is asked about a picture."""
    turns = (
        Turn("user", ("What plane?", "Is the lesion visible?")[n]),
        Turn("assistant", ANSWERS[(k + n) % 3], True),
    )
    return Conversation(f"c{k}{n}", (IMAGES[k],), turns, IMAGES[k], "caption")


TALKS = [talk(k, n) for k in range(len(IMAGES)) for n in range(1 + k % 2)]


def config(rows_per_step: int) -> SftConfig:
    """Short, with a checkpoint a step."""
    return SftConfig(
        epochs=2, rows_per_step=rows_per_step, micro_rows=1, learning_rate=1e-3, checkpoint_every=1,
        lora=LoraConfig(4, 8),
    )  # fmt: skip


class FileStore:
    """Keeps the last checkpoint in a file, and counts the calls in lines of another."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def save(self, data: bytes) -> None:
        """Keep ``data`` in place of what was kept before."""
        self.told("save")
        fresh = self.work / "checkpoint.new"
        fresh.write_bytes(data)
        fresh.rename(self.work / "checkpoint")

    def load(self, back: int = 0) -> bytes | None:
        """What was kept last; nothing before it."""
        self.told("load")
        if back:
            return None
        kept = self.work / "checkpoint"
        return kept.read_bytes() if kept.exists() else None

    def told(self, what: str) -> None:
        """One line a call, with who made it."""
        with (self.work / "calls").open("a") as file:
            file.write(f"{what} {os.environ.get('RANK', '0')}\n")


def disagree(model: Path, work: Path, rows_per_step: int) -> None:
    """What each process measures and goes by, a line a step: as if their GPUs rounded differently, only more so."""
    torch.set_num_threads(1)
    team, measured = join(), []
    loaded = load(model, "fp32", "cpu")

    def seen(name: str) -> Image.Image:
        number, *size = map(int, name.split(":"))
        return picture(number + 10 * team.rank, *size)

    def loss_over(learner: Learner, samples: Sequence[Sample]) -> float:
        measured.append(step.loss_over(learner, samples))
        return measured[-1]

    sft.loss_over = loss_over
    how = replace(config(rows_per_step), epochs=12, learning_rate=3e-2, held_out=0.4, evaluate_every=1, patience=2)
    trained = run_sft(loaded, TALKS, Features(loaded, seen), how, MemoryStore())
    lines = [f"{own!r} {m['held_loss']!r}" for own, m in zip(measured, trained.metrics, strict=True)]
    (work / f"held.{team.rank}").write_text("\n".join(lines))
    (work / f"adapter.{team.rank}").write_bytes(trained.adapter)
    leave()


def train(model: Path, work: Path, rows_per_step: int, kill_after: int = -1) -> bytes:
    """The adapter; every process writes its own beside the checkpoint."""
    torch.set_num_threads(1)
    team = join()
    store = FileStore(work)
    loaded = load(model, "fp32", "cpu")
    features = Features(loaded, lambda name: picture(*map(int, name.split(":"))))

    def progress(done: int, total: int, what: str) -> None:
        store.told(f"progress {done}")
        if done == kill_after + 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def used(step: int, records: object) -> None:
        store.told(f"step {step}")

    trained = run_sft(loaded, TALKS, features, config(rows_per_step), store, progress, used)
    (work / f"adapter.{team.rank}").write_bytes(trained.adapter)
    (work / f"losses.{team.rank}").write_text(" ".join(repr(m["loss"]) for m in trained.metrics))
    (work / f"computed.{team.rank}").write_text(str(features.computed))
    leave()
    return trained.adapter


if __name__ == "__main__":
    if sys.argv[4:] == ["disagree"]:
        disagree(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    else:
        train(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
