"""The language model over embeddings in which the images' features already stand."""

from typing import Any

import torch

from train.data.rows import Batch


def core(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model: Any, batch: Batch, features: torch.Tensor) -> torch.Tensor:
    """Hidden states (B*T, D).

    Args:
        features: (M, D), in the order of ``batch.image_places``.
    """
    inner = core(model)
    embeds = inner.get_input_embeddings()(batch.ids)
    if len(batch.image_places):
        flat = embeds.reshape(-1, embeds.shape[-1])
        embeds = flat.index_copy(0, batch.image_places, features.to(flat.dtype)).view_as(embeds)
    out = inner.model.language_model(
        inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    )
    states: torch.Tensor = out.last_hidden_state
    return states.reshape(-1, states.shape[-1])


def learned_logits(model: Any, batch: Batch, features: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) in fp32 at the places that predict the learned tokens: the head runs nowhere else."""
    logits: torch.Tensor = core(model).lm_head(hidden_states(model, batch, features)[batch.sources])
    return logits.float()
