"""What the shared contract test needs to know of a family: a tiny random model and transformers' own processor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Case:
    """One family's row in the contract test."""

    name: str
    """``model_type``."""
    write: Callable[[Path], Path]
    """Writes a whole tiny random model directory (weights, config, tokenizer, template, image processor)."""
    processor: Callable[[Path], Callable[[str, Sequence[Image.Image]], Any]]
    """transformers' own processor of a directory: rendered text and images to the model's inputs."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of pictures that show every way in which the family cuts an image."""
    golden: float
    """Loss of the fixed conversations under the seeded weights, in nats a token: it moves only when the sums move."""
    lora_linears: int
    """Linears that LoRA is put on."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What one family alone needs to say."""


def randomised(model: Any, loud: Sequence[int] = ()) -> Any:
    """Move every weight, biases and norms too, so that a forgotten one is seen.

    Args:
        loud: tokens whose embedding is made larger, so that some answers end.
    """
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * (0.1 if weight.ndim == 1 else 0.06))
        for token in loud:
            model.get_input_embeddings().weight[token].mul_(4)
    return model
