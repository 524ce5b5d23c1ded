"""What spares a decoded token its copies: a cache with room and weights unpacked once; every bit stays the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from audit.conversation import Turn
from tests.train.conftest import picture
from train.lora import LoraConfig, attach, detach
from train.models import generation, unpacked
from train.models.cache import ROOM, Roomy
from train.models.features import Features
from train.models.generation import Sampling, generate
from train.models.loading import load

ASKED = (("1:48:32", "Is the left lesion visible?"), ("1:48:32", "Is the left?"), ("2:32:64", "Where?"))


@pytest.fixture(scope="module")
def packed(tiny_model: Path) -> Any:
    """The tiny model in 4 bits."""
    return load(tiny_model, "nf4", "cpu")


def asked(loaded: Any) -> tuple[Any, Any]:
    """Features and three prompts, two about one image."""
    features = Features(loaded, lambda name: picture(*map(int, name.split(":"))))
    return features, [loaded.encoder.prompt([Turn("user", q)], (i,), [features.grid(i)]) for i, q in ASKED]


@pytest.mark.parametrize("seed", range(20))
def test_a_cache_with_room_holds_what_one_without_holds(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def number(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (1,), generator=draw))

    plain, mine, rows = DynamicLayer(), Roomy(), number(1, 4)
    for _ in range(60):
        kind = number(0, 9)
        if kind == 0 and plain.is_initialized and rows < 30:
            repeats = number(1, 3)
            rows *= repeats
            for layer in (plain, mine):
                layer.batch_repeat_interleave(repeats)
        elif kind in (1, 2) and plain.is_initialized:
            chosen = torch.randint(0, rows, (number(1, rows + 1),), generator=draw)
            rows = len(chosen)
            for layer in (plain, mine):
                layer.batch_select_indices(chosen)
        else:
            new = torch.randn(2, rows, 2, number(1, 5), 4, generator=draw)
            given = [layer.update(new[0], new[1]) for layer in (plain, mine)]
            assert all(torch.equal(a, b) for a, b in zip(*given, strict=True))
        assert plain.get_seq_length() == mine.get_seq_length()
        assert plain.get_mask_sizes(1) == mine.get_mask_sizes(1)
        if plain.is_initialized:
            assert torch.equal(plain.keys, mine.keys) and torch.equal(plain.values, mine.values)


def test_what_is_cached_moves_once_in_many_tokens() -> None:
    layer, places = Roomy(), []
    layer.update(torch.zeros(3, 2, 50, 4), torch.zeros(3, 2, 50, 4))
    for step in range(4 * ROOM):
        if step == ROOM + 5:
            layer.batch_select_indices(torch.tensor([0, 2]))  # rows that end leave without a move
        new = torch.zeros(len(layer.keys), 2, 1, 4)
        layer.update(new, new)
        places.append(layer.keys.data_ptr())
    assert 1 + sum(a != b for a, b in zip(places, places[1:], strict=False)) == 4


@contextmanager
def copying(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Generation as it was: transformers' cache, and weights unpacked in each call."""
    with monkeypatch.context() as old:
        old.setattr(generation, "roomy", lambda config: DynamicCache(config=config))
        old.setattr(unpacked, "_free", lambda: 0)
        yield


@pytest.mark.parametrize("adapted", [False, True])
def test_nothing_is_said_differently(packed: Any, adapted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    features, prompts = asked(packed)
    model: Any = attach(packed, LoraConfig(4, 8)) if adapted else None
    if adapted:
        torch.manual_seed(3)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data.normal_(std=0.1)
    try:
        for how in (Sampling(ROOM + 8), Sampling(12, 1.0, 4, seed=2)):
            with copying(monkeypatch):
                wanted = generate(packed, prompts, features, how, model)
            found = generate(packed, prompts, features, how, model)
            assert found == wanted  # tokens and log-probabilities, bit for bit
        assert len({len(c.ids) for samples in found for c in samples}) > 1  # rows have left on the way
    finally:
        if adapted:
            detach(model)


def test_each_weight_is_unpacked_once_a_generation(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit

    features, prompts = asked(packed)
    linears = [m for m in packed.model.modules() if isinstance(m, Linear4bit)]
    once, again, real, multiply = [0], [0], functional.dequantize_4bit, Linear4bit.forward

    def counted(*given: Any, **more: Any) -> Any:
        once[0] += 1
        return real(*given, **more)

    def called(module: Any, x: Any) -> Any:
        again[0] += 1
        return multiply(module, x)

    monkeypatch.setattr(functional, "dequantize_4bit", counted)
    monkeypatch.setattr(Linear4bit, "forward", called)
    generate(packed, prompts, features, Sampling(8, batch=1))
    assert (once[0], again[0]) == (len(linears), 0)
    with pytest.raises(ZeroDivisionError), unpacked.unpacked(packed.model) as done:
        assert done
        1 / 0  # noqa: B018
    assert not any("forward" in vars(m) for m in linears)  # packed again, and trainable
    monkeypatch.setattr(unpacked, "_free", lambda: 0)
    with unpacked.unpacked(packed.model) as done:
        assert not done


def test_weights_in_full_are_left_alone(loaded: Any) -> None:
    with unpacked.unpacked(loaded.model) as done:
        assert not done
