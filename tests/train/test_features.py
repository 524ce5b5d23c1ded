"""Features once: the tower runs once an image, and what is kept is what it said, bit for bit."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.train.conftest import picture
from train.models.family import Grid, Visual
from train.models.features import Features, features_key, packed, unpacked

NAMES = ["1:64:48", "2:128:128", "3:16:96"]
TYPES = (torch.float32, torch.bfloat16, torch.float16)


class Shelf:
    """A store in memory."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def wants(self, image_id: str) -> bool:
        return image_id not in self.held

    def get(self, image_id: str) -> bytes | None:
        return self.held.get(image_id)

    def put(self, image_id: str, data: bytes) -> None:
        self.held[image_id] = data


@contextmanager
def towers(loaded: Any) -> Iterator[list[int]]:
    """Counts the forward passes of the vision tower."""
    calls: list[int] = []
    hook = loaded.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        hook.remove()


def opened(name: str) -> Any:
    return picture(*map(int, name.split(":")))


def same(one: Visual, other: Visual) -> bool:
    """Bit for bit: NaN equals NaN, 0.0 is not -0.0."""
    lists = (one.tokens,), (other.tokens,), one.deep, other.deep, one.cross, other.cross
    for mine, theirs in zip(lists[::2], lists[1::2], strict=True):
        if len(mine) != len(theirs):
            return False
        for a, b in zip(mine, theirs, strict=True):
            bits = torch.int32 if a.element_size() == 4 else torch.int16
            if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(a.view(bits), b.view(bits)):
                return False
    return True


@st.composite
def visuals(draw: st.DrawFn) -> tuple[Visual, Grid]:
    dtype = draw(st.sampled_from(TYPES))
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    limit = 2 ** (8 * torch.empty(0, dtype=bits).element_size() - 1)
    width, generator = draw(st.integers(1, 5)), torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def tensor(rows: int) -> torch.Tensor:
        return torch.randint(-limit, limit, (rows, width), generator=generator, dtype=torch.int64).to(bits).view(dtype)

    count = draw(st.integers(0, 6))
    deep = tuple(tensor(count) for _ in range(draw(st.integers(0, 11))))
    cross = tuple(tensor(draw(st.integers(0, 4))) for _ in range(draw(st.integers(0, 3))))
    return Visual(tensor(count), deep, cross), (draw(st.integers(0, 9999)), draw(st.integers(0, 9999)))


@given(visuals(), st.text(max_size=20))
def test_what_was_packed_comes_back(made: tuple[Visual, Grid], about: str) -> None:
    visual, grid = made
    found, found_grid = unpacked(packed(visual, grid, about), about)
    assert found_grid == grid and same(found, visual)


@given(visuals(), st.data())
def test_bytes_that_are_cut_short_or_of_something_else_are_no_features(
    made: tuple[Visual, Grid], data: st.DataObject
) -> None:
    whole = packed(*made, "one")
    with pytest.raises(ValueError, match="no features"):
        unpacked(whole[: data.draw(st.integers(0, len(whole) - 1))], "one")
    with pytest.raises(ValueError, match="no features"):
        unpacked(whole, "other")


@given(st.binary(max_size=200))
def test_any_other_bytes_are_no_features(data: bytes) -> None:
    with pytest.raises(ValueError, match="no features"):
        unpacked(data)
    framed = len(data).to_bytes(8, "little") + data
    with pytest.raises(ValueError, match="no features"):
        unpacked(framed)


def test_a_part_of_a_larger_tensor_is_kept_alone() -> None:
    whole = torch.arange(60.0).reshape(6, 10)
    visual = Visual(whole[:2], (whole[2:4], whole[4:6]), (whole.T,))
    found, _ = unpacked(packed(visual, (1, 2)))
    assert same(found, Visual(*(visual.tokens, visual.deep, (whole.T.contiguous(),))))


def test_the_tower_runs_once_an_image_and_not_at_all_for_its_grid(loaded: Any) -> None:
    features = Features(loaded, opened)
    with towers(loaded) as calls:
        grids = [features.grid(n) for n in NAMES]
        assert not calls
        for _ in range(3):
            features.stack(NAMES)
        assert len(calls) == len(NAMES) == features.computed
    for name, grid in zip(NAMES, grids, strict=True):
        assert len(features.of(name).tokens) == loaded.family.visual_tokens(grid)


def test_memory_stays_within_its_budget_and_the_one_used_last_stays(loaded: Any) -> None:
    features = Features(loaded, opened, budget_mb=0)
    with towers(loaded) as calls:
        features.of(NAMES[0])
        features.of(NAMES[0])
        assert len(calls) == 1  # the newest is kept however small the budget is
        features.stack(NAMES)
        features.of(NAMES[0])
        assert len(calls) == 4
    assert list(features.kept) == [NAMES[0]] and features.held == features.of(NAMES[0]).nbytes
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in features.of(NAMES[0]).tensors)


def test_the_store_stands_in_for_the_tower_bit_for_bit(loaded: Any) -> None:
    shelf, plain = Shelf(), Features(loaded, opened)
    first = Features(loaded, opened, store=shelf)
    for name in NAMES:
        assert same(first.of(name), plain.of(name))
    assert set(shelf.held) == set(NAMES)
    with towers(loaded) as calls:
        again = Features(loaded, opened, budget_mb=0, store=shelf)
        for name in (*NAMES, *NAMES):
            assert same(again.of(name), plain.of(name)) and again.grid(name) == plain.grid(name)
        assert not calls and again.fetched == 2 * len(NAMES) and again.computed == 0


def test_broken_or_swapped_features_are_computed_again(loaded: Any) -> None:
    shelf, plain = Shelf(), Features(loaded, opened)
    Features(loaded, opened, store=shelf).stack(NAMES)
    shelf.held[NAMES[0]] = shelf.held[NAMES[0]][:-1]
    shelf.held[NAMES[1]] = shelf.held[NAMES[2]]
    again = Features(loaded, opened, store=shelf)
    assert all(same(again.of(name), plain.of(name)) for name in NAMES)
    assert (again.computed, again.fetched) == (2, 1)


def test_the_key_is_that_of_files_budget_and_precision(loaded: Any) -> None:
    smaller = replace(loaded, family=replace(loaded.family, max_pixels=64 * 64))
    keys = {features_key(one) for one in (loaded, smaller, replace(loaded, digest="0" * 64))}
    assert len(keys) == 3 and features_key(replace(loaded, precision="nf4")) in keys  # the tower is not in 4 bits
    shelf = Shelf()
    Features(loaded, opened, store=shelf).stack(NAMES)
    with towers(loaded) as calls:
        Features(smaller, opened, store=shelf).stack(NAMES)
        assert len(calls) == len(NAMES)


def test_a_tower_with_dropout_says_the_same_in_the_middle_of_training(loaded: Any) -> None:
    model = copy.deepcopy(loaded.model)
    model.model.visual.merger.mlp[1] = torch.nn.Sequential(torch.nn.GELU(), torch.nn.Dropout(0.5))
    one = replace(loaded, model=model)
    said = [Features(one, lambda name: picture(int(name))).of("1") for model in (model.train(), model.eval())]
    assert torch.equal(said[0].tokens, said[1].tokens)
