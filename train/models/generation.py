"""Batched continuation: a prompt is read once, fanned out to its samples, and rows leave the batch as they end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache

from train.data.encode import Encoded
from train.models.features import Features
from train.models.forward import core
from train.models.loading import Loaded


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

    Args:
        model: the (PEFT-wrapped) model to ask in place of ``loaded.model``.
    Returns: one list of continuations a prompt, in order.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    found: list[list[Continuation]] = [[] for _ in prompts]
    size = max(1, how.batch // how.samples)
    randomness = torch.Generator(device="cpu").manual_seed(how.seed)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        rows = _decode(loaded, model or loaded.model, [prompts[i] for i in chosen], features, how, randomness)
        for k, index in enumerate(chosen):
            found[index] = rows[k * how.samples : (k + 1) * how.samples]
        progress(min(len(order), start + size), len(order))
    return found


@torch.inference_mode()
def _decode(
    loaded: Loaded,
    model: object,
    prompts: list[Encoded],
    features: Features,
    how: Sampling,
    randomness: torch.Generator,
) -> list[Continuation]:
    inner, device, stops = core(model), loaded.device, how.stops if how.stops is not None else loaded.stops
    width = max(len(p.ids) for p in prompts)
    ids = np.full((len(prompts), width), loaded.tokenizer.pad_token_id, np.int64)
    places = np.zeros((3, len(prompts), width), np.int64)
    seen = np.zeros((len(prompts), width), np.int64)
    slots = []
    for row, prompt in enumerate(prompts):  # padded on the left: every prompt ends in the last column
        lead = width - len(prompt.ids)
        ids[row, lead:], places[:, row, lead:], seen[row, lead:] = prompt.ids, prompt.positions, 1
        slots += [np.arange(row * width + lead + at, row * width + lead + at + n) for _, at, n in prompt.images]
    embeds = inner.get_input_embeddings()(torch.from_numpy(ids).to(device))
    if slots:
        values = features.stack(image for p in prompts for image, _, _ in p.images).to(embeds.dtype)
        flat = embeds.view(-1, embeds.shape[-1])
        embeds = flat.index_copy(0, torch.from_numpy(np.concatenate(slots)).to(device), values).view_as(embeds)
    cache = DynamicCache(config=inner.config.get_text_config())
    mask = torch.from_numpy(seen).to(device)
    out = inner.model.language_model(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=torch.from_numpy(places).to(device),
        past_key_values=cache,
        use_cache=True,
    )
    logits = inner.lm_head(out.last_hidden_state[:, -1]).float().repeat_interleave(how.samples, 0)  # (B*G, V)
    cache.batch_repeat_interleave(how.samples)
    mask = mask.repeat_interleave(how.samples, 0)
    now = torch.from_numpy(places.max((0, 2)) + 1).to(device).repeat_interleave(how.samples)  # (B*G,)
    rows = torch.arange(len(logits), device=device)
    written: list[list[int]] = [[] for _ in range(len(logits))]
    scores: list[list[float]] = [[] for _ in range(len(logits))]
    for step in range(how.max_new_tokens):
        chosen, logprob = _pick(logits, how.temperature, randomness)
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
        embeds = inner.get_input_embeddings()(chosen[:, None])
        out = inner.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=now[None, :, None].expand(3, -1, 1),
            past_key_values=cache,
            use_cache=True,
        )
        logits = inner.lm_head(out.last_hidden_state[:, -1]).float()
        now = now + 1
    return [Continuation(tuple(w), tuple(s), bool(w) and w[-1] in stops) for w, s in zip(written, scores, strict=True)]


def _pick(logits: torch.Tensor, temperature: float, randomness: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = torch.log_softmax(logits / (temperature or 1.0), -1)
    if temperature:
        chosen = torch.multinomial(logprobs.exp().cpu(), 1, generator=randomness)[:, 0].to(logits.device)
    else:
        chosen = logprobs.argmax(-1)
    return chosen, logprobs.gather(1, chosen[:, None])[:, 0]


def text_of(loaded: Loaded, continuation: Continuation) -> str:
    """The words of a continuation, special tokens left out."""
    text: str = loaded.tokenizer.decode(continuation.ids, skip_special_tokens=True)
    return text.strip()
