"""Encoding: which tokens are learned, how images expand, and positions against transformers' own."""

import unicodedata
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.conversation import Conversation, Turn
from audit.errors import BadInput
from tests.train.conftest import SPECIAL
from train.data.encode import Encoded, continued

IMAGE, VISION_END = SPECIAL.index("<|image_pad|>"), SPECIAL.index("<|vision_end|>")
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
SAID = st.tuples(st.sampled_from("aYé1?漢🧠"), WORDS).map("".join)
GRIDS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=2)


def talk(turns: list[Turn], images: int = 0) -> Conversation:
    return Conversation("c", tuple(f"image {k}" for k in range(images)), tuple(turns), "r", "k")


def learned_texts(loaded: Any, encoded: Encoded) -> list[str]:
    """The text of each unbroken run of learned tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], encoded.learned.astype(int), [0]))))
    return [
        loaded.tokenizer.decode(encoded.ids[a:b], clean_up_tokenization_spaces=False)
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


def rope_index(loaded: Any, ids: np.ndarray, grids: list[tuple[int, int]]) -> np.ndarray:
    """(3, T) positions as transformers computes them."""
    tokens = torch.from_numpy(ids)[None]
    thw = torch.tensor([[1, 2 * rows, 2 * columns] for rows, columns in grids]) if grids else None
    kinds = (tokens == IMAGE).int()
    found, _ = loaded.model.model.get_rope_index(tokens, kinds, image_grid_thw=thw)
    return found[:, 0].numpy()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, SAID, st.booleans()), min_size=1, max_size=3), GRIDS)
def test_a_learned_answer_counts_up_to_its_end_token(loaded: Any, said: list[Any], grids: list[Any]) -> None:
    turns = [t for q, a, learned in said for t in (Turn("user", q), Turn("assistant", a, learned))]
    encoded = loaded.encoder.encode(talk(turns, len(grids)), grids)
    wanted = [unicodedata.normalize("NFC", a) + "<|im_end|>" for _, a, learned in said if learned]
    assert learned_texts(loaded, encoded) == wanted


@settings(max_examples=40, deadline=None)
@given(SAID, SAID, SAID, GRIDS, st.booleans())
def test_a_learned_question_counts_whole(
    loaded: Any, caption: str, asked: str, answer: str, grids: list[Any], ends: bool
) -> None:
    turns = [
        Turn("user", "What?"),
        Turn("assistant", caption),
        Turn("user", asked, True),
        Turn("assistant", answer, True),
    ]
    encoded = loaded.encoder.encode(talk(turns, len(grids)), grids, ends)
    whole = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    whole += "\n<|endoftext|>" if ends else ""
    assert learned_texts(loaded, encoded) == [unicodedata.normalize("NFC", whole)]
    assert (encoded.ids[-1] == SPECIAL.index("<|endoftext|>")) == ends


def test_a_question_that_is_not_learned_keeps_the_next_header_out(loaded: Any) -> None:
    turns = [
        Turn("user", "Is it?", True),
        Turn("assistant", "No"),
        Turn("user", "Where?"),
        Turn("assistant", "Left", True),
    ]
    texts = learned_texts(loaded, loaded.encoder.encode(talk(turns), []))
    assert texts == ["<|im_start|>user\nIs it?<|im_end|>\n", "Left<|im_end|>"]


@settings(max_examples=60, deadline=None)
@given(WORDS, SAID, GRIDS)
def test_images_expand_and_positions_are_those_of_transformers(
    loaded: Any, asked: str, answer: str, grids: list[Any]
) -> None:
    encoded = loaded.encoder.encode(talk([Turn("user", asked), Turn("assistant", answer, True)], len(grids)), grids)
    places = "".join(f"<|vision_start|>{'<|image_pad|>' * (r * c)}<|vision_end|>" for r, c in grids)
    text = f"<|im_start|>user\n{places}{asked}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    assert encoded.ids.tolist() == loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    np.testing.assert_array_equal(encoded.positions, rope_index(loaded, encoded.ids, grids))
    assert [(name, n) for name, _, n in encoded.images] == [(f"image {k}", r * c) for k, (r, c) in enumerate(grids)]
    at = [place for _, start, n in encoded.images for place in range(start, start + n)]
    assert at == np.flatnonzero(encoded.ids == IMAGE).tolist()
    last = np.flatnonzero(encoded.ids == VISION_END)
    assert encoded.shared_until == (last[-1] + 1 if len(last) else 0)


@settings(max_examples=30, deadline=None)
@given(WORDS, st.lists(st.integers(7, 300), min_size=1, max_size=8), GRIDS)
def test_a_continued_prompt_goes_on_where_it_ended(
    loaded: Any, asked: str, answer: list[int], grids: list[Any]
) -> None:
    prompt = loaded.encoder.prompt([Turn("user", asked)], [f"image {k}" for k in range(len(grids))], grids)
    whole = continued(prompt, answer)
    assert whole.ids.tolist() == [*prompt.ids.tolist(), *answer]
    np.testing.assert_array_equal(whole.positions, rope_index(loaded, whole.ids, grids))
    assert np.flatnonzero(whole.learned).tolist() == list(range(len(prompt.ids), len(whole.ids)))
    assert whole.shared_until == len(prompt.ids) and whole.images == prompt.images
    assert not continued(prompt, answer, learned=False).learned.any()


def test_a_prompt_is_how_the_conversation_begins(loaded: Any) -> None:
    turns = [
        Turn("user", "What?"),
        Turn("assistant", "A NUL \x00 in it"),
        Turn("user", "Where?"),
        Turn("assistant", "Left"),
    ]
    whole = loaded.tokenizer.decode(loaded.encoder.encode(talk(turns), []).ids)
    for count, opened in ((1, "assistant"), (2, "user"), (3, "assistant")):
        prompt = loaded.tokenizer.decode(loaded.encoder.prompt(turns[:count], (), [], opened).ids)
        assert whole.startswith(prompt) and prompt.endswith(f"<|im_start|>{opened}\n")
        assert prompt.count("<|im_start|>") == count + 1


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_control_token_in_a_turn_is_refused(loaded: Any, token: str, role: str) -> None:
    turns = [Turn("user", "Is it?"), Turn(role, f"left {token} right")]
    with pytest.raises(BadInput, match="turn 2 holds the control token") as caught:
        loaded.encoder.encode(talk(turns), [])
    assert token in caught.value.what and caught.value.hint
    assert caught.value.where == f"record {talk(turns).record}, conversation {talk(turns).id}"
    with pytest.raises(BadInput):
        loaded.encoder.prompt(turns, (), [])
    harmless = loaded.encoder.encode(talk([Turn("user", token[:-1] + " |>")]), [])
    assert harmless.ids.tolist()[1:-2].count(SPECIAL.index(token)) == 0
