"""Checkpoints: one that is damaged is not the end of a run, another run's is refused, 8-bit states come back whole."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from audit.errors import Refused
from tests.train.test_sft import CONFIG, TALKS, KeepsAll, one, run, timeless
from train.checkpoints import Checkpoint, MemoryStore, restore, snapshot
from train.lora import LoraConfig, attach, detach
from train.optimizers import optimizer_of, pack_state, unpack_state
from train.sft import run_sft


def damaged(data: bytes, how: str) -> bytes:
    size = int.from_bytes(data[:8], "little")
    head, tensors = data[8 : 8 + size], data[8 + size :]
    return {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "header": data[:8] + b"x" * size + tensors,
        "of another kind": data[:8] + head.replace(b"cloche.checkpoint", b"cloche.something!") + tensors,
    }[how]


@pytest.mark.parametrize("how", ["empty", "cut", "header", "of another kind"])
def test_the_one_before_serves_where_the_last_is_damaged(loaded: Any, features: Any, how: str) -> None:
    kept = KeepsAll()
    whole = run(loaded, features, CONFIG, kept)
    store, told, begun = MemoryStore(), [], []
    store.save(kept.all[2])
    store.save(damaged(kept.all[3], how))
    again = run(loaded, features, CONFIG, store, tell=told.append, on_step=lambda step, _: begun.append(step))
    assert begun[0] == 3 and len(told) == 1 and "cannot be read" in told[0]
    assert again.adapter == whole.adapter and timeless(again.metrics) == timeless(whole.metrics)
    store = MemoryStore()
    for data in kept.all[:2]:
        store.save(damaged(data, how))
    begun.clear()
    assert run(loaded, features, CONFIG, store, on_step=lambda step, _: begun.append(step)).adapter == whole.adapter
    assert begun[0] == 0


def test_a_store_keeps_as_many_as_it_is_told() -> None:
    for keep in (1, 2, 3):
        store = MemoryStore(keep)
        assert store.load() is None
        for number in range(5):
            store.save(bytes([number]))
        assert [store.load(back) for back in range(4)] == [bytes([4 - k]) if k < keep else None for k in range(4)]


def test_the_checkpoint_of_another_run_is_refused(loaded: Any, features: Any) -> None:
    kept = KeepsAll()
    run(loaded, features, CONFIG, kept)
    others = (
        (TALKS[:-1], CONFIG),
        ([*TALKS[:-1], one(8, "", "Where?", "in this place")], CONFIG),
        (TALKS, replace(CONFIG, epochs=3)),
        (TALKS, replace(CONFIG, seed=1)),
        (TALKS, replace(CONFIG, learning_rate=1e-3)),
    )
    for talks, config in others:
        with pytest.raises(Refused, match="another run|other data"):
            run_sft(loaded, talks, features, config, kept)


@pytest.mark.parametrize("kind", ["adamw", "muon", "8 bits"])
def test_an_optimizer_goes_on_exactly_where_it_was(kind: str) -> None:
    """The 8-bit one is that of the GPU without its paging: its state holds bytes, tables and plain numbers."""
    import bitsandbytes
    from safetensors.torch import load, save

    def made(weights: list[torch.nn.Parameter]) -> Any:
        if kind == "8 bits":
            return bitsandbytes.optim.AdamW8bit(weights, lr=1e-2)
        return optimizer_of(weights, replace(CONFIG, optimizer=kind, weight_decay=0.1), torch.device("cpu"))  # type: ignore[arg-type]

    def steps(optimizer: Any, weights: list[torch.nn.Parameter], some: range) -> None:
        for step in some:
            generator = torch.Generator().manual_seed(step)
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()

    def fresh() -> list[torch.nn.Parameter]:
        torch.manual_seed(0)
        return [torch.nn.Parameter(torch.randn(96, 64)), torch.nn.Parameter(torch.randn(8, 4))]

    whole = fresh()
    one_ = made(whole)
    steps(one_, whole, range(3))
    data = save(pack_state(one_, "o."))
    half = [torch.nn.Parameter(w.detach().clone()) for w in whole]
    steps(one_, whole, range(3, 6))
    other = made(half)
    unpack_state(other, load(data), "o.")
    if kind == "8 bits":
        assert other.state[half[0]]["state1"].dtype == torch.uint8 and other.state[half[0]]["step"] == 3
    steps(other, half, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, half, strict=True))


def test_the_checkpoint_of_a_gpu_is_refused_on_a_cpu_and_the_other_way_round(loaded: Any) -> None:
    import bitsandbytes

    model = attach(loaded, LoraConfig(2, 4))
    try:
        weights = [p for p in model.parameters() if p.requires_grad]
        on_cpu = optimizer_of(weights, CONFIG, torch.device("cpu"))
        on_gpu = bitsandbytes.optim.PagedAdamW8bit(weights)
        for wrote, here, said in ((on_gpu, on_cpu, "with a GPU"), (on_cpu, on_gpu, "without a GPU")):
            store = MemoryStore()
            store.save(snapshot(Checkpoint(1, ()), model, wrote))
            before = [w.detach().clone() for w in weights]
            with pytest.raises(Refused, match=type(wrote).__name__) as caught:
                restore(store, model, here)
            assert said in caught.value.hint and "--seed" in caught.value.hint
            assert all(map(torch.equal, before, weights)) and not here.state
            assert restore(store, model, wrote).step == 1
    finally:
        detach(model)


def test_decay_and_norm_are_those_of_the_settings(loaded: Any, features: Any) -> None:
    plain, decayed, clipped = (
        run(loaded, features, replace(CONFIG, **more)) for more in ({}, {"weight_decay": 0.5}, {"max_grad_norm": 1e-9})
    )
    assert len({plain.adapter, decayed.adapter, clipped.adapter}) == 3
    assert plain.metrics[0]["grad_norm"] == clipped.metrics[0]["grad_norm"] > 1e-9  # of the gradient before


@pytest.mark.gpu
def test_the_paged_optimizer_goes_on_exactly_where_it_was() -> None:
    weights = [torch.nn.Parameter(torch.randn(96, 64, device="cuda"))]
    optimizer = optimizer_of(weights, CONFIG, torch.device("cuda"))
    weights[0].grad = torch.ones_like(weights[0])
    optimizer.step()
    half = [torch.nn.Parameter(weights[0].detach().clone())]
    other = optimizer_of(half, CONFIG, torch.device("cuda"))
    unpack_state(other, pack_state(optimizer))
    for one_, some in ((optimizer, weights), (other, half)):
        some[0].grad = torch.ones_like(some[0])
        one_.step()
    assert torch.equal(weights[0], half[0])
