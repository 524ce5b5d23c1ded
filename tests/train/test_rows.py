"""Rows: shared, packed and separate give the same loss and gradients, and no branch sees another."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audit.conversation import Conversation, Turn
from train.data.encode import Encoded, continued
from train.data.rows import Row, collate, packed_row, shared_row
from train.models.forward import learned_logits

PICTURE, OTHER = "1:48:32", "2:32:80"
TALKS = (
    (Turn("user", "Is the lesion visible?"), Turn("assistant", "Yes", True)),
    (
        Turn("user", "What plane?"),
        Turn("assistant", "It is the left slice.", True),
        Turn("user", "No?"),
        Turn("assistant", "No.", True),
    ),
    (Turn("user", "?"), Turn("assistant", "Is it right and where in this red slice?", True)),
)


@pytest.fixture(scope="module")
def learner(loaded: Any) -> Any:
    """A copy of the tiny model whose language weights take gradients."""
    model = copy.deepcopy(loaded.model)
    model.model.language_model.requires_grad_(True)
    return replace(loaded, model=model)


def encoded(loaded: Any, features: Any, image: str | None = PICTURE) -> list[Encoded]:
    images = (image,) if image else ()
    talks = [Conversation("c", images, turns, "r", "k") for turns in TALKS]
    return [loaded.encoder.encode(t, [features.grid(i) for i in images]) for t in talks]


def logits_of(loaded: Any, features: Any, rows: Sequence[Row]) -> tuple[torch.Tensor, Any]:
    batch = collate(rows, loaded.tokenizer.pad_token_id)
    return learned_logits(loaded.family, loaded.model, batch, features.stack(batch.images)), batch


def loss_and_gradients(loaded: Any, features: Any, batches: Sequence[Sequence[Row]]) -> tuple[float, Any]:
    """Summed loss over batches, and the gradient of every language weight."""
    loaded.model.zero_grad()
    total = 0.0
    for rows in batches:
        logits, batch = logits_of(loaded, features, rows)
        loss = F.cross_entropy(logits, batch.targets, reduction="sum")
        loss.backward()
        total += float(loss.detach())
    found = {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}
    return total, found


@pytest.mark.parametrize("image", [PICTURE, None])
def test_shared_packed_and_separate_rows_teach_the_same(learner: Any, features: Any, image: str | None) -> None:
    talks = encoded(learner, features, image)
    alone = [[packed_row([t])] for t in talks]
    wanted, gradients = loss_and_gradients(learner, features, alone)
    assert len(gradients) > 20
    ways = {"packed": [[packed_row(talks)]], "padded": [[packed_row([t]) for t in talks]]}
    ways["shared"] = [[shared_row(talks)]]
    for name, batches in ways.items():
        loss, found = loss_and_gradients(learner, features, batches)
        assert loss == pytest.approx(wanted, rel=1e-5), name
        assert found.keys() == gradients.keys()
        for weight, gradient in gradients.items():
            apart = torch.linalg.vector_norm(found[weight] - gradient) / torch.linalg.vector_norm(gradient)
            assert float(apart) <= 1e-5, (name, weight)


@torch.inference_mode()
def test_each_branch_computes_what_it_would_alone(loaded: Any, features: Any) -> None:
    mixed = [*encoded(loaded, features), *encoded(loaded, features, OTHER), *encoded(loaded, features, None)]
    rows = [shared_row(mixed[:3]), shared_row(mixed[3:6]), packed_row(mixed[6:])]
    logits, batch = logits_of(loaded, features, rows)
    for number, one in enumerate(mixed):
        mine = batch.owners == number
        assert batch.targets[mine].tolist() == one.ids[one.learned].tolist()
        own, _ = logits_of(loaded, features, [packed_row([one])])
        torch.testing.assert_close(logits[mine], own, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_row_is_what_transformers_computes(loaded: Any, features: Any) -> None:
    """The reference is transformers' own forward over one plain sequence, its own mask and positions."""
    for image in (PICTURE, OTHER):
        for one in encoded(loaded, features, image):
            rows, columns = features.grid(image)
            kinds = torch.from_numpy(one.ids == loaded.family.image_token).int()[None]
            embeds = loaded.model.get_input_embeddings()(torch.from_numpy(one.ids))[None]
            embeds[kinds.bool()] = features.of(image).tokens
            places, _ = loaded.model.model.get_rope_index(
                torch.from_numpy(one.ids)[None], kinds, image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]])
            )
            states = loaded.model.model.language_model(inputs_embeds=embeds, position_ids=places).last_hidden_state
            wanted = loaded.model.lm_head(states[0, np.flatnonzero(one.learned) - 1])
            found, _ = logits_of(loaded, features, [shared_row([one])])
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_is_shared_is_written_once(loaded: Any, features: Any) -> None:
    talks = encoded(loaded, features)
    shared, row = talks[0].shared_until, shared_row(talks)
    assert len(row.ids) == shared + sum(len(t.ids) - shared for t in talks)
    assert row.images == talks[0].images
    assert np.count_nonzero(row.learned) == sum(np.count_nonzero(t.learned) for t in talks)


@torch.inference_mode()
def test_an_answer_may_begin_right_after_the_shared_part(loaded: Any, features: Any) -> None:
    """A group of completions: the first token of each is predicted by the last token of the prompt."""
    prompt = loaded.encoder.prompt(TALKS[0][:1], (PICTURE,), [features.grid(PICTURE)])
    group = [continued(prompt, answer) for answer in ([271, 2], [289, 300, 2], [271, 2])]
    logits, batch = logits_of(loaded, features, [shared_row(group)])
    torch.testing.assert_close(logits[batch.owners == 0], logits[batch.owners == 2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[batch.owners == 1][0], logits[batch.owners == 0][0], rtol=1e-4, atol=1e-4)
    assert batch.owners.tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_a_first_token_without_a_past_is_no_target(loaded: Any) -> None:
    turns = (Turn("user", "Is it?", True), Turn("assistant", "Yes", True))
    one = loaded.encoder.encode(Conversation("c", (), turns, "r", "k"), [])
    batch = collate([packed_row([one, one])], 0)
    assert one.learned[0]
    assert batch.targets.tolist() == 2 * one.ids[one.learned][1:].tolist()


def test_other_images_do_not_share_a_row(loaded: Any, features: Any) -> None:
    talks = [encoded(loaded, features)[0], encoded(loaded, features, OTHER)[0]]
    with pytest.raises(ValueError, match="same images"):
        shared_row(talks)
    same_size = encoded(loaded, features, "9:48:32")[0]
    with pytest.raises(ValueError, match="same images"):
        shared_row([talks[0], same_size])
