"""Supervised learning that is held near the base: the rival SFT + KL that RCPA's reviewers asked for.

The loss of a token is its cross-entropy plus a weight times KL(base‖policy) over the whole vocabulary. The loop is
`train.sft.run_sft`'s with nothing but that added: same rows, order and rates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from audit.conversation import Conversation
from train.data.rows import collate
from train.lora import attach, detach, pack
from train.loss import answer_loss, token_weights
from train.models.features import Features
from train.models.forward import core, hidden_states
from train.models.loading import Loaded
from train.optimizers import optimizer_of
from train.rl.divergence import divergences
from train.schedule import planned
from train.sft import rows_of
from train.sft_config import SftConfig


def run_tethered(
    loaded: Loaded,
    talks: Sequence[Conversation],
    features: Features,
    config: SftConfig,
    weight: float,
    measured: Callable[[int, Any], None],
) -> bytes:
    """Train an adapter.

    Args:
        weight: of KL(base‖policy), mean over the learned tokens, in nats.
        measured: told the step and the policy after it.
    Returns: the adapter.
    """
    torch.manual_seed(config.seed)
    rows = [row for row, _ in rows_of(loaded, talks, features)]
    model = attach(loaded, config.lora)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer_of(weights, config, loaded.device)
    try:
        for step, now in enumerate(planned([range(len(rows))], config)):
            taken = sorted((rows[n] for n in now.rows), key=lambda row: len(row.ids))
            batch = collate(taken, loaded.tokenizer.pad_token_id, loaded.device)
            seen = features.stack(batch.images)

            def read(batch: Any = batch, seen: Any = seen) -> torch.Tensor:
                return hidden_states(loaded.family, model, batch, seen)[batch.sources]

            states, head = read(), core(model).lm_head
            answers = float((batch.owners.bincount().float() ** config.length_power).sum())
            loss, _ = answer_loss(head, states, batch.targets, token_weights(batch, config.length_power, answers))
            if weight:
                with torch.no_grad(), model.disable_adapter():
                    base = head(read()).float()
                kl, _ = divergences(head(states).float(), base)
                loss = loss + weight * kl.mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = now.rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            measured(step, model)
        return pack(model, config.lora, loaded.digest)
    finally:
        detach(model)
