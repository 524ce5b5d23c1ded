"""A step under bad luck: memory that runs out, numbers that are none, long rows; and what makes it lean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from audit.errors import BadInput, EnvironmentProblem
from tests.train.test_sft import CONFIG, TALKS, KeepsAll, one, run, timeless
from train.checkpoints import MemoryStore
from train.lora import LoraConfig, attach, unpack
from train.memory import out_of_memory
from train.models.features import Features
from train.noise import noisy
from train.recompute import LARGE, recomputes
from train.sft import rows_of, run_sft
from train.step import Learner

ALL = replace(CONFIG, epochs=1, rows_per_step=5, micro_rows=5)


@contextmanager
def watched(loaded: Any, see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """While this lasts, `see` is given the tokens (B, T) of every forward pass in training mode."""
    embedding = loaded.model.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(lambda _, args: see(args[0]) if loaded.model.training else None)
    try:
        yield
    finally:
        hook.remove()


def no_more_than(rows: int) -> Callable[[torch.Tensor], None]:
    """Memory for so many rows: more make torch ask for what no machine has."""

    def see(ids: torch.Tensor) -> None:
        if len(ids) > rows:
            torch.empty(1 << 60, dtype=torch.uint8)

    return see


def test_torch_runs_out_of_memory_in_words_that_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shapes do not match")) and not out_of_memory(ValueError("memory"))


@pytest.mark.parametrize(("fits", "left"), [(2, 2), (1, 1), (4, 3)])
def test_less_memory_means_fewer_rows_at_a_time_and_the_same_gradients(
    loaded: Any, features: Any, fits: int, left: int
) -> None:
    model = attach(loaded, CONFIG.lora)
    told: list[str] = []
    samples = rows_of(loaded, TALKS, features)
    wanted = Learner(loaded, model, features, replace(ALL, micro_rows=left), told.append)
    before = wanted.gradients(samples, 3)
    gradients = [p.grad.clone() for p in wanted.weights]
    wanted.forget()
    learner = Learner(loaded, model, features, ALL, told.append)
    with watched(loaded, no_more_than(fits)):
        after = learner.gradients(samples, 3)
    assert after == before and learner.fitting.rows == left
    assert all(torch.equal(p.grad, g) for p, g in zip(learner.weights, gradients, strict=True))
    assert told and all("memory ran out" in what and "same global batch" in what for what in told)
    model.unload()


def test_memory_that_runs_out_is_found_before_the_first_step_and_stays_known(loaded: Any, features: Any) -> None:
    told: list[str] = []
    begun: list[int] = []
    kept = KeepsAll()
    config = replace(CONFIG, epochs=3, rows_per_step=4, micro_rows=4, seed=2)
    with watched(loaded, no_more_than(2)):
        first = run(loaded, features, config, kept, tell=lambda what: (told.append(what), begun.append(-1)),
                    on_step=lambda step, _: begun.append(step))  # fmt: skip
    assert begun == [-1, 0, 1, 2, 3, 4, 5] and len(told) == 1 and {m["micro_rows"] for m in first.metrics} == {2}
    store = MemoryStore()
    store.save(kept.all[0])
    again = run(loaded, features, config, store)  # with room enough: it still sums in the same order
    assert again.adapter == first.adapter and timeless(again.metrics) == timeless(first.metrics)


def test_one_row_that_does_not_fit_says_what_to_lower(loaded: Any, features: Any) -> None:
    begun: list[int] = []
    with watched(loaded, no_more_than(0)), pytest.raises(EnvironmentProblem, match="single row") as caught:
        run(loaded, features, ALL, on_step=lambda step, _: begun.append(step))
    assert "--max-visual-tokens" in caught.value.hint and len(begun) <= 1
    assert not any("lora" in name for name, _ in loaded.model.named_modules())


def test_another_error_is_not_taken_for_memory(loaded: Any, features: Any) -> None:
    def fails(_: torch.Tensor) -> None:
        raise RuntimeError("shapes do not match")

    with watched(loaded, fails), pytest.raises(RuntimeError, match="shapes"):
        run(loaded, features, ALL)


def test_the_longest_batch_comes_first_and_is_no_step(loaded: Any, features: Any) -> None:
    shapes: list[tuple[int, ...]] = []
    config = replace(CONFIG, epochs=2, rows_per_step=2, micro_rows=2)
    rehearsed = 0
    for seed in range(6):
        shapes.clear()
        with watched(loaded, lambda ids: shapes.append(tuple(ids.shape))):
            trained = run(loaded, features, replace(config, seed=seed))
        assert shapes[0][0] * shapes[0][1] == max(b * t for b, t in shapes)
        if len(shapes) > len(trained.metrics):  # else the first step is as large as any
            rehearsed += 1
            assert len(shapes) == 7 and shapes[0] in shapes[1:]
    assert 0 < rehearsed < 6


BAD = one(90, "7:32:32", "Where?", "in this slice")


class Poisoned(Features):
    """Features of which one image's are not numbers, as of a broken tower."""

    bad = "7:32:32"

    def of(self, image_id: str) -> Any:
        found = super().of(image_id)
        return replace(found, tokens=found.tokens * float("nan")) if image_id == self.bad else found


def test_a_batch_that_is_no_number_is_skipped_and_its_record_named(loaded: Any, features: Any) -> None:
    told: list[str] = []
    poisoned = Poisoned(loaded, features.image)
    config = replace(CONFIG, epochs=3)
    kept = KeepsAll()
    trained = run_sft(loaded, [*TALKS, BAD], poisoned, config, kept, tell=told.append)
    assert sum(m["skipped"] for m in trained.metrics) == 3 and len(trained.metrics) == 9
    assert trained.skipped == ("r7:32:32",) and len(told) == 3
    assert all("r7:32:32" in what and "slice" not in what.replace("7:32:32", "") for what in told)
    for row in trained.metrics:
        assert ("loss" in row) == ("grad_norm" in row) == (not row["skipped"])
        assert all(value == value for value in row.values())
    assert all(bool(torch.isfinite(t).all()) for t in unpack(trained.adapter)[0].values())
    store = MemoryStore()
    store.save(kept.all[4])
    again = run_sft(loaded, [*TALKS, BAD], poisoned, config, store, tell=told.append)
    assert (again.adapter, again.skipped) == (trained.adapter, trained.skipped)


def test_a_skipped_step_changes_nothing(loaded: Any, features: Any) -> None:
    model = attach(loaded, CONFIG.lora)
    learner = Learner(loaded, model, Poisoned(loaded, features.image), CONFIG, lambda what: None)
    good, bad = rows_of(loaded, TALKS[:2], features), rows_of(loaded, [BAD], features)
    assert learner.step(good, 0, 1e-3)["skipped"] == 0
    weights = [p.detach().clone() for p in learner.weights]
    moments = [s["exp_avg"].clone() for s in learner.optimizer.state.values()]
    assert learner.step([*good, *bad], 1, 1e-3)["skipped"] == 1
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(learner.weights, weights, strict=True))
    found = (s["exp_avg"] for s in learner.optimizer.state.values())
    assert all(torch.equal(a, b) for a, b in zip(found, moments, strict=True))
    model.unload()


def test_too_many_bad_steps_in_a_row_stop_the_run(loaded: Any, features: Any) -> None:
    poisoned = Poisoned(loaded, features.image)
    config = replace(CONFIG, epochs=9, max_bad_steps=3, rows_per_step=1)
    with pytest.raises(BadInput, match="3 steps one after the other") as caught:
        run_sft(loaded, [BAD], poisoned, config, MemoryStore())
    assert "r7:32:32" in caught.value.what and "slice" not in caught.value.what
    assert "step 2" in caught.value.where and "--learning-rate" in caught.value.hint
    mixed = run_sft(loaded, [*TALKS, BAD], poisoned, replace(config, max_bad_steps=3, rows_per_step=2), MemoryStore())
    assert (
        sum(m["skipped"] for m in mixed.metrics) == 9
    )  # two follow each other at most: a good step begins the count anew


def test_the_count_of_bad_steps_goes_on_after_a_kill(loaded: Any, features: Any) -> None:
    poisoned, kept = Poisoned(loaded, features.image), KeepsAll()
    config = replace(CONFIG, epochs=9, max_bad_steps=4, rows_per_step=1)
    with pytest.raises(BadInput, match="4 steps"):
        run_sft(loaded, [BAD], poisoned, config, kept)
    begun: list[int] = []
    with pytest.raises(BadInput, match="4 steps"):
        run_sft(loaded, [BAD], poisoned, config, kept, on_step=lambda step, _: begun.append(step))
    assert begun == [3]


def test_conversations_without_anything_to_learn_are_counted(loaded: Any, features: Any) -> None:
    told: list[str] = []
    mute = [one(70 + k, "1:32:32", "What?", "left", learned=False) for k in range(3)]
    trained = run_sft(loaded, [*TALKS, *mute], features, ALL, MemoryStore(), tell=told.append)
    assert told == [f"3 of {len(TALKS) + 3} conversations have nothing to learn and are left out"]
    assert trained.metrics[0]["tokens"] == run(loaded, features, ALL).metrics[0]["tokens"]
    told.clear()
    endless = one(80, "1:32:32", "What? " * 3000, "left")
    rows_of(loaded, [*TALKS, endless], features, told.append)
    assert told == [f"1 of {len(TALKS) + 1} conversations are longer than the model's 2048 tokens and are left out"]


def test_metrics_tell_what_a_step_did(loaded: Any, features: Any) -> None:
    row = run(loaded, features, ALL).metrics[0]
    samples = [r for r, _ in rows_of(loaded, TALKS, features)]
    assert row["all_tokens"] == sum(len(r.ids) for r in samples) and row["tokens"] == sum(
        r.learned.sum() for r in samples
    )
    assert row["tokens_per_second"] == pytest.approx(row["all_tokens"] / row["seconds"])
    assert row["grad_norm"] > 0 and row["peak_mb"] > 50 and row["skipped"] == 0 and row["rate"] == 5e-3


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_recomputed_layers_give_the_same_gradients(tiny_model: Any, features: Any, precision: Any) -> None:
    """Through PEFT and frozen embeddings, dropout included; the layers do run a second time."""
    from train.models.loading import load
    from train.recompute import recomputing

    opened = load(tiny_model, precision, "cpu")
    seen = Features(opened, features.image)
    model = attach(opened, LoraConfig(4, 8, 0.1))
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.requires_grad):
            weight.normal_(std=0.05, generator=torch.Generator().manual_seed(weight.numel()))
    learner = Learner(opened, model, seen, replace(ALL, micro_rows=3), lambda what: None)
    samples = rows_of(opened, TALKS, seen)
    runs: list[int] = []
    layer = opened.model.get_submodule(opened.family.language).layers[0].input_layernorm
    layer.register_forward_hook(lambda *_: runs.append(1))
    found = {}
    for when in ("off", "on"):
        runs.clear()
        with recomputing(opened, when) as chosen:
            assert chosen == (when == "on")
            loss = learner.gradients(samples, 3)
        found[when] = (loss, [p.grad.clone() for p in learner.weights], len(runs))
        learner.forget()
    assert found["on"][0] == found["off"][0] and found["on"][2] == 2 * found["off"][2] == 4
    for a, b in zip(found["on"][1], found["off"][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in opened.model.modules())


def test_layers_are_recomputed_where_memory_is_short() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert recomputes("auto", gpu, LARGE + 1) and recomputes("on", cpu, 1)
    assert not recomputes("auto", gpu, LARGE) and not recomputes("auto", cpu, 10 * LARGE)
    assert not recomputes("off", gpu, 10 * LARGE)


def test_noise_is_that_of_the_paper(loaded: Any) -> None:
    embedding = loaded.model.get_input_embeddings()
    ids = torch.arange(40).reshape(2, 20)
    segments = torch.tensor([[0] * 20, [0] * 5 + [-1] * 15])
    plain = embedding(ids)

    def noise(names: list[str], alpha: float = 5.0) -> torch.Tensor:
        with noisy(loaded.model, segments, alpha, names):
            return embedding(ids) - plain

    found = noise(["a", "b"])
    assert not found[1, 5:].any() and torch.equal(embedding(ids), plain) and not noise(["a", "b"], 0.0).any()
    for row, length in ((0, 20), (1, 5)):
        bound = 5.0 / (length * plain.shape[-1]) ** 0.5
        drawn = found[row, :length]
        assert 0.98 * bound < float(drawn.abs().max()) <= bound * 1.001
        assert float(drawn.pow(2).mean()) == pytest.approx(bound**2 / 3, rel=0.06)  # uniform
        assert abs(float(drawn.mean())) < 0.06 * bound
    assert torch.equal(noise(["a", "b"]), found) and not torch.equal(noise(["c", "b"])[0], found[0])
    assert torch.equal(noise(["b", "b"])[1], found[1])


def test_noise_is_in_training_alone_and_the_same_for_any_micro_batch(loaded: Any, features: Any) -> None:
    model = attach(loaded, CONFIG.lora)
    samples = rows_of(loaded, TALKS, features)
    losses = {}
    for alpha, rows in ((0.0, 5), (9.0, 5), (9.0, 1)):
        learner = Learner(loaded, model, features, replace(ALL, neftune=alpha, micro_rows=rows), lambda what: None)
        losses[alpha, rows] = learner.gradients(samples, 3).loss
        learner.forget()
    assert losses[9.0, 5] == pytest.approx(losses[9.0, 1], rel=1e-5)
    assert abs(losses[9.0, 5] - losses[0.0, 5]) > 1e-4
    model.unload()
    kept = KeepsAll()
    whole = run(loaded, features, replace(CONFIG, neftune=5.0), kept)
    store = MemoryStore()
    store.save(kept.all[2])
    assert run(loaded, features, replace(CONFIG, neftune=5.0), store).adapter == whole.adapter
    assert run(loaded, features, CONFIG).adapter != whole.adapter
