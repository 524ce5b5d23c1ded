"""Llama-3.2-Vision: images in tiles that cross-attention layers read (arXiv 2407.21783, 7)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image

from audit.errors import BadInput
from train.models.family import Expansion, Family, Grid, Sight, Visual


@dataclass(frozen=True)
class Mllama(Family):
    """What is particular to Llama-3.2-Vision."""

    side: int = 560
    """Pixels on a side of a tile."""
    patches: int = 1601
    """States a tile: its patches and one for the whole."""
    tower_tiles: int = 4
    """Tiles that the tower always sees, padding included."""
    tiles: int = 4
    """Tiles an image at most, and tiles of states that are kept. Where a budget makes it fewer than the tower's, tokens
    before the image no longer read the tiles left out, which they do in transformers."""
    resample: int = int(Image.Resampling.BILINEAR)
    """PIL's number of the resizing filter."""
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    """Channel means of the normalisation, for values in [0, 1]."""
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    """Channel deviations of the normalisation."""

    model_type: ClassVar = "mllama"
    vision: ClassVar = ("model.vision_model", "model.multi_modal_projector")
    lora_targets: ClassVar = (
        r"model\.language_model\.layers\.\d+\.((self_attn|cross_attn)\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
    )

    @classmethod
    def of(cls, config: Any, processor: dict[str, Any], max_visual_tokens: int | None = None) -> Self:
        """See Family; the budget is spent in whole tiles, one at least; None is the model's own number of tiles.

        Raises:
            BadInput: tiles of another size or in another order than the tower's.
        """
        vision, size = config.vision_config, processor.get("size") or {}
        side, tower = vision.image_size, vision.max_num_tiles
        patches = (side // vision.patch_size) ** 2 + 1
        own = processor.get("max_image_tiles", tower)
        sides = {size.get("height", side), size.get("width", side)}
        if (
            sides != {side}
            or not 1 <= own <= tower
            or _shapes(tower) != [tuple(r) for r in vision.supported_aspect_ratios]
        ):
            raise BadInput(
                f"the tiles of preprocessor_config.json ({own} of {sorted(sides)} pixels) are not those of the vision "
                f"tower in config.json ({tower} of {side} pixels)",
                where="preprocessor_config.json",
                hint="copy both files again from the model's medium",
            )
        return cls(
            config.image_token_id,
            side,
            patches,
            tower,
            own if max_visual_tokens is None else max(1, min(own, max_visual_tokens // patches)),
            int(processor.get("resample", cls.resample)),
            tuple(processor.get("image_mean", cls.mean)),
            tuple(processor.get("image_std", cls.std)),
        )

    def fitted(self, image: Image.Image) -> Image.Image:
        """The image as RGB at the head of a black canvas of whole tiles."""
        (width, height), side = image.size, self.side
        rows, columns = self._canvas(height, width)
        most_high, most_wide = (min(max(x, side), n * side) for x, n in ((height, rows), (width, columns)))
        scale_high, scale_wide = most_high / height, most_wide / width
        if scale_wide < scale_high:
            new = (most_wide, min(math.floor(height * scale_wide) or 1, most_high))
        else:
            new = (min(math.floor(width * scale_high) or 1, most_wide), most_high)
        rgb = image.convert("RGB")
        whole = Image.new("RGB", (columns * side, rows * side))
        whole.paste(rgb if rgb.size == new else rgb.resize(new, Image.Resampling(self.resample)))
        return whole

    def _canvas(self, height: int, width: int) -> Grid:
        """(rows, columns) of tiles: the least enlargement, else the least shrinking, then the fewest tiles."""
        shapes = _shapes(self.tiles)
        scales = [min(rows * self.side / height, columns * self.side / width) for rows, columns in shapes]
        enlarging = [s for s in scales if s >= 1]
        best = min(enlarging) if enlarging else max(scales)
        return min((g for g, s in zip(shapes, scales, strict=True) if s == best), key=lambda g: g[0] * g[1])

    def grid(self, fitted: Image.Image) -> Grid:
        """(rows, columns) of tiles of a fitted image."""
        return fitted.height // self.side, fitted.width // self.side

    def visual_tokens(self, grid: Grid) -> int:
        """States of the image's own tiles."""
        return grid[0] * grid[1] * self.patches

    def tower_patches(self, grid: Grid) -> int:
        """Those of as many tiles for every image; transformers pads a tile's to a multiple of eight."""
        return self.tower_tiles * (self.patches + -self.patches % 8)

    def feature_bytes(self, grid: Grid, width: int, itemsize: int) -> int:
        """See Family; padding tiles have states, too."""
        return self.tiles * self.patches * width * itemsize

    def expansion(self, grid: Grid, slot: str) -> Expansion:
        """The slot itself: the image token keeps its place and its own embedding."""
        return Expansion(slot, (1,))

    def features(self, model: Any, fitted: Image.Image) -> Visual:
        """``cross`` holds two tensors an image: the states of its tiles, and those of the padding tiles behind them."""
        (rows, columns), side, device = self.grid(fitted), self.side, model.device
        pixels = (np.asarray(fitted, np.float32) / 255 - np.asarray(self.mean, np.float32)) / np.asarray(
            self.std, np.float32
        )
        tiles = pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side)
        padded = torch.zeros(1, 1, self.tower_tiles, 3, side, side)
        padded[0, 0, : len(tiles)] = torch.from_numpy(np.ascontiguousarray(tiles, np.float32))
        shape = torch.tensor([[_shapes(self.tower_tiles).index((rows, columns)) + 1]], device=device)
        real = (torch.arange(self.tower_tiles, device=device) < rows * columns).long()[None, None]
        seen = model.model.vision_model(padded.to(device), aspect_ratio_ids=shape, aspect_ratio_mask=real)
        states = model.model.multi_modal_projector(seen.last_hidden_state[0, 0, : self.tiles])  # (tiles, P, D)
        own = states[: rows * columns].flatten(0, 1)
        return Visual(own[:0].clone(), cross=(own.clone(), states[rows * columns :].flatten(0, 1).clone()))

    def read(
        self,
        inner: Any,
        embeds: torch.Tensor,
        mask: Any,
        positions: torch.Tensor,
        sight: Sight,
        cache: Any = None,
    ) -> torch.Tensor:
        """See Family. What is read once stays in the cache with the cross-attention layers' keys."""
        # Here, and not above: transformers takes seconds, and some ask for the family's numbers only.
        from train.models.crossing import Looked, looked_at

        width, crossing = embeds.shape[1], inner.config.get_text_config().cross_attention_layers
        states = allowed = reads = None
        if sight.visual is not None:
            states, allowed, reads = looked_at(sight, sight.visual.cross, embeds)
            for layer in crossing if cache is not None else ():
                cache.layers[layer] = Looked(allowed[:, -1:], reads[:, -1:])
        elif cache is not None and isinstance(kept := cache.layers[crossing[0]], Looked):
            allowed, reads = kept.allowed.expand(-1, width, -1), kept.reads.expand(-1, width)
        out = inner.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions[0],
            cross_attention_states=states,
            cross_attention_mask=None if allowed is None else allowed[:, None],
            full_text_row_masked_out_mask=None if reads is None else reads[:, None, :, None].to(embeds.dtype),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        for layer in crossing if states is not None and cache is not None else ():
            cache.layers[layer].narrow()
        found: torch.Tensor = out.last_hidden_state
        return found

    def end_of_text(self, tokenizer: Any) -> str:
        """Llama 3's ``<|end_of_text|>``: instruct models name the end of a turn as their end."""
        end = "<|end_of_text|>"
        return end if end in tokenizer.get_vocab() else super().end_of_text(tokenizer)


def _shapes(tiles: int) -> list[Grid]:
    """(rows, columns) of every canvas of so many tiles at most; an image's id in the tower is its place here plus 1."""
    return [(a, b) for a in range(1, tiles + 1) for b in range(1, tiles + 1) if a * b <= tiles]
