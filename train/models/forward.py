"""The language model over embeddings in which the images' features already stand."""

from typing import Any

import torch

from train.data.rows import Batch
from train.models.attention import kind_for, mask_for
from train.models.family import Family, Sight, Visual


def core(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def embedded(inner: Any, ids: torch.Tensor, sight: Sight) -> torch.Tensor:
    """Embeddings (B, T, D) of tokens (B, T), the visual tokens in their places."""
    embeds: torch.Tensor = inner.get_input_embeddings()(ids)
    if sight.visual is not None and len(sight.visual.tokens):
        flat = embeds.reshape(-1, embeds.shape[-1])
        embeds = flat.index_copy(0, sight.places, sight.visual.tokens.to(flat.dtype)).view_as(embeds)
    return embeds


def hidden_states(family: Family, model: Any, batch: Batch, visual: Visual | None) -> torch.Tensor:
    """Hidden states (B*T, D).

    Args:
        visual: of ``batch.images``, in that order.
    """
    inner = core(model)
    sight = Sight(visual, batch.image_places, batch.placed, batch.segments)
    embeds = embedded(inner, batch.ids, sight)
    mask = mask_for(batch, kind_for(embeds, batch.shared))
    states = family.read(inner, embeds, mask, batch.positions, sight)
    return states.reshape(-1, states.shape[-1])


def learned_logits(family: Family, model: Any, batch: Batch, visual: Visual | None) -> torch.Tensor:
    """Logits (N, V) in fp32 at the places that predict the learned tokens: the head runs nowhere else."""
    logits: torch.Tensor = core(model).lm_head(hidden_states(family, model, batch, visual)[batch.sources])
    return logits.float()
