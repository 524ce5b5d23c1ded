"""What each step of a run learns from, and at which rate: a function of the step alone, so a resumed run agrees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from train.sft_config import SftConfig


@dataclass(frozen=True)
class Planned:
    """One optimizer step."""

    rows: tuple[int, ...]
    """Numbers of its rows."""
    rate: float
    """Its learning rate."""
    begins: bool
    """It is the first of its stage: the optimizer begins anew."""


def planned(stages: Sequence[Sequence[int]], config: SftConfig) -> list[Planned]:
    """Every step of a run.

    Args:
        stages: numbers of the rows of each stage; the order of each epoch is drawn.
    """
    plan: list[Planned] = []
    for number, rows in enumerate(stages):
        batches: list[list[int]] = []
        for epoch in range(config.epochs):
            name = f"{config.seed} {epoch}" + (f" {number}" if number else "")
            order = Random(name).sample(rows, len(rows))
            batches += (order[i : i + config.rows_per_step] for i in range(0, len(rows), config.rows_per_step))
        plan += [
            Planned(tuple(batch), config.learning_rate * _share(step, len(batches), config.warmup), step == 0)
            for step, batch in enumerate(batches)
        ]
    return plan


def _share(step: int, steps: int, warmup: float) -> float:
    """Part of the peak rate: up in a line, down in half a cosine."""
    warm = max(1, int(steps * warmup))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
