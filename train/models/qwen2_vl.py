"""Qwen2-VL: images as merged patches, positions in three dimensions (M-RoPE, arXiv 2409.12191 section 2.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image

from train.models.family import Expansion, Family, Grid, Sight, Visual

BUDGET = 512
"""Visual tokens an image at most, unless told otherwise."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Channel means where the processor's file names none, as in transformers."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel deviations where it names none."""


@dataclass(frozen=True)
class Qwen2VL(Family):
    """What is particular to Qwen2-VL."""

    patch: int = 14
    """Pixels on a side of a patch."""
    merge: int = 2
    """Patches on a side of a visual token."""
    temporal: int = 2
    """Frames a patch spans; a still image is repeated."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Channel means of the normalisation, for values in [0, 1]."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Channel deviations of the normalisation."""
    min_pixels: int = 56 * 56
    """Smallest area an image is brought to, in pixels."""
    max_pixels: int = 512 * 28 * 28
    """Largest area an image is brought to, in pixels: the visual-token budget."""

    model_type: ClassVar = "qwen2_vl"
    vision: ClassVar = ("model.visual",)
    vision_lora_targets: ClassVar = r"model\.visual\.(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])|merger\.mlp\.[02])"
    closes_image: ClassVar = 1  # <|vision_end|>

    @classmethod
    def of(cls, config: Any, processor: dict[str, Any], max_visual_tokens: int | None = None) -> Self:
        """See Family; the model's own limit of visual tokens holds where it is smaller than the budget."""
        vision = config.vision_config
        cell = vision.patch_size * vision.spatial_merge_size
        size = processor.get("size") or {}
        # Releases name the limits at the top (Qwen2-VL, Qwen2.5-VL), as edges (Qwen3-VL), or within (saved by 4.4x).
        smallest = processor.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or 56 * 56
        largest = processor.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or 1280 * 28 * 28
        budget = min(largest, (max_visual_tokens or BUDGET) * cell * cell)
        return cls(
            config.image_token_id,
            vision.patch_size,
            vision.spatial_merge_size,
            vision.temporal_patch_size,
            tuple(processor.get("image_mean") or CLIP_MEAN),
            tuple(processor.get("image_std") or CLIP_STD),
            min(smallest, budget),
            budget,
        )

    def fitted(self, image: Image.Image) -> Image.Image:
        """The image as RGB at the size that the model sees: Qwen2-VL's smart resize within the visual-token budget."""
        cell, (width, height) = self.patch * self.merge, image.size
        new_h, new_w = max(cell, round(height / cell) * cell), max(cell, round(width / cell) * cell)
        if new_h * new_w > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            new_h = max(cell, math.floor(height / shrink / cell) * cell)
            new_w = max(cell, math.floor(width / shrink / cell) * cell)
        elif new_h * new_w < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            new_h, new_w = math.ceil(height * grow / cell) * cell, math.ceil(width * grow / cell) * cell
        rgb = image.convert("RGB")
        return rgb if rgb.size == (new_w, new_h) else rgb.resize((new_w, new_h), Image.Resampling.BICUBIC)

    def grid(self, fitted: Image.Image) -> Grid:
        """(rows, columns) of visual tokens of a fitted image."""
        cell = self.patch * self.merge
        return fitted.height // cell, fitted.width // cell

    def visual_tokens(self, grid: Grid) -> int:
        """Rows times columns."""
        return grid[0] * grid[1]

    def tower_patches(self, grid: Grid) -> int:
        """A square of them a visual token."""
        return self.visual_tokens(grid) * self.merge**2

    def expansion(self, grid: Grid, slot: str) -> Expansion:
        """The slot as often as there are visual tokens; its borders are the template's."""
        return Expansion(slot, (self.visual_tokens(grid),))

    def features(self, model: Any, fitted: Image.Image) -> Visual:
        """The merged patches (rows * columns, D) of one fitted image."""
        return Visual(self.tower(model, fitted).pooler_output)

    def tower(self, model: Any, fitted: Image.Image) -> Any:
        """What transformers' vision tower returns of one fitted image."""
        pixels = (np.asarray(fitted, np.float32) / 255 - np.asarray(self.mean, np.float32)) / np.asarray(
            self.std, np.float32
        )
        patches = torch.from_numpy(patches_of(pixels.astype(np.float32), self.patch, self.temporal, self.merge))
        rows, columns = self.grid(fitted)
        grid = torch.tensor([[1, rows * self.merge, columns * self.merge]], device=model.device)
        visual = model.model.visual
        return visual(patches.to(model.device, visual.dtype), grid_thw=grid)

    def positions(self, length: int, images: Sequence[tuple[int, Grid]]) -> np.ndarray:
        """M-RoPE: (3, T) of time, height and width."""
        found = np.zeros((3, length), np.int64)
        at = now = 0
        for start, (rows, columns) in images:
            found[:, at:start] = now + np.arange(start - at)
            now += start - at
            at = start + rows * columns
            found[0, start:at] = now
            found[1, start:at] = now + np.repeat(np.arange(rows), columns)
            found[2, start:at] = now + np.tile(np.arange(columns), rows)
            now += max(rows, columns)
        found[:, at:] = now + np.arange(length - at)
        return found

    def read(
        self,
        inner: Any,
        embeds: torch.Tensor,
        mask: Any,
        positions: torch.Tensor,
        sight: Sight,
        cache: Any = None,
    ) -> torch.Tensor:
        """See Family; positions keep their three rows."""
        out = inner.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        states: torch.Tensor = out.last_hidden_state
        return states

    def end_of_text(self, tokenizer: Any) -> str:
        """``<|endoftext|>``, which Qwen pads with."""
        found: str = tokenizer.pad_token
        return found


def patches_of(pixels: np.ndarray, patch: int, temporal: int, merge: int) -> np.ndarray:
    """Cut a normalised image into patches in the tower's order: merged blocks together.

    Args:
        pixels: (H, W, 3) float32, H and W multiples of ``patch * merge``.
    Returns: (H/patch * W/patch, 3 * temporal * patch * patch) float32; a still image is repeated ``temporal`` times.
    """
    height, width, _ = pixels.shape
    rows, columns = height // patch, width // patch
    blocks = pixels.transpose(2, 0, 1).reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
    blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)  # (rows/m, cols/m, m, m, 3, patch, patch)
    still = np.repeat(blocks[..., :, None, :, :], temporal, axis=-3)
    return np.ascontiguousarray(still.reshape(rows * columns, 3 * temporal * patch * patch), dtype=np.float32)
