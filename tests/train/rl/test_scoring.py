"""Scoring in tiles: against the whole log-softmax, its gradients, and a transform that the head knows exactly."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.rl.divergence import divergences
from train.rl.domain import Transform
from train.rl.scoring import Other, scored

SIZE, WIDTH = 23, 7


def head_of(weight: torch.Tensor) -> torch.nn.Linear:
    head = torch.nn.Linear(WIDTH, SIZE, bias=False)
    head.weight.data = weight
    return head.requires_grad_(False)


def swapping(permutation: np.ndarray) -> Transform:
    plain = np.zeros(len(permutation), bool)
    return Transform(SimpleNamespace(kind=None), permutation, plain, plain, None)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 12), st.integers(1, 13), st.booleans())
def test_tiles_of_any_size_say_what_the_whole_says(seed: int, count: int, tile: int, turned: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    head = head_of(torch.randn(SIZE, WIDTH, generator=draw))
    states, others = torch.randn(2, count, WIDTH, generator=draw)
    targets = torch.randint(SIZE, (count,), generator=draw)
    temperatures = 0.5 + torch.rand(count, generator=draw)
    order = np.arange(SIZE)
    order[[3, 5]] = 5, 3
    other = Other(others, swapping(order), np.zeros(count, np.int64)) if turned else None
    a, b = torch.randn(2, count, generator=draw)

    mine = states.clone().requires_grad_()
    found = scored(head, mine, targets, temperatures, other, tile)
    (a @ found.logprobs + b @ found.kl).backward()
    plain = states.clone().requires_grad_()
    logits = head(plain) / temperatures[:, None]
    logprobs = torch.log_softmax(logits, -1)
    loss = a @ logprobs.gather(1, targets[:, None])[:, 0]
    if turned:
        kl, js = divergences(logits, head(others)[:, torch.from_numpy(order)] / temperatures[:, None])
        loss = loss + b @ kl
        torch.testing.assert_close(found.kl, kl, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.js, js, rtol=1e-5, atol=1e-6)
    else:
        assert not found.kl.any() and not found.js.any()
    loss.backward()
    torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.entropy, -(logprobs.exp() * logprobs).sum(-1).detach(), rtol=1e-5, atol=1e-6)
    assert not found.entropy.requires_grad and not found.js.requires_grad


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20))
def test_a_head_that_knows_its_mirror_image_agrees_with_it(seed: int) -> None:
    """Left is said of a state as right is of its mirror image, and not as left: only read back, they agree."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.arange(SIZE)
    order[torch.tensor([2, 9, 4, 11])] = torch.tensor([9, 2, 11, 4])
    axis = torch.nn.functional.normalize(torch.randn(WIDTH, generator=draw), dim=0)
    mirror = torch.eye(WIDTH) - 2 * torch.outer(axis, axis)  # its own inverse
    any_weight = torch.randn(SIZE, WIDTH, generator=draw)
    head = head_of((any_weight + any_weight[order] @ mirror) / 2)
    states = torch.randn(9, WIDTH, generator=draw)
    targets, warm = torch.zeros(9, dtype=torch.long), torch.ones(9)
    before = np.zeros(9, np.int64)
    read = scored(head, states, targets, warm, Other(states @ mirror, swapping(order.numpy()), before))
    assert float(read.js.max()) < 1e-5 and float(read.kl.max()) < 1e-5
    unread = scored(head, states, targets, warm, Other(states @ mirror, swapping(np.arange(SIZE)), before))
    assert float(unread.js.max()) > 100 * float(read.js.max())


def test_a_head_that_learns_is_refused() -> None:
    head: Any = torch.nn.Linear(WIDTH, SIZE)
    with pytest.raises(ValueError, match="frozen head"):
        scored(head, torch.zeros(1, WIDTH), torch.zeros(1, dtype=torch.long), torch.ones(1))
