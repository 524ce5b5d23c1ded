"""The held-out part: measured and never learned, its decisions the same after any interruption."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from audit.conversation import Conversation, Turn
from tests.train.test_sft import CONFIG, TALKS, KeepsAll, loss_alone, one, timeless
from train.checkpoints import MemoryStore
from train.data.mix import divided
from train.heldout import Watch
from train.lora import attach, detach, unpack
from train.models.generation import Sampling, generate, text_of
from train.probe import Asked, exact_matches, questions_of
from train.rl.rewards import words
from train.sft import Trained, run_sft

HELD = replace(CONFIG, epochs=8, held_out=0.4, evaluate_every=2, probe_every=5, learning_rate=2e-2)


def run(loaded: Any, features: Any, config: Any = HELD, store: MemoryStore | None = None, **more: Any) -> Trained:
    return run_sft(loaded, TALKS, features, config, store or MemoryStore(), **more)


def test_the_held_out_part_is_measured_and_never_learned(loaded: Any, features: Any) -> None:
    learned, held = divided(TALKS, 0.4, HELD.seed)
    used: set[str] = set()
    trained = run(loaded, features, replace(HELD, patience=100), on_step=lambda _, records: used.update(records))
    assert used == {t.record for t in learned} and not used & {t.record for t in held}
    measured = {int(m["step"]): m["held_loss"] for m in trained.metrics if "held_loss" in m}
    last = len(trained.metrics) - 1
    assert sorted(measured) == sorted({*range(1, last, 2), last})
    assert {m["step"] for m in trained.metrics if "held_exact" in m} == {*range(4, last, 5), last}
    assert trained.best_step == min(measured, key=lambda step: measured[step]) < last
    model = attach(loaded, CONFIG.lora, trained.adapter)
    scores = [loss_alone(loaded, model, features, talk) for talk in held]
    detach(model)
    assert sum(s for s, _ in scores) / sum(n for _, n in scores) == pytest.approx(measured[trained.best_step], rel=1e-5)


def test_measuring_changes_nothing(loaded: Any, features: Any) -> None:
    often, seldom = (run(loaded, features, replace(HELD, evaluate_every=k, probe_every=k)) for k in (1, 100))
    assert often.adapter == seldom.adapter


def test_training_stops_where_the_held_out_loss_no_longer_falls(loaded: Any, features: Any) -> None:
    told: list[str] = []
    config = replace(HELD, patience=2, evaluate_every=1)
    stopped = run(loaded, features, config, tell=told.append)
    losses = [m["held_loss"] for m in stopped.metrics]
    whole = run(loaded, features, replace(config, patience=1000))
    assert losses == [m["held_loss"] for m in whole.metrics][: len(losses)]
    first = next(k for k in range(len(losses)) if k > 1 and min(losses[: k - 1]) <= min(losses[k - 1 : k + 1]))
    assert len(losses) == first + 1 < len(whole.metrics)
    assert stopped.best_step == losses.index(min(losses)) == first - 2
    assert any("stopped after step" in what for what in told)


@pytest.mark.parametrize("patience", [0, 2, 1000])
def test_decisions_survive_an_interruption_bit_for_bit(loaded: Any, features: Any, patience: int) -> None:
    config, kept = replace(HELD, patience=patience, evaluate_every=1), KeepsAll()
    whole = run(loaded, features, config, kept)
    for data in (kept.all[1], kept.all[-1]):  # the last comes after the best: what it knows is needed
        store = MemoryStore()
        store.save(data)
        again = run(loaded, features, config, store)
        assert (again.adapter, again.best_step) == (whole.adapter, whole.best_step)
        assert timeless(again.metrics) == timeless(whole.metrics)
    last = run(loaded, features, replace(config, patience=0)).adapter
    assert (whole.adapter == last) == (patience == 0)


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    layer, watch = torch.nn.Linear(1, 1), Watch(3)
    for step, loss in enumerate((2.0, float("nan"), float("inf"))):
        watch.see(loss, step, layer)
    assert (watch.best, watch.best_step, watch.waited, watch.stops) == (2.0, 0, 2, False)
    watch.see(2.0, 3, layer)  # as low is not lower
    assert watch.stops
    fresh = Watch(3)
    fresh.resume(Watch(3).state(), {})
    assert fresh == Watch(3)


def test_the_probe_asks_short_questions_and_compares_words(loaded: Any, features: Any) -> None:
    long = one(50, "1:32:32", "Describe.", "a long answer of many more words than five")
    mute = one(51, "1:32:32", "What?", "left", learned=False)
    alone = Conversation("c52", (), (Turn("assistant", "left", True),), "", "precise")
    found = questions_of([*TALKS, long, mute, alone], 100)
    assert [(a.turns[-1].text, a.answer) for a in found] == [(t.turns[0].text, t.turns[1].text) for t in TALKS]
    few = questions_of(TALKS, 3)
    assert [TALKS.index(t) for t in TALKS if any(a.turns == t.turns[:-1] and a.images == t.images for a in few)] \
        == [0, 3, 6]  # fmt: skip
    prompts = [loaded.encoder.prompt(a.turns, a.images, [features.grid(i) for i in a.images]) for a in found]
    said = [text_of(loaded, c[0]) for c in generate(loaded, prompts, features, Sampling(16))]
    right = [replace(a, answer=f"The {text}.") for a, text in zip(found, said, strict=True) if words(text)]
    assert right and exact_matches(loaded, loaded.model, features, right) == 1.0
    wrong = Asked(right[0].turns, right[0].images, "something else")
    assert exact_matches(loaded, loaded.model, features, [right[0], wrong]) == 0.5


def test_two_stages_learn_captions_and_then_tasks(loaded: Any, features: Any) -> None:
    talks = [replace(t, kind="caption" if k < 4 else "precise") for k, t in enumerate(TALKS)]
    config, kept = replace(CONFIG, stages="two", epochs=2), KeepsAll()
    whole = run_sft(loaded, talks, features, config, kept)
    tokens = [m["tokens"] for m in whole.metrics]
    assert len(tokens) == 4 + 6  # four captions, then four tasks and one without an image, two rows a step
    alone = run_sft(loaded, talks[:4], features, replace(config, stages="single"), MemoryStore())
    assert timeless(whole.metrics[:4]) == timeless(alone.metrics)
    for data in kept.all:
        store = MemoryStore()
        store.save(data)
        assert run_sft(loaded, talks, features, config, store).adapter == whole.adapter
    single = run_sft(loaded, talks, features, replace(config, stages="single"), MemoryStore())
    assert unpack(single.adapter)[0].keys() == unpack(whole.adapter)[0].keys() and single.adapter != whole.adapter


def test_the_published_mix_is_one_conversation_an_image(loaded: Any, features: Any) -> None:
    talks = [replace(t, kind="caption" if k < 4 else "precise") for k, t in enumerate(TALKS)]
    config = replace(CONFIG, epochs=1, rows_per_step=5, micro_rows=5)
    turns, branches = (run_sft(loaded, talks, features, replace(config, mix=m), MemoryStore()).metrics[0]
                       for m in ("turns", "branches"))  # fmt: skip
    assert turns["tokens"] == branches["tokens"]  # the same answers
    assert turns["loss"] != branches["loss"]  # of which each now sees those before it
