"""transformers' own generate, one prompt by itself: what our generation is held to, in words and in time."""

from typing import Any

import numpy as np
import torch

from train.data.encode import Encoded
from train.models.features import Features
from train.models.loading import Loaded
from train.models.qwen2_vl import patches_of


def reference(loaded: Loaded, features: Features, prompt: Encoded, new_tokens: int) -> list[int]:
    """What transformers writes after a prompt, greedy: its own vision, positions and cache.

    Args:
        features: opens the prompt's images; its visual tokens are not used.
    """
    ids = torch.from_numpy(prompt.ids)[None]
    more: dict[str, Any] = {}
    for image, _, _ in prompt.images:
        pixels = (np.asarray(loaded.family.fitted(features.image(image)), np.float32) / 255 - 0.5) / 0.5
        more["pixel_values"] = torch.from_numpy(patches_of(pixels, 8, 2, 2))
        more["image_grid_thw"] = torch.tensor([[1, pixels.shape[0] // 8, pixels.shape[1] // 8]])
        more["mm_token_type_ids"] = (ids == loaded.family.image_token).int()
    found = loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=sorted(loaded.stops),
        pad_token_id=loaded.tokenizer.pad_token_id,
        **more,
    )
    written: list[int] = found[0, ids.shape[1] :].tolist()
    return written
