"""Batched continuation: a prompt is read once, fanned out to its samples, and rows leave the batch as they end."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from train.data.encode import Encoded
from train.data.rows import PREFIX
from train.models.cache import roomy
from train.models.family import Placed, Sight
from train.models.features import Features
from train.models.forward import core, embedded
from train.models.loading import Loaded
from train.models.unpacked import unpacked


@dataclass(frozen=True)
class Sampling:
    """How to continue."""

    max_new_tokens: int = 64
    """Tokens at most."""
    temperature: float = 0.0
    """0 is greedy."""
    samples: int = 1
    """Continuations a prompt."""
    seed: int = 0
    """Seed of the sampling."""
    stops: frozenset[int] | None = None
    """Tokens that end a continuation; None: those that end an answer."""
    batch: int = 64
    """Rows decoded together."""
    min_p: float = 0.0
    """Only tokens at least this times as likely as the likeliest are drawn (arXiv 2407.01082); 0 for on-policy RL."""


@dataclass(frozen=True)
class Continuation:
    """What a model wrote."""

    ids: tuple[int, ...]
    """Tokens, the stop token included where it came."""
    logprobs: tuple[float, ...]
    """Log-probability of each token at the sampling temperature (at 1 where greedy)."""
    ended: bool
    """A stop token came before the limit."""


def generate(
    loaded: Loaded,
    prompts: Sequence[Encoded],
    features: Features,
    how: Sampling,
    model: object | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Continuation]]:
    """Continue each prompt ``how.samples`` times; prompts of like length run together.

    What consecutive prompts about the same images have in common is read once for all of them.

    Args:
        model: the (PEFT-wrapped) model to ask in place of ``loaded.model``.
    Returns: one list of continuations a prompt, in order.
    """
    groups = deque(
        sorted(_groups(prompts, max(1, how.batch // how.samples)), key=lambda g: len(prompts[g.members[0]].ids))
    )
    found: list[list[Continuation]] = [[] for _ in prompts]
    randomness = torch.Generator(device="cpu").manual_seed(how.seed)
    done = 0
    with unpacked(core(model or loaded.model)):
        while groups:
            batch = [groups.popleft()]
            while groups and sum(len(g.members) for g in (*batch, groups[0])) * how.samples <= how.batch:
                batch.append(groups.popleft())
            asked = [([prompts[i] for i in group.members], group.common) for group in batch]
            rows = _decode(loaded, model or loaded.model, asked, features, how, randomness)
            for k, index in enumerate(i for group in batch for i in group.members):
                found[index] = rows[k * how.samples : (k + 1) * how.samples]
                done += 1
            progress(done, len(prompts))
    return found


@dataclass(frozen=True)
class _Group:
    """Consecutive prompts about the same images whose beginnings agree beyond these images."""

    members: tuple[int, ...]
    """Numbers of the prompts."""
    common: int
    """Tokens with which all begin; at least one is left to each where there are several."""


def _groups(prompts: Sequence[Encoded], most: int) -> list[_Group]:
    groups: list[_Group] = []
    for index, prompt in enumerate(prompts):
        last = groups[-1] if groups else _Group((index,), 0)
        first = prompts[last.members[0]]
        alike = groups and len(last.members) < most and prompt.images and prompt.images == first.images
        if alike and (common := _common(first, prompt)) >= prompt.shared_until:
            groups[-1] = _Group((*last.members, index), min(last.common, common))
        else:
            groups.append(_Group((index,), len(prompt.ids)))
    return groups


def _common(one: Encoded, other: Encoded) -> int:
    """Tokens with which both prompts begin; at least one is left to each."""
    length = min(len(one.ids), len(other.ids)) - 1
    differing = np.flatnonzero(one.ids[:length] != other.ids[:length])
    return int(differing[0]) if len(differing) else length


@torch.inference_mode()
def _decode(
    loaded: Loaded,
    model: object,
    groups: list[tuple[list[Encoded], int]],
    features: Features,
    how: Sampling,
    randomness: torch.Generator,
) -> list[Continuation]:
    inner, device, stops = core(model), loaded.device, how.stops if how.stops is not None else loaded.stops
    heads = [(asked[0], 0, common) for asked, common in groups]
    ids, places, mask, sight = _laid(heads, loaded.tokenizer.pad_token_id, device)
    sight = replace(sight, visual=features.stack(image for head, _, _ in heads for image, _, _ in head.images))
    cache = roomy(inner.config.get_text_config())
    unseen = Sight(None, sight.places[:0])

    def read(ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, sight: Sight = unseen) -> torch.Tensor:
        states = loaded.family.read(inner, embedded(inner, ids, sight), mask, places, sight, cache)
        logits: torch.Tensor = inner.lm_head(states[:, -1]).float()
        return logits

    logits = read(ids, mask, places, sight)
    owners = torch.tensor([k for k, (asked, _) in enumerate(groups) for _ in asked], device=device)
    last = places.amax((0, 2))[owners]  # (B,)
    if len(groups) < len(owners):
        tails = [(p, common, len(p.ids)) for asked, common in groups for p in asked]
        cache.batch_select_indices(owners)
        ids, places, seen, _ = _laid(tails, loaded.tokenizer.pad_token_id, device)
        mask = torch.cat((mask[owners], seen), 1)
        tailless = torch.tensor([start == stop for _, start, stop in tails], device=device)
        logits = torch.where(tailless[:, None], logits[owners], read(ids, mask, places))
        last = torch.maximum(last, places.amax((0, 2)))
    logits = logits.repeat_interleave(how.samples, 0)  # (B*G, V)
    cache.batch_repeat_interleave(how.samples)
    mask = mask.repeat_interleave(how.samples, 0)
    now = (last + 1).repeat_interleave(how.samples)  # (B*G,)
    rows = torch.arange(len(logits), device=device)
    written: list[list[int]] = [[] for _ in range(len(logits))]
    scores: list[list[float]] = [[] for _ in range(len(logits))]
    for step in range(how.max_new_tokens):
        chosen, logprob = _pick(logits, how, randomness)
        for row, token, score in zip(rows.tolist(), chosen.tolist(), logprob.tolist(), strict=True):
            written[row].append(token)
            scores[row].append(score)
        alive = torch.tensor([t not in stops for t in chosen.tolist()], device=device)
        if step + 1 == how.max_new_tokens or not bool(alive.any()):
            break
        if not bool(alive.all()):
            keep = alive.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            rows, mask, now, chosen = rows[keep], mask[keep], now[keep], chosen[keep]
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
        logits = read(chosen[:, None], mask, now[None, :, None].expand(3, -1, 1))
        now = now + 1
    return [Continuation(tuple(w), tuple(s), bool(w) and w[-1] in stops) for w, s in zip(written, scores, strict=True)]


def _laid(
    parts: Sequence[tuple[Encoded, int, int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Sight]:
    """Parts of prompts, from one token to another, padded on the left: all end in the last column.

    Returns: ids (B, T), positions (3, B, T), mask (B, T), and where their images stand.
    """
    width = max(stop - start for _, start, stop in parts)
    ids = np.full((len(parts), width), pad, np.int64)
    places = np.zeros((3, len(parts), width), np.int64)
    seen = np.zeros((len(parts), width), np.int64)
    slots, placed = [np.zeros(0, np.int64)], []
    for row, (prompt, start, stop) in enumerate(parts):
        lead = width - (stop - start)
        ids[row, lead:], places[:, row, lead:], seen[row, lead:] = (
            prompt.ids[start:stop], prompt.positions[:, start:stop], 1,
        )  # fmt: skip
        slots.append(row * width + lead + np.flatnonzero(prompt.visual[start:stop]))
        placed += [Placed(row, lead + first - start, PREFIX) for _, first, _ in prompt.images if start <= first < stop]
    ids_, places_, seen_ = (torch.from_numpy(x).to(device) for x in (ids, places, seen))
    return ids_, places_, seen_, Sight(None, torch.from_numpy(np.concatenate(slots)).to(device), tuple(placed))


def _pick(logits: torch.Tensor, how: Sampling, randomness: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = torch.log_softmax(logits / (how.temperature or 1.0), -1)
    if how.temperature and how.min_p:
        unlikely = logprobs < logprobs.amax(-1, keepdim=True) + math.log(how.min_p)
        logprobs = torch.log_softmax(logprobs.masked_fill(unlikely, -torch.inf), -1)
    if how.temperature:
        chosen = torch.multinomial(logprobs.exp().cpu(), 1, generator=randomness)[:, 0].to(logits.device)
    else:
        chosen = logprobs.argmax(-1)
    return chosen, logprobs.gather(1, chosen[:, None])[:, 0]


def text_of(loaded: Loaded, continuation: Continuation) -> str:
    """The words of a continuation, special tokens left out."""
    text: str = loaded.tokenizer.decode(continuation.ids, skip_special_tokens=True)
    return text.strip()
