"""The tiled loss: the plain one to the last digits, and never the logits of all tokens at once."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train.data.rows import collate
from train.loss import HELD, answer_loss, tile_of, token_weights
from train.models.forward import hidden_states, learned_logits
from train.sft import rows_of

N, D, V = 37, 24, 311


def plain(head: nn.Linear, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (F.cross_entropy(head(states).float(), targets, reduction="none") * weights).sum()


def parts(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(N, D, generator=generator)
    return states, torch.randint(V, (N,), generator=generator), torch.rand(N, generator=generator)


@dataclass
class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made."""

    most: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(t.numel() for t in tree_leaves(found) if torch.is_tensor(t))])
        return found


@pytest.mark.parametrize("tile", [1, 5, N - 1, N, N + 1, 0])
@pytest.mark.parametrize("learned_head", [False, True])
def test_loss_and_gradients_are_the_plain_ones(tile: int, learned_head: bool) -> None:
    states, targets, weights = parts()
    torch.manual_seed(0)
    head = nn.Linear(D, V, bias=True).requires_grad_(learned_head)
    found = {}
    for name in ("plain", "tiled"):
        given = states.clone().requires_grad_()
        head.zero_grad()
        if name == "plain":
            loss = plain(head, given, targets, weights)
        else:
            loss, each = answer_loss(head, given, targets, weights, tile)
            assert not each.requires_grad and float((each * weights).sum()) == pytest.approx(
                float(loss.detach()), rel=1e-6
            )
        (3.0 * loss).backward()
        of_head = [p.grad.clone() for p in head.parameters()] if learned_head else []
        found[name] = (loss.detach(), given.grad, *of_head)
    assert len(found["plain"]) == (4 if learned_head else 2)
    for a, b in zip(found["plain"], found["tiled"], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6 * max(1.0, float(a.abs().max())))


def test_autograd_agrees_with_finite_differences() -> None:
    head = nn.Linear(3, 7).double()
    states = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.arange(5), torch.rand(5, dtype=torch.float64)
    with torch.no_grad():  # fp32 inside: compared by the plain loss in fp64
        wanted = plain(head, states, targets, weights)
    loss, _ = answer_loss(head, states, targets, weights, 2)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, states)
    step = 1e-5
    for place in ((0, 0), (4, 2)):
        moved = states.detach().clone()
        moved[place] += step
        slope = (F.cross_entropy(head(moved), targets, reduction="none") * weights).sum()
        there = (F.cross_entropy(head(states), targets, reduction="none") * weights).sum()
        assert float(gradient[place]) == pytest.approx(float(slope - there) / step, rel=1e-3)


@pytest.mark.parametrize("tile", [1, 4, 16])
def test_no_more_than_a_tile_of_logits_is_ever_held(tile: int) -> None:
    """Counted over every tensor that any operation makes, forward and backward."""
    states, targets, weights = parts()
    head = nn.Linear(D, V, bias=False).requires_grad_(False)
    for given in (states.requires_grad_(), states.detach()):
        with Largest() as seen:
            loss, _ = answer_loss(head, given, targets, weights, tile)
            if given.requires_grad:
                loss.backward()
        assert seen.most <= max(tile * V, N * D, D * V) < N * V
        assert seen.most >= tile * V
    with Largest() as seen:
        plain(head, states.detach(), targets, weights)
    assert seen.most == N * V


def test_the_head_sees_each_learned_token_once() -> None:
    states, targets, weights = parts()
    head = nn.Linear(D, V)
    sizes: list[int] = []
    head.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    loss, _ = answer_loss(head, states.requires_grad_(), targets, weights, 8)
    loss.backward()
    assert sizes == [8, 8, 8, 8, 5]


def test_a_tile_of_its_own_choice_fits_memory() -> None:
    for vocabulary in (512, 32_000, 151_936, 1 << 30):
        assert tile_of(vocabulary) == 1 or tile_of(vocabulary) * vocabulary <= HELD
    assert tile_of(151_936) >= 256 and tile_of(512, 3) == 3


def test_nothing_learned_is_a_loss_of_zero() -> None:
    head = nn.Linear(D, V)
    empty = torch.zeros(0, D, requires_grad=True)
    for given in (empty, empty.detach()):
        loss, each = answer_loss(head, given, torch.zeros(0, dtype=torch.long), torch.zeros(0))
        assert float(loss) == 0.0 and each.shape == (0,)


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
@pytest.mark.parametrize("power", [0.25, 1.0])
def test_a_tied_head_learns_as_without_tiles(tiny_model: Any, features: Any, precision: Any, power: float) -> None:
    """The tiny model's head is its embedding: both gradients meet in one weight."""
    from tests.train.test_sft import TALKS
    from train.lora import LoraConfig, attach
    from train.models.features import Features
    from train.models.loading import load

    opened = load(tiny_model, precision, "cpu")
    model = attach(opened, LoraConfig(4, 8))
    inner = opened.model
    assert inner.lm_head.weight is inner.get_input_embeddings().weight
    inner.lm_head.weight.requires_grad_(True)
    seen = Features(opened, features.image)
    batch = collate([row for row, _ in rows_of(opened, TALKS, seen)], opened.tokenizer.pad_token_id)
    weights = token_weights(batch, power, 7.0)
    counts = [int((batch.owners == owner).sum()) for owner in batch.owners.tolist()]
    torch.testing.assert_close(weights, torch.tensor([n ** (power - 1) / 7 for n in counts]))
    found = []
    for tile in (None, 3):
        model.zero_grad()
        visual = seen.stack(batch.images)
        if tile is None:
            logits = learned_logits(opened.family, model, batch, visual)
            loss = (F.cross_entropy(logits, batch.targets, reduction="none") * weights).sum()
        else:
            states = hidden_states(opened.family, model, batch, visual)[batch.sources]
            loss, _ = answer_loss(inner.lm_head, states, batch.targets, weights, tile)
        loss.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), grads))
    (one, first), (two, second) = found
    torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-6)
    assert first.keys() == second.keys() and len(first) == 2 * 7 * 2 + 1
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
