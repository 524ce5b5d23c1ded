"""GRPO on policy: sample a group, compare it with itself, push towards what did better (METHODS 4).

One update a rollout, so the ratio is one and no clip is needed. A prompt is read once and fanned out; the update scores
a group's completions as branches of one row, the prompt once. Groups whose rewards are all alike teach nothing: they
are counted and others drawn in their place. Truncated completions are masked. The loss is DAPO's token mean.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch

from audit.conversation import Turn
from audit.errors import BadInput
from train.checkpoints import Checkpoint, Store, restore, snapshot
from train.data.encode import Encoded, continued
from train.data.rows import Row, collate, shared_row
from train.lora import LoraConfig, attach, pack
from train.models.features import Features
from train.models.forward import learned_logits
from train.models.generation import Continuation, Sampling, generate, text_of
from train.models.loading import Loaded
from train.rl.domain import MIRRORED, Mirror, divergences


@dataclass(frozen=True)
class Prompt:
    """A question with its reference answer."""

    image: str
    """Object id of the image."""
    turns: tuple[Turn, ...]
    """What the policy is to answer."""
    reference: str
    """The answer that is wanted."""
    record: str
    """The record that it is about."""


@dataclass(frozen=True)
class GrpoConfig:
    """How to align."""

    steps: int = 20
    """Optimizer steps."""
    prompts: int = 16
    """Groups a step."""
    group: int = 8
    """Completions a group, G."""
    max_new_tokens: int = 16
    """Tokens of a completion at most."""
    temperature: float = 1.0
    """Of the rollouts and of the log-probabilities."""
    learning_rate: float = 2e-4
    """Of AdamW, constant after the first step."""
    kl: float = 0.0
    """Weight of the k3 estimate of KL to the policy without its adapter; 0 leaves the second forward out."""
    domain: float = 1.0
    """Weight of L_dom; 0 with ``shaping`` off leaves the transformed forward out."""
    shaping: bool = True
    """Multiply advantages with 1 - JS."""
    resample: int = 2
    """Times that zero-variance groups are replaced before the step goes on without."""
    checkpoint_every: int = 10
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of the prompts and the rollouts."""


@dataclass(frozen=True)
class Group:
    """A prompt and its completions."""

    prompt: Prompt
    """What was asked."""
    completions: tuple[Continuation, ...]
    """What the policy said."""
    texts: tuple[str, ...]
    """The same as words."""
    rewards: tuple[float, ...]
    """What each earned."""

    @property
    def advantages(self) -> np.ndarray:
        """(G,) float64: (r - mean) / (std + 1e-4), std with Bessel's correction."""
        r = np.asarray(self.rewards)
        return (r - r.mean()) / (r.std(ddof=1) + 1e-4)


@dataclass(frozen=True)
class Aligned:
    """What a run leaves."""

    adapter: bytes
    """The adapter as safetensors."""
    metrics: tuple[dict[str, float], ...]
    """One row a step."""


def run_grpo(
    loaded: Loaded,
    adapter: bytes,
    prompts: Sequence[Prompt],
    features: Features,
    config: GrpoConfig,
    reward: Callable[[str, str], float],
    store: Store,
    mirror: Mirror | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    on_groups: Callable[[int, Sequence[Group]], None] = lambda step, groups: None,
) -> Aligned:
    """Align an adapter; goes on from the store's checkpoint where there is one.

    Args:
        reward: of (completion, reference), in [0, 1].
        mirror: the domain constraint; None is plain GRPO.
        on_groups: told every group that a step learned from.
    """
    if not prompts:
        raise BadInput(
            "there is nothing to align on: no kept triplet has a short answer",
            where="align",
            hint="run `cloche synth` first",
        )
    shape = LoraConfig.of(adapter)
    model = attach(loaded, shape, adapter)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=config.learning_rate, weight_decay=0.0
    )
    try:
        resumed = restore(store, model, optimizer)
        metrics = list(resumed.metrics)
        for step in range(resumed.step, config.steps):
            started = time.perf_counter()
            groups, starved = _rollouts(loaded, model, prompts, features, config, reward, step)
            on_groups(step, groups)
            row = {"step": step, **_summary(groups, starved)}
            if useful := [g for g in groups if np.std(g.rewards) > 0]:
                row |= _update(loaded, model, useful, features, config, mirror, optimizer)
            metrics.append(row | {"seconds": time.perf_counter() - started})
            progress(step + 1, config.steps, f"steps, reward {row['reward']:.2f}")
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
                store.save(snapshot(Checkpoint(step + 1, tuple(metrics)), model, optimizer))
        return Aligned(pack(model, shape, loaded.digest), tuple(metrics))
    finally:
        model.unload()


def _rollouts(
    loaded: Loaded,
    model: Any,
    prompts: Sequence[Prompt],
    features: Features,
    config: GrpoConfig,
    reward: Callable[[str, str], float],
    step: int,
) -> tuple[list[Group], int]:
    rng = Random(f"{config.seed} {step}")
    kept: list[Group] = []
    starved = 0
    for attempt in range(1 + config.resample):
        chosen = [rng.choice(prompts) for _ in range(config.prompts - len(kept))]
        how = Sampling(
            config.max_new_tokens,
            config.temperature,
            config.group,
            rng.getrandbits(31),
            batch=config.prompts * config.group,
        )
        found = generate(loaded, [_encoded(loaded, p, features) for p in chosen], features, how, model)
        groups = []
        for prompt, completions in zip(chosen, found, strict=True):
            texts = tuple(text_of(loaded, c) for c in completions)
            groups.append(Group(prompt, tuple(completions), texts, tuple(reward(t, prompt.reference) for t in texts)))
        varied = [g for g in groups if np.std(g.rewards) > 0]
        starved += len(groups) - len(varied)
        kept += groups if attempt == config.resample else varied
        if len(kept) >= config.prompts:
            break
    return kept, starved


def _encoded(loaded: Loaded, prompt: Prompt, features: Features, image: str = "") -> Encoded:
    return loaded.encoder.prompt(prompt.turns, (image or prompt.image,), [features.grid(prompt.image)])


def group_row(prompt: Encoded, completions: Sequence[Continuation]) -> Row:
    """A group as one row: the prompt once, each completion a branch; truncated ones are not learned."""
    return shared_row([continued(prompt, c.ids, c.ended) for c in completions])


def _update(
    loaded: Loaded,
    model: Any,
    groups: Sequence[Group],
    features: Features,
    config: GrpoConfig,
    mirror: Mirror | None,
    optimizer: Any,
) -> dict[str, float]:
    rows = [group_row(_encoded(loaded, g.prompt, features), g.completions) for g in groups]
    batch = collate(rows, loaded.tokenizer.pad_token_id, loaded.device)
    if not len(batch.targets):
        return {}
    seen = features.stack(batch.images)
    logits = learned_logits(loaded.family, model, batch, seen) / config.temperature  # (N, V)
    logprobs = torch.log_softmax(logits, -1)
    chosen = logprobs.gather(1, batch.targets[:, None])[:, 0]
    advantages = (
        torch.from_numpy(np.concatenate([g.advantages for g in groups])).float().to(loaded.device)[batch.owners]
    )
    found: dict[str, float] = {"entropy": float(-(logprobs.exp() * logprobs).sum(-1).mean().detach())}
    loss = torch.zeros((), device=loaded.device)
    if mirror is not None and (config.domain or config.shaping):
        applies = torch.tensor(
            [mirror.applies(" ".join((*(t.text for t in g.prompt.turns), text))) for g in groups for text in g.texts],
            device=loaded.device,
        )[batch.owners]
        swapped = [_mirrored_row(row, mirror) for row in rows]
        other = collate(swapped, loaded.tokenizer.pad_token_id, loaded.device)
        with torch.no_grad():
            transformed = (
                mirror.back(learned_logits(loaded.family, model, other, features.stack(other.images)))
                / config.temperature
            )
        kl, js = divergences(logits, transformed)
        kl, js = kl * applies, js * applies
        if config.shaping:
            advantages = advantages * (1 - js)
        loss = loss + config.domain * kl.mean()
        found |= {"domain_kl": float(kl.mean().detach()), "domain_js": float(js.mean())}
    loss = loss - (torch.exp(chosen - chosen.detach()) * advantages).mean()
    if config.kl:
        with torch.no_grad(), model.disable_adapter():
            before = torch.log_softmax(
                learned_logits(loaded.family, model, batch, seen) / config.temperature, -1
            ).gather(1, batch.targets[:, None])[:, 0]
        ratio = before - chosen
        k3 = (torch.exp(ratio) - ratio - 1).mean()
        loss = loss + config.kl * k3
        found["kl"] = float(k3.detach())
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": float(loss.detach()), **found}


def _mirrored_row(row: Row, mirror: Mirror) -> Row:
    return replace(row, ids=mirror.swap(row.ids), images=tuple((i + MIRRORED, at, n) for i, at, n in row.images))


def _summary(groups: Sequence[Group], starved: int) -> dict[str, float]:
    rewards = [r for g in groups for r in g.rewards]
    completions = [c for g in groups for c in g.completions]
    return {
        "reward": float(np.mean(rewards)),
        "reward_std": float(np.mean([np.std(g.rewards) for g in groups])),
        "zero_std": float(starved),
        "length": float(np.mean([len(c.ids) for c in completions])),
        "clipped": float(np.mean([not c.ended for c in completions])),
        "groups": float(len(groups)),
    }
