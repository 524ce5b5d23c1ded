"""Qwen2-VL: images as merged patches, positions in three dimensions (M-RoPE, arXiv 2409.12191 section 2.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class Qwen2VL:
    """What is particular to Qwen2-VL."""

    image_token: int
    """Id of ``<|image_pad|>``."""
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
    closes_image: int = 1
    """Tokens after an image that belong to it: ``<|vision_end|>``."""

    model_type = "qwen2_vl"
    """``model_type`` in the model's config.json."""
    vision = "model.visual"
    """Root-anchored name of the frozen vision tower, projector included."""
    lora_targets = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
    """Root-anchored pattern of the language Linears that take LoRA."""

    @classmethod
    def of(cls, config: Any, processor: dict[str, Any], max_visual_tokens: int = 512) -> Self:
        """Read the family's numbers from config.json and preprocessor_config.json.

        Args:
            config: transformers' Qwen2VLConfig.
            processor: the parsed preprocessor_config.json.
            max_visual_tokens: budget an image; the model's own limit holds where it is smaller.
        """
        vision = config.vision_config
        cell = vision.patch_size * vision.spatial_merge_size
        size = processor.get("size") or {}
        smallest = processor.get("min_pixels") or size.get("shortest_edge") or 4 * cell * cell
        largest = processor.get("max_pixels") or size.get("longest_edge") or 16384 * cell * cell
        budget = min(largest, max_visual_tokens * cell * cell)
        return cls(
            config.image_token_id,
            vision.patch_size,
            vision.spatial_merge_size,
            vision.temporal_patch_size,
            tuple(processor.get("image_mean", (0.5,) * 3)),
            tuple(processor.get("image_std", (0.5,) * 3)),
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

    def grid(self, fitted: Image.Image) -> tuple[int, int]:
        """(rows, columns) of visual tokens of a fitted image."""
        cell = self.patch * self.merge
        return fitted.height // cell, fitted.width // cell

    def features(self, model: Any, fitted: Image.Image) -> torch.Tensor:
        """Visual tokens (rows * columns, D) of one fitted image out of the frozen tower, computed alone."""
        pixels = (np.asarray(fitted, np.float32) / 255 - np.asarray(self.mean, np.float32)) / np.asarray(
            self.std, np.float32
        )
        patches = torch.from_numpy(patches_of(pixels.astype(np.float32), self.patch, self.temporal, self.merge))
        rows, columns = self.grid(fitted)
        grid = torch.tensor([[1, rows * self.merge, columns * self.merge]], device=model.device)
        visual = model.model.visual
        with torch.no_grad():
            found: torch.Tensor = visual(patches.to(model.device, visual.dtype), grid_thw=grid).pooler_output
        return found

    def positions(self, length: int, images: Sequence[tuple[int, tuple[int, int]]]) -> np.ndarray:
        """M-RoPE positions.

        Args:
            length: tokens T, images expanded.
            images: (first place, (rows, columns) of visual tokens) of each image, in order.
        Returns: (3, T) int64: time, height, width.
        """
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
