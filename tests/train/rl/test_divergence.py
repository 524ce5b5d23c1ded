"""KL and JS: against fp64 written out, within their bounds, stable at the edge, and light on memory."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from train.rl.divergence import divergences

ROW = st.lists(st.floats(-60, 60, width=32), min_size=5, max_size=5)
EXTREME = st.lists(
    st.floats(allow_nan=False, allow_infinity=False, width=32) | st.sampled_from([-math.inf, 0.0, 1e4, -1e4]),
    min_size=5,
    max_size=5,
).filter(lambda row: max(row) > -math.inf)


def by_hand(logits: torch.Tensor, transformed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    p, d = logits.double().softmax(-1), transformed.double().softmax(-1)
    m = (p + d) / 2

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.where(a > 0, a * (a / b).log(), 0.0).sum(-1)

    return kl(d, p), (kl(p, m) + kl(d, m)) / 2 / math.log(2)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(ROW, ROW), min_size=1, max_size=4), st.integers(1, 30))
def test_they_are_those_of_the_formula_in_tiles_of_any_size(pairs: Any, tile: int) -> None:
    logits, transformed = (torch.tensor([pair[k] for pair in pairs]) for k in (0, 1))
    kl, js = divergences(logits, transformed, tile)
    wanted = by_hand(logits, transformed)
    assert torch.allclose(kl.double(), wanted[0], rtol=1e-4, atol=2e-5)
    assert torch.allclose(js.double(), wanted[1], rtol=1e-4, atol=1e-6)
    other, back = divergences(transformed, logits, tile)
    assert torch.allclose(js, back, atol=1e-6)
    assert bool((kl >= 0).all()) and bool((other >= 0).all())


@settings(max_examples=300, deadline=None)
@given(EXTREME, EXTREME)
def test_extreme_logits_stay_finite_and_bounded(one: list[float], other: list[float]) -> None:
    logits = torch.tensor([one], requires_grad=True)
    kl, js = divergences(logits, torch.tensor([other]))
    kl.sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(kl) & torch.isfinite(js)) and bool(torch.isfinite(logits.grad).all())
    assert float(kl) >= 0 and 0 <= float(js) <= 1
    same, none = divergences(torch.tensor([one]), torch.tensor([one]))
    assert float(same) == 0 and float(none) == pytest.approx(0, abs=1e-6)


def test_two_certain_opposites_are_one_bit_apart() -> None:
    kl, js = divergences(torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]]))
    assert float(kl) == pytest.approx(200.0) and float(js) == 1.0


def test_the_gradient_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    logits, transformed, weight = torch.randn(7, 11), torch.randn(7, 11), torch.randn(7)
    for tile in (1, 25, 1 << 20):
        ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        given_ = transformed.clone().requires_grad_()
        kl, js = divergences(ours, given_, tile)
        (kl * weight).sum().backward()
        log_d = F.log_softmax(transformed, -1)
        ((log_d.exp() * (log_d - F.log_softmax(plain, -1))).sum(-1) * weight).sum().backward()
        assert torch.allclose(ours.grad, plain.grad, atol=1e-6)
        assert not js.requires_grad and given_.grad is None


def test_only_the_logits_are_kept_for_the_backward_pass() -> None:
    kept: list[int] = []
    logits, transformed = torch.randn(64, 100, requires_grad=True), torch.randn(64, 100)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        divergences(logits, transformed, 500)
    assert set(kept) == {logits.data_ptr(), transformed.data_ptr()}


def test_sixteen_bits_are_reckoned_in_fp32_and_no_token_is_no_trouble() -> None:
    logits = torch.randn(3, 9).bfloat16().requires_grad_()
    kl, js = divergences(logits, torch.randn(3, 9).bfloat16())
    assert kl.dtype == js.dtype == torch.float32
    kl.sum().backward()
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16
    kl, js = divergences(torch.randn(0, 9), torch.randn(0, 9))
    assert kl.shape == js.shape == (0,)
