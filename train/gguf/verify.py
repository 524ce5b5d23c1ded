"""Is the GGUF the model that was trained? Its logits and answers against transformers, prompt by prompt.

The reference is the merged model in float32 on the same resized pixels. Both sides are forced along the GGUF's own
greedy answer: there the logits are compared, and where the reference's likeliest token is another one, the answers
part. So one forward pass of the reference settles a prompt, and only a differing answer is continued token by token.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from audit.conversation import Turn
from audit.errors import BadInput
from train.gguf.engine import Engine, log_softmax


@dataclass(frozen=True)
class Prompt:
    """One thing to ask both models."""

    id: str
    """A name for the report; nothing about a patient."""
    turns: tuple[Turn, ...]
    """The dialogue, ending where the assistant is to speak."""
    image: Image.Image | None = None
    """Already resized as in training."""


Reference = Callable[[Prompt, Sequence[int]], np.ndarray]
"""Logits (T, V) of the reference after a prompt; row t predicts the t-th of the T given tokens."""


@dataclass(frozen=True)
class Difference:
    """An answer that the GGUF gives otherwise."""

    prompt: str
    """Id of the prompt."""
    hf_text: str
    """What the reference answers."""
    gguf_text: str
    """What the GGUF answers."""
    margin: float
    """Log-probability of the reference's likeliest token minus its second, where the two part."""


@dataclass(frozen=True)
class Parity:
    """How alike the two are."""

    cosine_min: float
    """Smallest cosine of two logit vectors, over all answer positions."""
    cosine_mean: float
    """Their mean."""
    same_answers: int
    """Prompts with the same greedy answer."""
    n: int
    """Prompts."""
    differing: tuple[Difference, ...]
    """The others."""

    def numbers(self) -> dict[str, Any]:
        """For a manifest: everything but what was said, each difference with its margin."""
        found = {key: value for key, value in asdict(self).items() if key != "differing"}
        return found | {"margins": {gap.prompt: round(gap.margin, 6) for gap in self.differing}}

    def to_json(self) -> str:
        """All of it, the differing answers too: these may tell of a patient."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


def compare(reference: Reference, engine: Engine, prompts: Sequence[Prompt], max_tokens: int = 16) -> Parity:
    """Ask both all prompts.

    Args:
        reference: see ``Reference``.
        engine: the loaded GGUF.
        prompts: those about the same image stand together, so that it is encoded once.
        max_tokens: most tokens of an answer.

    Raises:
        BadInput: no prompts, or the two have different vocabularies.
    """
    cosines: list[np.ndarray] = []
    differing = []
    for prompt in prompts:
        (answer,) = engine.answers(prompt.image, [prompt.turns], max_tokens)
        forced = list(answer.tokens)
        if answer.stopped or not forced:
            forced.append(engine.end)
        theirs, ours = reference(prompt, forced), engine.logits(prompt.image, prompt.turns, forced)
        if theirs.shape != ours.shape:
            raise BadInput(f"the reference gives logits {theirs.shape} and the GGUF {ours.shape}", where=prompt.id)
        cosines.append(_cosines(theirs, ours))
        if parted := np.flatnonzero(theirs.argmax(1) != np.asarray(forced)).tolist():
            at = parted[0]
            second, first = np.partition(log_softmax(theirs[at]), -2)[-2:]
            text = _continued(reference, engine, prompt, forced[:at], max_tokens)
            differing.append(Difference(prompt.id, text, answer.text, float(first - second)))
    if not cosines:
        raise BadInput("there are no prompts to compare the GGUF on")
    every = np.concatenate(cosines)
    same = len(prompts) - len(differing)
    return Parity(float(every.min()), float(every.mean()), same, len(prompts), tuple(differing))


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row cosine (T,) of (T, V) and (T, V)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    found: np.ndarray = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    return found


def _continued(reference: Reference, engine: Engine, prompt: Prompt, agreed: Sequence[int], max_tokens: int) -> str:
    """The reference's greedy answer from where the two still agreed."""
    ids = list(agreed)
    while len(ids) < max_tokens:
        token = int(reference(prompt, [*ids, engine.end])[-1].argmax())
        if engine.ends(token):
            break
        ids.append(token)
    return engine.detokenize(ids)
