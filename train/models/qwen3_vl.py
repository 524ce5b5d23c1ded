"""Qwen3-VL, dense: Qwen2-VL's images and positions, and deepstack (arXiv 2511.21631; DeepStack, arXiv 2406.04334).

Some layers of the tower speak too: what they say of an image is added to the hidden states of the first language
layers, in the places of its visual tokens.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from PIL import Image

from train.models.family import Grid, Sight, Visual
from train.models.qwen2_vl import Qwen2VL


@dataclass(frozen=True)
class Qwen3VL(Qwen2VL):
    """What is particular to Qwen3-VL."""

    model_type: ClassVar = "qwen3_vl"
    vision_lora_targets: ClassVar = ""
    deep_layers: int = 3
    """Layers of the tower that speak, beside its last."""

    @classmethod
    def of(cls, config: Any, processor: dict[str, Any], max_visual_tokens: int | None = None) -> Self:
        """See Family."""
        plain = super().of(config, processor, max_visual_tokens)
        return replace(plain, deep_layers=len(config.vision_config.deepstack_visual_indexes))

    def feature_bytes(self, grid: Grid, width: int, itemsize: int) -> int:
        """See Family; every layer that speaks says as much as the last."""
        return (1 + self.deep_layers) * super().feature_bytes(grid, width, itemsize)

    def features(self, model: Any, fitted: Image.Image) -> Visual:
        """The merged patches (rows * columns, D) of one fitted image, and as many of each deepstack layer."""
        said = self.tower(model, fitted)
        return Visual(said.pooler_output, tuple(said.deepstack_features))

    def read(
        self,
        inner: Any,
        embeds: torch.Tensor,
        mask: Any,
        positions: torch.Tensor,
        sight: Sight,
        cache: Any = None,
    ) -> torch.Tensor:
        """See Family; the deepstack features go in with the images, once: the cache holds what came of them."""
        seen = deep = None
        if sight.visual is not None and len(sight.places):
            seen = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)  # (B, T)
            seen.view(-1)[sight.places] = True  # places rise, as transformers takes them out of the mask again
            deep = list(sight.visual.deep)
        out = inner.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            visual_pos_masks=seen,
            deepstack_visual_embeds=deep,
        )
        states: torch.Tensor = out.last_hidden_state
        return states
