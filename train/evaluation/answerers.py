"""What answers: a GGUF through llama.cpp, or a transformers model; and the logits that the two are compared by."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from audit.conversation import Turn
from train.data.encode import continued
from train.data.rows import collate, shared_row
from train.gguf.engine import Engine
from train.gguf.verify import Prompt
from train.models.features import Features
from train.models.forward import learned_logits
from train.models.generation import Sampling, generate, text_of
from train.models.loading import Loaded


class GgufAnswerer:
    """A GGUF model, greedy.

    Args:
        fit: brings an image to the size that the model was trained with.
    """

    def __init__(self, engine: Engine, fit: Callable[[Image.Image], Image.Image], max_tokens: int = 16) -> None:
        self.engine, self.fit, self.max_tokens = engine, fit, max_tokens

    def answers(self, image: Image.Image | None, questions: Sequence[str]) -> list[str]:
        """One answer a question; the image is read once."""
        fitted = self.fit(image) if image is not None else None
        talks = [[Turn("user", q)] for q in questions]
        return [a.text.strip() for a in self.engine.answers(fitted, talks, self.max_tokens)]


class TransformersAnswerer:
    """A transformers model, greedy."""

    def __init__(self, loaded: Loaded, max_tokens: int = 16) -> None:
        self.loaded, self.max_tokens = loaded, max_tokens

    def answers(self, image: Image.Image | None, questions: Sequence[str]) -> list[str]:
        """One answer a question; the image's features are computed once."""
        features = Features(self.loaded, lambda _: image or Image.new("RGB", (1, 1)))
        ids = ("image",) if image is not None else ()
        prompts = [
            self.loaded.encoder.prompt([Turn("user", q)], ids, [features.grid(i) for i in ids]) for q in questions
        ]
        return [text_of(self.loaded, c[0]) for c in generate(self.loaded, prompts, features, Sampling(self.max_tokens))]


def logits_of(loaded: Loaded) -> Callable[[Prompt, Sequence[int]], np.ndarray]:
    """The model's logits (T, V) over given answers, for train.gguf.verify.compare."""
    kept: dict[int, Features] = {}

    @torch.inference_mode()
    def reference(prompt: Prompt, answer: Sequence[int]) -> np.ndarray:
        image = prompt.image
        if id(image) not in kept:
            kept.clear()
            kept[id(image)] = Features(loaded, lambda _: image or Image.new("RGB", (1, 1)))
        features = kept[id(image)]
        ids = ("image",) if image is not None else ()
        asked = loaded.encoder.prompt(prompt.turns, ids, [features.grid(i) for i in ids])
        row = shared_row([continued(asked, answer)])
        batch = collate([row], loaded.tokenizer.pad_token_id, loaded.device)
        found: np.ndarray = (
            learned_logits(loaded.family, loaded.model, batch, features.stack(batch.images)).cpu().numpy()
        )
        return found

    return reference
