"""LLaVA-NeXT (v1.6): an image as a small whole and as tiles at one of a few resolutions, packed without the padding.

Source: https://llava-vl.github.io/blog/2024-01-30-llava-next/; the packing is that of transformers' LlavaNextModel.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image

from audit.errors import BadInput
from train.models.family import Expansion, Family, Grid, Visual

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""transformers' own resolutions where preprocessor_config.json names none."""
END_OF_TEXT = "<|end_of_text|>"
"""What ends a text in Llama 3, whose ``eos_token`` may end a turn only."""
WITH_CLASS_TOKEN = "clip_vision_model"  # noqa: S105
"""The tower that begins each tile with a token of its own, which the strategy ``default`` drops."""


@dataclass(frozen=True)
class LlavaNext(Family):
    """What is particular to LLaVA-NeXT. A grid is what is left of the tiles' tokens without their padding."""

    tile: int = 336
    """Pixels on a side of a tile."""
    side: int = 24
    """Tokens on a side of a tile."""
    pinpoints: tuple[tuple[int, int], ...] = PINPOINTS
    """(height, width) in pixels that an image may be brought to, multiples of ``tile``."""
    layers: tuple[int, ...] = (-2,)
    """Hidden states of the tower that are read, side by side."""
    drops_first: bool = True
    """Whether the tower's class token is left out."""
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    """Channel means of the normalisation, for values in [0, 1]."""
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    """Channel deviations of the normalisation."""
    resample: int = int(Image.Resampling.BICUBIC)
    """PIL's number of the filter that resizes."""

    model_type: ClassVar = "llava_next"
    vision: ClassVar = ("model.vision_tower", "model.multi_modal_projector")

    @classmethod
    def of(cls, config: Any, processor: dict[str, Any], max_visual_tokens: int | None = None) -> Self:
        """See Family; a budget leaves the resolutions at which no image has more tokens, None leaves all.

        Raises: BadInput where the files contradict each other, or a budget leaves no resolution.
        """
        vision, layer = config.vision_config, config.vision_feature_layer
        pinpoints = tuple((int(h), int(w)) for h, w in config.image_grid_pinpoints)
        tile, drops = int(vision.image_size), config.vision_feature_select_strategy == "default"
        _check_files(processor, pinpoints, tile, drops is (vision.model_type == WITH_CLASS_TOKEN))
        whole = cls(
            config.image_token_id,
            tile,
            tile // vision.patch_size,
            pinpoints,
            (layer,) if isinstance(layer, int) else tuple(layer),
            drops,
            tuple(processor.get("image_mean") or cls.mean),
            tuple(processor.get("image_std") or cls.std),
            int(processor.get("resample", cls.resample)),
        )
        return whole if max_visual_tokens is None else whole.within(max_visual_tokens)

    def within(self, budget: int) -> Self:
        """The family with the resolutions alone at which no image has more visual tokens than ``budget``."""
        most = {p: self.visual_tokens(self._tokens_of(p)) for p in self.pinpoints}
        if budget < min(most.values()):
            raise BadInput(
                f"{budget} visual tokens an image are too few for LLaVA-NeXT: its smallest resolution takes "
                f"{min(most.values())}",
                where="visual-token budget",
                hint=f"allow {min(most.values())} or more, or leave the budget out",
            )
        return replace(self, pinpoints=tuple(p for p in self.pinpoints if most[p] <= budget))

    def fitted(self, image: Image.Image) -> Image.Image:
        """The image as RGB at its own size: which resolution it is brought to, and what is padding, hang on it."""
        return image.convert("RGB")

    def grid(self, fitted: Image.Image) -> Grid:
        """(rows, columns) of the tiles' tokens without the padding, the newline column not counted."""
        top, left, rows, columns = self._unpadded(fitted)
        return rows - 2 * top, columns - 2 * left

    def visual_tokens(self, grid: Grid) -> int:
        """The small whole, the rows and columns of the tiles, and a newline behind each row."""
        return self.side * self.side + grid[0] * (grid[1] + 1)

    def tower_patches(self, grid: Grid) -> int:
        """Those of the small whole, and of the tiles with their padding: of the smallest resolution that holds them."""
        sizes = map(self._tokens_of, self.pinpoints)
        tiled = min(rows * columns for rows, columns in sizes if rows >= grid[0] and columns >= grid[1])
        return (1 + tiled // self.side**2) * (self.side**2 + int(self.drops_first))

    def expansion(self, grid: Grid, slot: str) -> Expansion:
        """The slot as often as there are visual tokens."""
        return Expansion(slot, (self.visual_tokens(grid),))

    def features(self, model: Any, fitted: Image.Image) -> Visual:
        """The projected tokens (N, D) of one image: the small whole, then the rows of its tiles, each with a newline.

        The tower reads all tiles of this one image at once and nothing else, so the same image gives the same bits.
        """
        inner = model.model
        pixels = torch.from_numpy(self.tiles(fitted)).to(model.device, inner.vision_tower.dtype)
        states = inner.vision_tower(pixels, output_hidden_states=list(self.layers)).hidden_states
        chosen = torch.cat([states[layer] for layer in self.layers], -1)[:, int(self.drops_first) :]
        whole, tiles = inner.multi_modal_projector(chosen).split((1, len(pixels) - 1))
        top, left, rows, columns = self._unpadded(fitted)
        mosaic = tiles.view(rows // self.side, columns // self.side, self.side, self.side, -1)
        mosaic = mosaic.transpose(1, 2).reshape(rows, columns, -1)[top : rows - top, left : columns - left]
        newline = inner.image_newline.to(mosaic).expand(len(mosaic), 1, -1)
        return Visual(torch.cat((whole[0], torch.cat((mosaic, newline), 1).flatten(0, 1))))

    def end_of_text(self, tokenizer: Any) -> str:
        """Llama 3's own token where there is one; else the token that ends a sequence."""
        found: str = END_OF_TEXT if END_OF_TEXT in tokenizer.get_added_vocab() else tokenizer.eos_token
        return found

    def tiles(self, fitted: Image.Image) -> np.ndarray:
        """(1 + tiles, 3, tile, tile) float32: the image squeezed into one tile, then its tiles row by row."""
        height, width = self._pinpoint(fitted)
        filter_ = Image.Resampling(self.resample)
        down, across = height / fitted.height, width / fitted.width
        if across < down:
            size = width, min(math.ceil(fitted.height * across), height)
        else:
            size = min(math.ceil(fitted.width * down), width), height
        canvas = Image.new("RGB", (width, height))
        canvas.paste(fitted.resize(size, filter_), ((width - size[0]) // 2, (height - size[1]) // 2))
        cuts = [fitted.resize((self.tile, self.tile), filter_)]
        for top in range(0, height, self.tile):
            for left in range(0, width, self.tile):
                cuts.append(canvas.crop((left, top, left + self.tile, top + self.tile)))
        scaled = (np.stack([np.asarray(cut) for cut in cuts]) * np.float64(1 / 255)).astype(np.float32)
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))

    def _pinpoint(self, fitted: Image.Image) -> tuple[int, int]:
        """The resolution that keeps most of the image's pixels, and of those the one with least padding."""

        def merit(pinpoint: tuple[int, int]) -> tuple[int, int]:
            height, width = pinpoint
            scale = min(width / fitted.width, height / fitted.height)
            kept = min(int(fitted.width * scale) * int(fitted.height * scale), fitted.width * fitted.height)
            return kept, kept - height * width

        best = max(self.pinpoints, key=merit)  # the first of equals, as transformers takes it
        if not merit(best)[0]:
            raise BadInput(
                f"an image of {fitted.width} x {fitted.height} pixels is too narrow for LLaVA-NeXT",
                where="image",
                hint="leave its record out, or crop the image",
            )
        return best

    def _tokens_of(self, pinpoint: tuple[int, int]) -> Grid:
        """(rows, columns) of tokens of a resolution, padding included."""
        return pinpoint[0] // self.tile * self.side, pinpoint[1] // self.tile * self.side

    def _unpadded(self, fitted: Image.Image) -> tuple[int, int, int, int]:
        """Rows and columns of padding on each side, and rows and columns with the padding."""
        rows, columns = self._tokens_of(self._pinpoint(fitted))
        if fitted.width / fitted.height > columns / rows:
            return (rows - int(round(fitted.height * (columns / fitted.width), 7))) // 2, 0, rows, columns
        return 0, (columns - int(round(fitted.width * (rows / fitted.height), 7))) // 2, rows, columns


def _check_files(
    processor: dict[str, Any], pinpoints: tuple[tuple[int, int], ...], tile: int, strategy_fits: bool
) -> None:
    """Raise BadInput where the image processor and the model would cut an image differently."""
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    sides = {
        *((size.get("shortest_edge") or size.get("height"), size.get("width")) if isinstance(size, dict) else (size,)),
        *((crop.get("height"), crop.get("width")) if isinstance(crop, dict) else (crop,)),
    } - {None}
    theirs = sorted(map(tuple, processor.get("image_grid_pinpoints") or PINPOINTS))
    wrong = ""
    if sides != {tile}:
        wrong = f"preprocessor_config.json makes tiles of {sorted(sides)} pixels, config.json of {tile}"
    elif theirs != sorted(pinpoints):
        wrong = "preprocessor_config.json and config.json name different image_grid_pinpoints"
    elif not pinpoints or any(p < tile or p % tile for pair in pinpoints for p in pair):
        wrong = f"image_grid_pinpoints are not multiples of the tile of {tile} pixels"
    elif not strategy_fits:
        wrong = "vision_feature_select_strategy does not fit the tower: only a class token can and must be dropped"
    if wrong:
        raise BadInput(wrong, where="model directory", hint="bring the model's files again, all of one release")
