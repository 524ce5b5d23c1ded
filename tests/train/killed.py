"""A training run in a process of its own, over checkpoints in files, for a test that kills it."""

import os
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from tests.train.conftest import picture
from tests.train.test_sft import CONFIG, TALKS, one
from train.data.encode import Encoder
from train.lora import LoraConfig
from train.models.features import Features
from train.models.loading import load
from train.sft import run_sft

MANY = [*TALKS, *(one(20 + k, f"{9 + k}:32:32", "Where?", ("left", "right red")[k % 2]) for k in range(12))]
SETTINGS = replace(
    CONFIG, epochs=9, rows_per_step=3, micro_rows=2, checkpoint_every=2, lora=LoraConfig(4, 8, 0.1), neftune=5.0,
    held_out=0.2, evaluate_every=3, probe_every=9, patience=100, gradient_checkpointing="on",
)  # fmt: skip
"""Everything that a run must remember: dropout, noise, the best adapter, how long it has waited."""


class Files:
    """The last two checkpoints as files; a new one appears whole or not at all."""

    def __init__(self, directory: Path, told: Connection) -> None:
        self.directory, self.told = directory, told

    def save(self, data: bytes) -> None:
        """Write beside, then move."""
        last, before, new = (self.directory / name for name in ("last", "before", "new"))
        with new.open("wb") as file:
            file.write(data[: len(data) // 2])
            self.told.send("saving")
            file.write(data[len(data) // 2 :])
            os.fsync(file.fileno())
        if last.exists():
            os.replace(last, before)
        self.told.send("moving")
        os.replace(new, last)

    def load(self, back: int = 0) -> bytes | None:
        """What was moved there last; where a kill came between the two moves, the one before is the last."""
        found = [self.directory / name for name in ("last", "before") if (self.directory / name).exists()]
        return found[back].read_bytes() if back < len(found) else None


def train(model: Path, directory: Path, told: Connection) -> None:
    """Train to the end, telling each step as it begins; the adapter is left in a file."""
    loaded = load(model, "fp32", "cpu")
    family = replace(loaded.family, min_pixels=256)
    loaded = replace(loaded, family=family, encoder=Encoder(loaded.tokenizer, family))
    features = Features(loaded, lambda name: picture(*map(int, name.split(":"))))

    def on_step(step: int, records: object) -> None:
        told.send(step)

    trained = run_sft(loaded, MANY, features, SETTINGS, Files(directory, told), on_step=on_step)
    (directory / "adapter").write_bytes(trained.adapter)
    told.send("done")
