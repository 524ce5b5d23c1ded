"""A table for a tokenizer: the permutation, where it is exact, and what is gated out."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.rl.domain import Domain, Transform
from train.rl.table import Table, parse, table_of

WORDS = ("left", "right", "Left", "RIGHT", "bright", "copyright", "leftover", "red", "(left)", "right.", "lesion", "12")


def tokenizer_of(*tokens: str) -> Any:
    """Byte-level BPE with these tokens beside the bytes; Ġ is a space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: k for k, token in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges: list[tuple[str, str]] = []
    for token in tokens:
        for k in range(2, len(token) + 1):
            if token[:k] not in vocabulary:
                vocabulary[token[:k]] = len(vocabulary)
                merges.append((token[: k - 1], token[k - 1]))
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")


def mirror(tokenizer: Any, name: str = "brain-mri") -> Transform:
    return Transform.of(table_of(name).rules[0], tokenizer)


@pytest.fixture(scope="module")
def even() -> Any:
    """Both sides are one token each, alone, behind a space and with a capital; so is (left."""
    return tokenizer_of("left", "right", "Ġleft", "Ġright", "ĠLeft", "ĠRight", "(left")


@pytest.fixture(scope="module")
def uneven() -> Any:
    """' left' is one token and ' right' is two."""
    return tokenizer_of("Ġleft", "Ġrigh")


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_words_of_one_token_are_exchanged_in_every_written_form(even: Any) -> None:
    found = mirror(even)
    ids = np.array(ids_of(even, "left is not right, Is the Left or the right side red"))
    assert found.exact(ids)
    text = even.decode(found.swap(ids))
    assert text == "right is not left, Is the Right or the left side red"
    assert not found.applies("LEFT or RIGHT?", "")
    assert not found.exact([even.convert_tokens_to_ids("(left")])  # one token, and "(right" is none
    assert found.applies("Is it left?", "right")


def test_words_of_unequal_length_are_gated_out(uneven: Any) -> None:
    found = mirror(uneven)
    assert len(ids_of(uneven, " left")) == 1 and len(ids_of(uneven, " right")) == 2
    assert np.array_equal(found.permutation, np.arange(len(found.permutation)))
    for talk in (
        ("Is it left?", ""),
        ("Is the right one red?", ""),
        ("Where?", "On the left"),
        ("Where?", "On the right"),
    ):
        assert not found.applies(*talk) and "one token" in found.refusal(*talk)
    assert found.applies("Is the lesion bright?", "copyright, upright")


def test_parts_of_words_are_gated_out_and_never_exchanged_unseen(even: Any) -> None:
    found = mirror(even)
    pieces = ids_of(even, "right")
    assert len(pieces) == 1
    bright = [*ids_of(even, "b"), *pieces]  # the policy may spell so, whatever the tokenizer does
    assert even.decode(bright) == "bright" and not found.exact(bright)
    assert not found.applies("Is it?", "bright", [ids_of(even, "Is it?"), bright])
    assert not found.exact([*ids_of(even, " left"), *ids_of(even, "over")])
    assert not found.exact(
        ids_of(even, " ") + ids_of(even, "l") + ids_of(even, "e") + ids_of(even, "f") + [116 - 33 + 1]
    )
    spelt = [i for letter in "left" for i in ids_of(even, letter)]
    assert even.decode(spelt) == "left" and not found.exact(spelt)  # spelt out: its tokens cannot be exchanged
    assert found.exact([]) and found.exact(ids_of(even, "no side at all"))


def test_behind_a_letter_a_token_goes_on_with_a_word_and_its_logits_stay(even: Any) -> None:
    found = mirror(even)
    left, right, spaced, other = (ids_of(even, text)[0] for text in ("left", "right", " left", " right"))
    logits = torch.arange(float(len(even) + 5)).repeat(2, 1)
    before = np.array([ids_of(even, "b")[0], ids_of(even, "?")[0]])
    back = found.back(logits, before)
    assert back[:, left].tolist() == [left, right] and back[:, right].tolist() == [right, left]
    assert back[:, spaced].tolist() == [other, other]  # the space ends the word before
    assert torch.equal(found.back(back, before), logits)
    assert torch.equal(found.back(logits, np.full(2, 10**6)), found.back(logits))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=30), st.integers(0, 40))
def test_swap_and_back_undo_themselves(even: Any, ids: list[int], padding: int) -> None:
    found = mirror(even)
    size = len(found.permutation) + padding
    some = np.array([i % size for i in ids], dtype=np.int64)
    assert np.array_equal(found.swap(found.swap(some)), some)
    assert sorted(found.swap(np.arange(size))) == list(range(size))
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(size), requires_grad=True)
    back = found.back(logits)
    assert torch.equal(found.back(back), logits)
    assert torch.equal(back, logits[:, torch.from_numpy(found.swap(np.arange(size)))])
    back.sum().backward()
    assert logits.grad is not None and bool((logits.grad == 1).all())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_what_passes_the_gate_is_swapped_word_by_word(even: Any, words: list[str]) -> None:
    found = mirror(even)
    text = " ".join(words)
    ids = np.array(ids_of(even, text), dtype=np.int64)
    if found.applies(text, ""):
        turned = {"left": "right", "right": "left", "Left": "Right", "right.": "left.", "(left)": "(right)"}
        assert even.decode(found.swap(ids)) == " ".join(turned.get(word, word) for word in words)
    elif not set(words) & {"RIGHT", "leftover", "bright", "copyright"}:  # b·right
        assert words[:1] == ["Left"]  # no token of its own without a space


def test_sentencepiece_spaces_are_spaces() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: k for k, w in enumerate(["<unk>", "<s>", "▁left", "▁right", "▁the", "▁is", "left", "right", "▁b"])}
    core = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>")
    found = mirror(tokenizer)
    assert found.permutation.tolist() == [0, 1, 3, 2, 4, 5, 7, 6, 8]
    assert found.exact([5, 4, 2]) and found.applies("is the left", "right")
    assert tokenizer.decode([8, 7]) == "bright" and not found.exact([8, 7])


def table(*kinds: str) -> Table:
    text = 'title = "T"\nasks = []\n' + "".join(f'[[transform]]\nkind = "{kind}"\n' for kind in kinds)
    return parse(text.encode(), "t.toml")


def test_a_table_gives_its_transforms_in_order(even: Any) -> None:
    domain = Domain.of(table("mirror", "rotate-180", "flip-vertical"), even)
    assert domain.suffixes == ("#mirrored", "#rotated-180", "#flipped")
    assert [one.name for one in domain.transforms] == ["mirror", "rotate-180", "flip-vertical"]
    left, top, both = ("Is it left?", ""), ("Is it on top?", ""), ("Is it in the upper left?", "")
    assert [one.name for one in domain.transforms if one.applies(*left)] == ["flip-vertical"]
    assert [one.name for one in domain.transforms if one.applies(*top)] == ["mirror"]
    assert not any(one.applies(*both) for one in domain.transforms)


def test_the_identity_changes_nothing_and_applies_to_all(even: Any) -> None:
    (same,) = Domain.of(table("identity"), even).transforms
    logits = torch.randn(2, 300)
    assert torch.equal(same.back(logits), logits) and same.suffix == "#unchanged" and not same.rule.kind.turned
    assert same.applies("Is the upper left bright?", "RIGHT")
