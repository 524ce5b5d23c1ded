"""Arithmetic of three epochs, counted by torch: what features once and shared images save against the usual way.

The usual way is TRL's: the whole model with its images for every conversation, checkpointed (its default), and its
backward pass, by default through the frozen tower, too.
Seconds would be noise here; tests/benchmarks/bench_sft.py measures them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from audit.conversation import Conversation, Turn
from tests.benchmarks.workload import asked, picture, write_model
from tests.train.families.qwen2_vl import joined
from train.checkpoints import MemoryStore
from train.lora import LoraConfig, attach
from train.models.features import Features
from train.models.loading import load
from train.sft import SftConfig, run_sft

pytestmark = pytest.mark.slow
EPOCHS, IMAGES, SHAPE = 3, 2, LoraConfig(16, 32)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("workload") / "model")


def talks(questions: int) -> list[Conversation]:
    return [
        Conversation(f"c{n}", (str(k),), (Turn("user", q), Turn("assistant", a, True)), f"r{k}", "k")
        for n, (k, q, a) in enumerate(asked(IMAGES, questions))
    ]


def ours(directory: Path, questions: int) -> int:
    loaded = load(directory, "fp32", "cpu")
    features = Features(loaded, lambda name: picture(int(name)))
    config = SftConfig(epochs=EPOCHS, rows_per_step=1, micro_rows=1, lora=SHAPE, warmup=0.0)
    with FlopCounterMode(display=False) as count:
        run_sft(loaded, talks(questions), features, config, MemoryStore())
    assert features.computed == IMAGES
    return int(count.get_total_flops())


def usual(directory: Path, questions: int, through_the_tower: bool) -> int:
    """One conversation, forward and backward, three times over; they all cost the same."""
    loaded = load(directory, "fp32", "cpu")
    model: Any = attach(loaded, SHAPE)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if not through_the_tower:
        loaded.model.disable_input_require_grads()
    one = talks(questions)[0]
    text = loaded.encoder.render(one.turns, 1)
    given = joined(directory)(text=[text], images=[picture(0)], return_tensors="pt")
    learned = loaded.encoder.encode(one, [(16, 16)]).learned
    labels = given["input_ids"].masked_fill(~torch.from_numpy(np.asarray(learned))[None], -100)
    with FlopCounterMode(display=False) as count:
        model(**given, labels=labels).loss.backward()
    return int(count.get_total_flops()) * EPOCHS * len(talks(questions))


@pytest.mark.parametrize(("questions", "times", "times_without_tower"), [(1, 2.0, 1.5), (8, 5.0, 5.0)])
def test_three_epochs_cost_a_fraction(
    directory: Path, questions: int, times: float, times_without_tower: float
) -> None:
    mine = ours(directory, questions)
    peer, lighter = (usual(directory, questions, through) for through in (True, False))
    print(f"\n{questions} questions: {peer / mine:.2f} and {lighter / mine:.2f} times our FLOPs")
    assert peer / mine >= times
    assert lighter / mine >= times_without_tower
