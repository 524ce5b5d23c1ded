"""What differs from one model family to another: the contract that each file beside this one fills."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image

Grid = tuple[int, int]
"""(rows, columns) of what an image is cut into: visual tokens or tiles, as its family counts."""


@dataclass(frozen=True)
class Expansion:
    """What stands in a rendered conversation in place of one image."""

    text: str
    """Replaces the image's slot in the text; holds the image token once a run of visual tokens."""
    counts: tuple[int, ...]
    """How often each image token of the text is repeated once the text is tokens."""


@dataclass(frozen=True)
class Visual:
    """What the frozen tower says of one image, or of several, one after the other."""

    tokens: torch.Tensor
    """(N, D) embeddings that stand in place of image tokens; (0, D) where the family only cross-attends."""
    deep: tuple[torch.Tensor, ...] = ()
    """(N, D) each: what is added to the hidden states of the first language layers (Qwen3-VL's deepstack)."""
    cross: tuple[torch.Tensor, ...] = ()
    """(K, D) each: what cross-attention layers read; two an image, its tiles and padding tiles (Llama-3.2-Vision)."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Everything that it holds."""
        return (self.tokens, *self.deep, *self.cross)

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    @staticmethod
    def joined(parts: Iterable["Visual"]) -> "Visual | None":
        """Several images' as one; None for none."""
        some = list(parts)
        if not some:
            return None
        return Visual(
            torch.cat([v.tokens for v in some]),
            tuple(torch.cat(layer) for layer in zip(*(v.deep for v in some), strict=True)),
            tuple(states for v in some for states in v.cross),
        )


@dataclass(frozen=True)
class Placed:
    """An image in a batch of rows."""

    row: int
    """Number of the row."""
    start: int
    """Place of its first token in the row."""
    segment: int
    """Branch that it belongs to; 0 where all branches of the row share it."""


@dataclass(frozen=True)
class Sight:
    """The images of a batch and where they stand in it."""

    visual: Visual | None
    """Of all images, in order; None for a batch without images."""
    places: torch.Tensor
    """(N,) int64 flat places (row * T + place) of ``visual.tokens``."""
    images: tuple[Placed, ...] = ()
    """Where each image stands, in order."""
    segments: torch.Tensor | None = None
    """(B, T) int64: 0 in what a row's branches share, k in branch k, -1 in padding; None where a row is one branch."""


@dataclass(frozen=True)
class Family(ABC):
    """What is particular to a model family. Fields are plain values: a GGUF's note in the catalogue keeps them."""

    image_token: int
    """Id of the token that stands for an image's features."""

    model_type: ClassVar[str]
    """``model_type`` in the model's config.json."""
    vision: ClassVar[tuple[str, ...]]
    """Root-anchored names of the modules that stay in 16 bits and frozen: tower and projector."""
    language: ClassVar[str] = "model.language_model"
    """Root-anchored name of the language model."""
    lora_targets: ClassVar[str] = (
        r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
    )
    """Root-anchored pattern of the language Linears that take LoRA."""
    vision_lora_targets: ClassVar[str] = ""
    """Root-anchored pattern of the vision Linears that take LoRA where the tower is trained; empty for all of them."""
    closes_image: ClassVar[int] = 0
    """Tokens after an image's expansion that belong to it."""

    @classmethod
    @abstractmethod
    def of(cls, config: Any, processor: dict[str, Any], max_visual_tokens: int | None = None) -> Self:
        """Read the family's numbers from a model's files.

        Args:
            config: transformers' config of the model.
            processor: the parsed preprocessor_config.json.
            max_visual_tokens: budget an image; None is the family's own default.
        """

    @abstractmethod
    def fitted(self, image: Image.Image) -> Image.Image:
        """The image as RGB, at the size from which everything else is computed."""

    @abstractmethod
    def grid(self, fitted: Image.Image) -> Grid:
        """What a fitted image is cut into."""

    @abstractmethod
    def visual_tokens(self, grid: Grid) -> int:
        """Visual tokens that the language model reads of an image: in the sequence, or by cross-attention."""

    @abstractmethod
    def tower_patches(self, grid: Grid) -> int:
        """Patches that the tower computes for an image, those of padding and of whole images too."""

    @abstractmethod
    def expansion(self, grid: Grid, slot: str) -> Expansion:
        """What stands in a rendered conversation in place of ``slot``, the text of the image token."""

    @abstractmethod
    def features(self, model: Any, fitted: Image.Image) -> Visual:
        """What the tower says of one fitted image, computed alone; the caller says whether with gradients."""

    def positions(self, length: int, images: Sequence[tuple[int, Grid]]) -> np.ndarray:
        """Positions.

        Args:
            length: tokens T, images expanded.
            images: (first place, grid) of each image, in order.
        Returns: (3, T) int64; three equal rows for families whose positions are plain.
        """
        return np.broadcast_to(np.arange(length), (3, length))

    def read(
        self,
        inner: Any,
        embeds: torch.Tensor,
        mask: Any,
        positions: torch.Tensor,
        sight: Sight,
        cache: Any = None,
    ) -> torch.Tensor:
        """Run the language model over embeddings in which the visual tokens already stand.

        Args:
            inner: the transformers model.
            embeds: (B, T, D).
            mask: of `attention.mask_for`, or (B, S) of 0 and 1 while generating, S counting what the cache holds.
            positions: (3, B, T).
            sight: the images of this pass; none of them where the cache already holds them.
            cache: a transformers cache that is read and written, or None.
        Returns: hidden states (B, T, D).
        """
        out = inner.get_submodule(self.language)(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions[0],
            past_key_values=cache,
            use_cache=cache is not None,
        )
        states: torch.Tensor = out.last_hidden_state
        return states

    def feature_bytes(self, grid: Grid, width: int, itemsize: int) -> int:
        """Bytes of an image's features, before the tower has computed them.

        Args:
            width: hidden size of the language model.
            itemsize: bytes of a number.
        """
        return self.visual_tokens(grid) * width * itemsize

    def noted(self) -> dict[str, Any]:
        """Everything as plain values, for `families.noted`."""
        return {"model_type": self.model_type, **asdict(self)}

    def end_of_text(self, tokenizer: Any) -> str:
        """The token that ends a whole dialogue."""
        found: str = tokenizer.eos_token
        return found
