"""Single-stage QLoRA: captions and synthetic tasks of an image in one row, the image once (DESIGN §5, METHODS 1.6).

What is simpler than the paper: LoRA on the language model in place of full fine-tuning, and one image's conversations
as branches of one row in place of one multi-turn conversation; each branch computes exactly what it would alone.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from audit.conversation import Conversation
from audit.errors import BadInput
from train.checkpoints import Checkpoint, Store, restore, snapshot
from train.data.limits import check_lengths
from train.data.rows import Row, collate, packed_row, shared_row
from train.distributed import ALONE, Team, join
from train.lora import LoraConfig, attach, pack
from train.models.features import Features, cost_of_live
from train.models.forward import learned_logits
from train.models.loading import Loaded


@dataclass(frozen=True)
class SftConfig:
    """How to train."""

    epochs: int = 4
    """Passes over the data."""
    rows_per_step: int = 4
    """Rows an optimizer step; a row is one image with all its conversations."""
    micro_rows: int = 4
    """Rows a forward pass."""
    length_power: float = 0.25
    """An answer of n tokens weighs n to this power: 1 is the plain mean over tokens (METHODS 1.6), 0 makes all answers
    alike, so that a caption does not drown a "Yes"."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW (paged, in 8 bits on a GPU), or Muon (arXiv 2502.16982): fewer steps for a small model and small steps."""
    learning_rate: float = 1.2e-3
    """Peak rate."""
    warmup: float = 0.05
    """Share of the steps that warm up; the rest follows a cosine to zero."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of the order of the rows and of the adapter."""
    lora: LoraConfig = LoraConfig()
    """Shape of the adapter."""


@dataclass(frozen=True)
class Trained:
    """What a run leaves."""

    adapter: bytes
    """The adapter as safetensors."""
    metrics: tuple[dict[str, float], ...]
    """One row a step: step, loss, rate, tokens, seconds."""


def run_sft(
    loaded: Loaded,
    conversations: Sequence[Conversation],
    features: Features,
    config: SftConfig,
    store: Store,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    on_step: Callable[[int, Sequence[str]], None] = lambda step, records: None,
) -> Trained:
    """Train an adapter; goes on from the store's checkpoint where there is one.

    Args:
        conversations: what to learn; those about the same images share a row.
        store: keeps the checkpoint.
        on_step: told the records of each step before they are used.
    """
    team = join()
    store, progress, on_step = team.store(store), team.only_first(progress), team.only_first(on_step)
    features = features.live() if config.lora.vision else features
    torch.manual_seed(config.seed)
    rows = rows_of(loaded, conversations, features)
    if not rows:
        raise BadInput(
            "there is nothing to train on: no conversation has a learned turn",
            where="train",
            hint="run `cloche synth` first",
        )
    model = attach(loaded, config.lora)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(weights, config, loaded.device)
    plan = list(_plan(len(rows), config))
    if config.lora.vision:
        progress(
            0, len(plan), f"steps; the tower learns, too: {_times(loaded, features, rows, config):.1f} times the work"
        )
    try:
        first, metrics = restore(store, model, optimizer)
        team.same(weights)
        for step in range(first, len(plan)):
            started = time.perf_counter()
            torch.manual_seed(
                config.seed + 1_000_003 * (step + 1) + team.rank
            )  # of dropout: a resumed step drops the same
            chosen = [rows[i] for i in plan[step]]
            on_step(step, sorted({r for row in chosen for r in row[1]}))
            rate = config.learning_rate * _schedule(step, len(plan), config.warmup)
            loss, learned = _step(loaded, model, features, [row[0] for row in chosen], optimizer, rate, config, team)
            metrics.append(
                {"step": step, "loss": loss, "rate": rate, "tokens": learned, "seconds": time.perf_counter() - started}
            )
            progress(step + 1, len(plan), f"steps, loss {loss:.3f}")
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < len(plan):
                store.save(snapshot(Checkpoint(step + 1, tuple(metrics)), model, optimizer))
        return Trained(pack(model, config.lora, loaded.digest), tuple(metrics))
    finally:
        model.unload()


def _times(loaded: Loaded, features: Features, rows: list[tuple[Row, tuple[str, ...]]], config: SftConfig) -> float:
    images = [name for row, _ in rows for name, _, _ in row.images]
    if not images:
        return 1.0
    fitted = loaded.family.fitted(features.image(images[0]))
    return cost_of_live(loaded, fitted, len(images), sum(len(row.ids) for row, _ in rows), config.epochs)


def rows_of(
    loaded: Loaded, conversations: Sequence[Conversation], features: Features
) -> list[tuple[Row, tuple[str, ...]]]:
    """One row an image set, with the records in it; conversations without images are packed into rows of their own.

    Raises: BadInput where conversations are longer than the model's context.
    """
    groups: dict[tuple[str, ...], list[Conversation]] = {}
    for talk in conversations:
        groups.setdefault(talk.images or (f"text {talk.id}",), []).append(talk)
    rows, lengths = [], []
    for group in groups.values():
        encoded = [
            loaded.encoder.encode(t, [features.grid(i) for i in t.images], t.kind == "synthesizer") for t in group
        ]
        lengths += [(t, len(e.ids)) for t, e in zip(group, encoded, strict=True)]
        kept = [e for e in encoded if e.learned.any()]
        if kept:
            records = tuple(sorted({t.record for t in group if t.record}))
            rows.append((shared_row(kept) if group[0].images else packed_row(kept), records))
    check_lengths(lengths, loaded.model.config)
    return rows


def _step(
    loaded: Loaded,
    model: Any,
    features: Features,
    rows: list[Row],
    optimizer: Any,
    rate: float,
    config: SftConfig,
    team: Team = ALONE,
) -> tuple[float, int]:
    power, micro = config.length_power, config.micro_rows
    model.train()
    rows = sorted(rows, key=lambda row: len(row.ids))
    lengths = [np.bincount(r.segments[r.learned & (r.sources >= 0)]).astype(float) for r in rows]
    total, summed = int(sum(n.sum() for n in lengths)), 0.0
    weight = sum(float((n[n > 0] ** power).sum()) for n in lengths)
    rows = team.share(rows)  # all that is divided by above is the whole step's
    for start in range(0, len(rows), micro):
        batch = collate(rows[start : start + micro], loaded.tokenizer.pad_token_id, loaded.device)
        logits = learned_logits(loaded.family, model, batch, features.stack(batch.images))
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        summed += float(losses.detach().sum()) / total
        each = batch.owners.bincount()[batch.owners] ** (power - 1.0)
        ((losses * each).sum() / weight).backward()
    weights = [p for p in model.parameters() if p.requires_grad]
    team.sum_gradients(weights)
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return team.summed(summed, loaded.device), total


def _plan(rows: int, config: SftConfig) -> Iterator[list[int]]:
    for epoch in range(config.epochs):
        order = Random(f"{config.seed} {epoch}").sample(range(rows), rows)
        yield from (order[i : i + config.rows_per_step] for i in range(0, rows, config.rows_per_step))


def _schedule(step: int, steps: int, warmup: float) -> float:
    warm = max(1, int(steps * warmup))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _optimizer(weights: list[Any], config: SftConfig, device: torch.device) -> Any:
    if config.optimizer == "muon":
        return torch.optim.Muon(weights, lr=config.learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    if device.type == "cuda":
        import bitsandbytes

        return bitsandbytes.optim.PagedAdamW8bit(weights, lr=config.learning_rate, weight_decay=0.0)
    return torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)
