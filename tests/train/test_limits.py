"""Conversations longer than the model's context: said before the first step, by record, never by content."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from audit.conversation import Conversation, Turn
from audit.errors import BadInput
from train.checkpoints import MemoryStore
from train.data.limits import check_lengths
from train.lora import LoraConfig
from train.sft import SftConfig, rows_of, run_sft


def talk(number: int, said: str, record: str = "", *images: str) -> Conversation:
    turns = (Turn("user", "Where?"), Turn("assistant", said, True))
    return Conversation(f"c{number}", images, turns, record, "caption")


def configured(limit: int | None) -> Any:
    text = SimpleNamespace() if limit is None else SimpleNamespace(max_position_embeddings=limit)
    return SimpleNamespace(get_text_config=lambda: text)


def with_context(loaded: Any, monkeypatch: pytest.MonkeyPatch, limit: int) -> Any:
    monkeypatch.setattr(loaded.model.config.get_text_config(), "max_position_embeddings", limit)
    return loaded


def test_what_fits_is_taken_and_one_token_more_is_not() -> None:
    check_lengths([(talk(1, "a"), 2048)], configured(2048))
    check_lengths([(talk(1, "a"), 10**6)], configured(None))
    check_lengths([], configured(8))
    with pytest.raises(BadInput, match="a conversation is longer than the model's context of 2048 tokens") as caught:
        check_lengths([(talk(1, "secret", "r7"), 2049), (talk(2, "b", "r8"), 5)], configured(2048))
    assert "r7: 2049 tokens" in caught.value.where
    assert "r8" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "--max-visual-tokens" in caught.value.hint


def test_many_are_counted_and_the_longest_are_named() -> None:
    with pytest.raises(BadInput, match="7 conversations are longer") as caught:
        check_lengths([(talk(k, "a", f"r{k}"), 10 + k) for k in range(7)], configured(9))
    assert caught.value.where.startswith("r6: 16 tokens; r5: 15 tokens")
    assert caught.value.where.endswith("r2: 12 tokens, and 2 more")


def test_without_a_record_the_conversation_is_named() -> None:
    with pytest.raises(BadInput) as caught:
        check_lengths([(talk(3, "a"), 10)], configured(9))
    assert caught.value.where == "c3: 10 tokens"


def test_a_run_with_a_conversation_too_long_does_not_begin(
    loaded: Any, features: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = [talk(1, "Yes.", "r1", "1:64:64"), talk(2, "No. " * 40, "r2", "1:64:64"), talk(3, "No.", "r3")]
    lengths = [len(loaded.encoder.encode(t, [features.grid(i) for i in t.images]).ids) for t in talks]
    assert lengths[0] < lengths[1]
    fits = with_context(loaded, monkeypatch, lengths[1])
    assert len(rows_of(fits, talks, features)) == 2
    tight = with_context(loaded, monkeypatch, lengths[1] - 1)
    store, steps = MemoryStore(), []
    config = replace(SftConfig(), epochs=1, lora=LoraConfig(4, 8))
    with pytest.raises(BadInput, match="longer than the model's context") as caught:
        run_sft(tight, talks, features, config, store, on_step=lambda step, records: steps.append(step))
    assert caught.value.where == f"r2: {lengths[1]} tokens"
    assert steps == []
    assert store.load() is None
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())


def test_fewer_visual_tokens_make_it_fit(loaded: Any, features: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = talk(1, "Yes.", "r1", "1:128:128"), talk(1, "Yes.", "r1", "1:32:32")
    tight = with_context(loaded, monkeypatch, 60)
    with pytest.raises(BadInput):
        rows_of(tight, [large], features)
    assert rows_of(tight, [small], features)
