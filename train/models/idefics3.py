"""Idefics3, and SmolVLM in its first release: an image as tiles and the whole of it once more (arXiv 2408.12637)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image

from audit.errors import BadInput
from train.models.family import Expansion, Family, Grid, Visual

FAKE, GLOBAL = "<fake_token_around_image>", "<global-img>"
LARGEST = 4096
"""Pixels that no edge exceeds, whatever the model's files say."""


@dataclass(frozen=True)
class Idefics3(Family):
    """What is particular to Idefics3. A grid is the rows and columns of tiles; (0, 0) where an image is not split."""

    tile: int = 364
    """Pixels on a side of a tile."""
    run: int = 169
    """Visual tokens a tile."""
    longest: int = 1456
    """Pixels that the longer edge of every image is brought to before it is cut."""
    split: bool = True
    """Whether an image is cut into tiles at all; else it is squeezed into one."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Channel means of the normalisation, for values in [0, 1]."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Channel deviations of the normalisation."""
    resample: int = 1
    """PIL's number of the resampling filter."""
    cells: int = 26
    """Patches on a side of a tile."""

    model_type: ClassVar = "idefics3"
    vision: ClassVar = ("model.vision_model", "model.connector")
    language: ClassVar = "model.text_model"
    lora_targets: ClassVar = r"model\.text_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
    closes_image: ClassVar = 1  # <fake_token_around_image>

    @classmethod
    def of(cls, config: Any, processor: dict[str, Any], max_visual_tokens: int | None = None) -> Self:
        """See Family; a budget takes tiles away, a row and a column at a time, so that no shape of image exceeds it.

        Raises:
            BadInput: the budget is smaller than one tile; or the files name sizes that do not fit each other.
        """
        vision = config.vision_config
        tile = _edge(processor, "max_image_size", vision.image_size)
        cells = tile // vision.patch_size
        longest = min(_edge(processor, "size", 4 * tile), LARGEST)
        if cells < 1 or cells % config.scale_factor or longest < 1:
            raise BadInput(
                f"tiles of {tile} pixels cannot be cut into patches of {vision.patch_size}, "
                f"{config.scale_factor} by {config.scale_factor} a visual token",
                where="preprocessor_config.json",
                hint="copy the model again from its medium",
            )
        run = (cells // config.scale_factor) ** 2
        split = bool(processor.get("do_image_splitting", True))
        if max_visual_tokens is not None and max_visual_tokens < run:
            raise BadInput(
                f"an image takes at least {run} visual tokens with this model: one tile",
                where=f"--max-visual-tokens {max_visual_tokens}",
                hint=f"give --max-visual-tokens {run} or more",
            )
        if split and max_visual_tokens is not None:
            side = math.isqrt(max(max_visual_tokens // run - 1, 1))  # a square takes side * side tiles, and the whole
            longest = min(longest, side * tile // 2 * 2)  # even: an odd square is rounded up to one more row
        return cls(
            config.image_token_id,
            tile,
            run,
            longest,
            split,
            tuple(processor.get("image_mean", (0.5,) * 3)),
            tuple(processor.get("image_std", (0.5,) * 3)),
            int(processor.get("resample", 1)),
            cells,
        )

    def fitted(self, image: Image.Image) -> Image.Image:
        """The image as RGB with edges that are multiples of a tile's: resized twice, as the model learned it."""
        rgb = self._resized(image.convert("RGB"), *_brought_to(*image.size, self.longest))
        width, height = rgb.size
        if not self.split:
            return self._resized(rgb, self.tile, self.tile)
        aspect, tile = width / height, self.tile
        if width >= height:
            width = math.ceil(width / tile) * tile
            height = math.ceil(int(width / aspect) / tile) * tile
        else:
            height = math.ceil(height / tile) * tile
            width = math.ceil(int(height * aspect) / tile) * tile
        return self._resized(rgb, max(width, tile), max(height, tile))

    def grid(self, fitted: Image.Image) -> Grid:
        """(rows, columns) of tiles of a fitted image."""
        rows, columns = fitted.height // self.tile, fitted.width // self.tile
        return (rows, columns) if rows * columns > 1 else (0, 0)

    def visual_tokens(self, grid: Grid) -> int:
        """A run for each tile, and one for the whole image."""
        return (grid[0] * grid[1] + 1) * self.run

    def tower_patches(self, grid: Grid) -> int:
        """Those of the tiles, and of the whole image in one more."""
        return (grid[0] * grid[1] + 1) * self.cells**2

    def expansion(self, grid: Grid, slot: str) -> Expansion:
        """The tiles row by row, each behind its name, then the whole image."""
        rows, columns = grid
        lines = [
            "".join(f"{FAKE}<row_{r}_col_{c}>{slot}" for c in range(1, columns + 1)) + "\n" for r in range(1, rows + 1)
        ]
        text = "".join(lines) + ("\n" if lines else "") + f"{FAKE}{GLOBAL}{slot}{FAKE}"
        return Expansion(text, (self.run,) * (rows * columns + 1))

    def features(self, model: Any, fitted: Image.Image) -> Visual:
        """The runs of all tiles and of the whole image, ((rows * columns + 1) * run, D), in the order of the text.

        All tiles are of one size and none is padded: transformers' pixel_attention_mask would be all ones.
        """
        inner = model.model
        tiles = torch.from_numpy(self.tiles(fitted)).to(model.device, inner.vision_model.dtype)
        states = inner.vision_model(pixel_values=tiles).last_hidden_state  # (N, patches, D of the tower)
        runs: torch.Tensor = inner.connector(states)  # (N, run, D)
        return Visual(runs.flatten(0, 1))

    def tiles(self, fitted: Image.Image) -> np.ndarray:
        """(N, 3, tile, tile) float32, normalised: the tiles row by row, then the whole image squeezed into one."""
        side, (rows, columns) = self.tile, self.grid(fitted)
        parts = [
            fitted.crop((c * side, r * side, (c + 1) * side, (r + 1) * side))
            for r in range(rows)
            for c in range(columns)
        ]
        parts.append(self._resized(fitted, side, side))
        pixels = np.stack([np.asarray(part) for part in parts]).astype(np.float32) / 255
        normal = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2), dtype=np.float32)

    def end_of_text(self, tokenizer: Any) -> str:
        """The tokenizer's end token; its padding where the end token already ends every turn, as in SmolVLM."""
        eos, pad = str(tokenizer.eos_token), tokenizer.pad_token
        return str(pad) if eos == "<end_of_utterance>" and pad else eos

    def _resized(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if image.size == (width, height):
            return image
        return image.resize((width, height), Image.Resampling(self.resample))


def _edge(processor: dict[str, Any], key: str, default: int) -> int:
    """A longest edge of preprocessor_config.json, in pixels."""
    given = processor.get(key) or {"longest_edge": default}
    if not isinstance(given, dict) or not isinstance(given.get("longest_edge"), int):
        raise BadInput(
            f"{key} names no longest_edge",
            where="preprocessor_config.json",
            hint="copy the model again from its medium",
        )
    return int(given["longest_edge"])


def _brought_to(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) with the longer edge at ``longest`` and the other rounded down, then up to an even number."""
    aspect = width / height
    if width >= height:
        other = int(longest / aspect)
        return longest, max(other + other % 2, 1)
    other = int(longest * aspect)
    return max(other + other % 2, 1), longest
