"""One optimizer step: the gradients of a global batch, micro-batch by micro-batch, and what is done with them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from audit.errors import BadInput
from train.data.rows import Batch, Row, collate
from train.data.samples import Sample
from train.distributed import ALONE, Team
from train.loss import answer_loss, token_weights
from train.memory import Fitting
from train.models.features import Features
from train.models.forward import core, hidden_states
from train.models.loading import Loaded
from train.noise import noisy
from train.optimizers import optimizer_of
from train.sft_config import SftConfig


@dataclass(frozen=True)
class Gradients:
    """What a pass over a global batch found; the gradients are in the weights."""

    loss: float
    """Mean over the learned tokens."""
    learned: int
    """Learned tokens."""
    tokens: int
    """Tokens that the language model read, without padding."""
    bad: tuple[str, ...]
    """Records of the rows whose loss is not a finite number."""


class Learner:
    """An adapter that learns; it holds what a step changes.

    Args:
        loaded: the base.
        model: the base with its adapter on.
        features: of the images.
        config: how to train.
        tell: told what a person should know.
        team: the processes that share each step's rows.
    """

    def __init__(
        self,
        loaded: Loaded,
        model: Any,
        features: Features,
        config: SftConfig,
        tell: Callable[[str], None],
        team: Team = ALONE,
    ) -> None:
        self.team = team
        self.loaded, self.model, self.features, self.config, self.tell = loaded, model, features, config, tell
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer_of(self.weights, config, loaded.device)
        self.fitting = Fitting(config.micro_rows, tell)
        self.skipped: list[str] = []
        self.row_bad = 0

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, as JSON."""
        return {"rows": self.fitting.rows, "skipped": self.skipped, "row_bad": self.row_bad}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        if state:
            self.fitting.rows, self.row_bad = int(state["rows"]), int(state["row_bad"])
            self.skipped = [str(record) for record in state["skipped"]]

    def step(self, samples: Sequence[Sample], step: int, rate: float) -> dict[str, float]:
        """Learn from a global batch; where its loss or gradient is not a finite number, leave everything as it is.

        Raises:
            BadInput: too many steps had to be skipped, one after the other; the records are named.
        """
        seed = self.config.seed + 1_000_003 * (step + 1)  # of dropout and noise: a resumed step draws the same
        try:
            found = self._of_all(self.gradients(samples, seed), samples)
            norm = float(torch.nn.utils.clip_grad_norm_(self.weights, self.config.max_grad_norm))
            row = {"rate": rate, "tokens": found.learned, "all_tokens": found.tokens, "micro_rows": self.fitting.rows}
            if found.bad or not np.isfinite(norm):
                self._skip(step, found.bad or tuple(sorted({r for _, records in samples for r in records})))
                return row | {"skipped": 1}
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.row_bad = 0
            return {"loss": found.loss, **row, "grad_norm": norm, "skipped": 0}
        finally:
            self.forget()

    def rehearse(self, batches: Sequence[Sequence[Sample]]) -> None:
        """Go forward and backward over the largest micro-batch there will be: memory that runs out does so now.

        Where the first step holds one as large, it is itself the rehearsal.
        """
        rows = [[row for row, _ in samples] for samples in batches]
        if not rows:
            return
        try:
            self.fitting.do(max(map(len, rows)), lambda size: self._rehearse(rows, size), self.forget)
        finally:
            self.forget()

    def gradients(self, samples: Sequence[Sample], seed: int) -> Gradients:
        """Sum the gradients of the weighted loss over a global batch, as many rows at a time as fit."""
        ordered = sorted(enumerate(samples), key=lambda pair: len(pair[1][0].ids))
        return self.fitting.do(len(samples), lambda rows: self._pass(ordered, rows, seed), self.forget)

    def _of_all(self, found: Gradients, samples: Sequence[Sample]) -> Gradients:
        """What all processes found together; nothing is added where there is one."""
        if self.team.size == 1:
            return found
        self.team.sum_gradients(self.weights)
        device = self.loaded.device
        learned = int(self.team.summed(found.learned, device))
        loss = self.team.summed(found.loss * found.learned, device) / max(1, learned)
        elsewhere = self.team.summed(len(found.bad), device) and not found.bad
        bad = tuple(sorted({r for _, records in samples for r in records})) if elsewhere else found.bad
        return Gradients(loss, learned, found.tokens, bad)

    def forget(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()

    def _pass(self, ordered: Sequence[tuple[int, Sample]], rows: int, seed: int) -> Gradients:
        torch.manual_seed(seed + self.team.rank)
        self.model.train()
        total = sum(_weight(sample[0], self.config.length_power) for _, sample in ordered)
        mine = self.team.share(ordered)  # what is divided by is the whole step's
        summed, learned, bad = torch.zeros((), device=self.loaded.device), 0, set()
        for start in range(0, len(mine), rows):
            part = mine[start : start + rows]
            batch = self._batch([sample[0] for _, sample in part])
            each = self._backward(batch, total, [f"{seed} {number}" for number, _ in part])
            summed, learned = summed + each.sum(), learned + len(each)
            wrong = batch.sources[~torch.isfinite(each)] // batch.ids.shape[1]
            bad |= {record for row in set(wrong.tolist()) for record in part[row][1][1] or ("(no record)",)}
        tokens = sum(len(sample[0].ids) for _, sample in ordered)
        return Gradients(float(summed) / max(1, learned), learned, tokens, tuple(sorted(bad)))

    def _backward(self, batch: Batch, total: float, names: Sequence[str]) -> torch.Tensor:
        """Add a micro-batch's gradients; each learned token's loss (N,)."""
        inner = core(self.model)
        with noisy(inner, batch.segments, self.config.neftune, names):
            states = hidden_states(self.loaded.family, self.model, batch, self.features.stack(batch.images))
        weights = token_weights(batch, self.config.length_power, total)
        loss, each = answer_loss(inner.lm_head, states[batch.sources], batch.targets, weights, self.config.head_tile)
        loss.backward()
        return each

    def _batch(self, rows: Sequence[Row]) -> Batch:
        return collate(rows, self.loaded.tokenizer.pad_token_id, self.loaded.device)

    def _rehearse(self, batches: Sequence[Sequence[Row]], size: int) -> None:
        largest = max((part for rows in batches for part in _parts(rows, size)), key=_extent)
        if _extent(largest) > max(map(_extent, _parts(batches[0], size))):
            self.model.train()
            self._backward(self._batch(largest), 1.0, [""] * len(largest))

    def _skip(self, step: int, records: Sequence[str]) -> None:
        self.skipped = sorted({*self.skipped, *records})
        self.row_bad += 1
        named = ", ".join(records[:8]) + (f" and {len(records) - 8} more" if len(records) > 8 else "")
        if self.row_bad >= self.config.max_bad_steps:
            raise BadInput(
                f"the loss or gradient of {self.row_bad} steps one after the other is not a finite number; the last "
                f"learned from {named}",
                where=f"train, step {step}",
                hint="lower --learning-rate; leave these records out if they are the same each time",
            )
        self.tell(f"step {step} is skipped, its loss or gradient is not a finite number: {named}")


@torch.no_grad()
def loss_over(learner: Learner, samples: Sequence[Sample]) -> float:
    """Mean loss over the learned tokens of rows, as the model answers: without dropout, noise or weights."""
    ordered = sorted((row for row, _ in samples), key=lambda row: len(row.ids))

    def measured(rows: int) -> float:
        summed, learned = 0.0, 0
        for part in _parts(ordered, rows):
            batch = learner._batch(part)
            seen = learner.features.stack(batch.images)
            states = hidden_states(learner.loaded.family, learner.model, batch, seen)[batch.sources]
            ones = torch.ones(len(batch.targets), device=states.device)
            total, _ = answer_loss(core(learner.model).lm_head, states, batch.targets, ones, learner.config.head_tile)
            summed, learned = summed + float(total), learned + len(batch.targets)
        return summed / max(1, learned)

    learner.model.eval()
    return learner.fitting.do(len(ordered), measured)


def _parts(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    ordered = sorted(rows, key=lambda row: len(row.ids))
    return (ordered[start : start + size] for start in range(0, len(ordered), size))


def _extent(part: Sequence[Row]) -> tuple[int, int]:
    """Tokens of a micro-batch with padding, and of its longest row."""
    longest = max(len(row.ids) for row in part)
    return len(part) * longest, longest


def _weight(row: Row, power: float) -> float:
    """What the answers of a row weigh together."""
    lengths = np.bincount(row.segments[row.learned & (row.sources >= 0)]).astype(float)
    return float((lengths[lengths > 0] ** power).sum())
