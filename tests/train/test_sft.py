"""SFT: what it learns, that a run goes on after any interruption bit for bit, and that the base stays as it was."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from audit.conversation import Conversation, Turn
from audit.errors import BadInput, ClocheError, Refused
from train.checkpoints import MemoryStore
from train.data.rows import collate, packed_row, shared_row
from train.gguf.merge import merge
from train.lora import METADATA, ORIGIN, LoraConfig, attach, detach, pack, stamped, unpack
from train.models.forward import learned_logits
from train.models.loading import load
from train.sft import MEASURED, SftConfig, Trained, rows_of, run_sft
from train.step import Learner

CONFIG = SftConfig(
    epochs=2,
    rows_per_step=2,
    micro_rows=1,
    length_power=1.0,
    learning_rate=5e-3,
    warmup=0.3,
    checkpoint_every=1,
    lora=LoraConfig(4, 8),
)
IMAGES = ("1:32:32", "2:48:32", "3:32:64", "4:16:16")


def one(number: int, image: str, asked: str, said: str, learned: bool = True) -> Conversation:
    turns = (Turn("user", asked), Turn("assistant", said, learned))
    return Conversation(f"c{number}", (image,) if image else (), turns, f"r{image or number}", "caption")


TALKS = [
    *(one(k, image, "What plane?", ("left", "right red", "Yes.", "No. No.")[k]) for k, image in enumerate(IMAGES)),
    *(one(4 + k, image, "Is the lesion visible?", ("No", "Yes")[k % 2]) for k, image in enumerate(IMAGES)),
    one(8, "", "Where?", "in this slice"),
]


class KeepsAll(MemoryStore):
    """Keeps every checkpoint of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[bytes] = []

    def save(self, data: bytes) -> None:
        super().save(data)
        self.all.append(data)


class Killed(Exception):
    """The machine goes down in the middle of a run."""


def run(
    loaded: Any, features: Any, config: SftConfig = CONFIG, store: MemoryStore | None = None, **more: Any
) -> Trained:
    return run_sft(loaded, TALKS, features, config, store or MemoryStore(), **more)


def timeless(metrics: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in metrics]


def loss_of(loaded: Any, model: Any, features: Any, talk: Conversation) -> tuple[torch.Tensor, int]:
    """Summed loss of one conversation in a row of its own, and its learned tokens."""
    encoded = loaded.encoder.encode(talk, [features.grid(i) for i in talk.images])
    batch = collate([packed_row([encoded])], 0)
    logits = learned_logits(loaded.family, model, batch, features.stack(batch.images))
    return torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum"), len(batch.targets)


def loss_alone(loaded: Any, model: Any, features: Any, talk: Conversation) -> tuple[float, int]:
    """The same as a number."""
    with torch.no_grad():
        loss, count = loss_of(loaded, model, features, talk)
    return float(loss), count


def test_the_loss_falls_and_the_answers_are_learned(loaded: Any, features: Any) -> None:
    trained = run(loaded, features, replace(CONFIG, epochs=20, rows_per_step=5, micro_rows=5, learning_rate=1e-2))
    assert trained.metrics[-1]["loss"] < 0.2 * trained.metrics[0]["loss"]
    model = attach(loaded, LoraConfig(), trained.adapter)
    try:
        scores = [loss_alone(loaded, model, features, talk) for talk in TALKS]
    finally:
        detach(model)
    after = sum(s for s, _ in scores) / sum(n for _, n in scores)
    assert after <= trained.metrics[-1]["loss"] * 1.2


def test_the_first_loss_is_the_mean_over_learned_tokens(loaded: Any, features: Any) -> None:
    """A fresh adapter adds nothing, so the first step's loss is the base model's, conversation by conversation."""
    scores = [loss_alone(loaded, loaded.model, features, talk) for talk in TALKS]
    for micro in (1, 2, 5):
        first = run(loaded, features, replace(CONFIG, epochs=1, rows_per_step=5, micro_rows=micro)).metrics[0]
        assert first["tokens"] == sum(n for _, n in scores)
        assert first["loss"] == pytest.approx(sum(s for s, _ in scores) / first["tokens"], rel=1e-5)


def test_the_size_of_a_forward_pass_changes_nothing(loaded: Any, features: Any) -> None:
    steps = replace(CONFIG, epochs=1, rows_per_step=5)
    one_by_one, together = (unpack(run(loaded, features, replace(steps, micro_rows=m)).adapter)[0] for m in (1, 5))
    for name, tensor in one_by_one.items():  # one Adam step: its size is the rate, its sign the gradient's
        torch.testing.assert_close(tensor, together[name], rtol=0, atol=2e-5)


def test_a_learned_question_never_teaches_its_image(loaded: Any, features: Any) -> None:
    """Neither image tokens nor the header before them, which all conversations of a row share."""
    asked = (Turn("user", "What plane?", True), Turn("assistant", "Yes", True))
    first = Conversation("c0", IMAGES[:1], asked, "r", "k")
    later = Conversation("c1", IMAGES[1:2], (*TALKS[0].turns, *asked), "r", "k")
    for talk in (first, later):
        found = loaded.encoder.encode(talk, [features.grid(i) for i in talk.images])
        assert not found.learned[: found.shared_until].any() and found.visual.any()
        assert "What plane?" in loaded.tokenizer.decode(found.ids[found.learned])
    batch = collate([row for row, _ in rows_of(loaded, [first, later, *TALKS[2:4]], features)], 0)
    assert int(batch.owners.min()) == 0 and len(batch.owners.unique()) == 4
    trained = run_sft(loaded, [first, later], features, replace(CONFIG, epochs=1), MemoryStore())
    assert trained.metrics[0]["loss"] > 0


def test_conversations_that_begin_differently_do_not_share_a_row(loaded: Any, features: Any) -> None:
    brief = [replace(t, id=f"s{t.id}", turns=(Turn("system", "Be brief."), *t.turns)) for t in TALKS]
    rows = [row for row, _ in rows_of(loaded, [*TALKS, *brief], features)]
    assert len(rows) == 2 * len(IMAGES) + 2 and sum(int(r.segments.max()) for r in rows) == 2 * len(TALKS)
    found = run_sft(loaded, [*TALKS, *brief], features, replace(CONFIG, epochs=1, rows_per_step=10), MemoryStore())
    scores = [loss_alone(loaded, loaded.model, features, talk) for talk in (*TALKS, *brief)]
    assert found.metrics[0]["loss"] == pytest.approx(sum(s for s, _ in scores) / sum(n for _, n in scores), rel=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.25, 1.0])
def test_an_answer_weighs_its_length_to_the_power(loaded: Any, features: Any, power: float) -> None:
    config = replace(CONFIG, epochs=1, rows_per_step=5, length_power=power)
    model = attach(loaded, config.lora)
    scores = [loss_of(loaded, model, features, talk) for talk in TALKS]
    wanted = sum(s / n * n**power for s, n in scores) / sum(n**power for _, n in scores)
    weights = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(wanted, weights)
    learner = Learner(loaded, model, features, config, lambda what: None)
    found = learner.gradients(rows_of(loaded, TALKS, features), 0)
    assert found.learned == sum(n for _, n in scores)
    assert found.loss == pytest.approx(float(sum(s.detach() for s, _ in scores)) / found.learned, rel=1e-5)
    for weight, g in zip(weights, gradient, strict=True):
        torch.testing.assert_close(weight.grad, g, rtol=1e-4, atol=1e-7)
    model.unload()


@pytest.mark.parametrize(("dropout", "optimizer"), [(0.0, "adamw"), (0.2, "adamw"), (0.0, "muon")])
def test_a_run_goes_on_from_every_checkpoint_bit_for_bit(
    loaded: Any, features: Any, dropout: float, optimizer: Any
) -> None:
    config = replace(CONFIG, lora=LoraConfig(4, 8, dropout), optimizer=optimizer)
    kept = KeepsAll()
    whole = run(loaded, features, config, kept)
    assert len(whole.metrics) == 6 and len(kept.all) == 5
    for done, data in enumerate(kept.all, 1):
        store, started = MemoryStore(), []
        store.save(data)
        torch.manual_seed(done)  # another process has drawn other numbers
        again = run(loaded, features, config, store, on_step=lambda step, _, s=started: s.append(step))
        assert started == list(range(done, 6))
        assert again.adapter == whole.adapter
        assert timeless(again.metrics) == timeless(whole.metrics)


def test_a_killed_run_goes_on_and_leaves_the_base_alone(loaded: Any, features: Any) -> None:
    whole = run(loaded, features, replace(CONFIG, checkpoint_every=2))
    before = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}
    store = MemoryStore()

    def killed(step: int, _: Sequence[str]) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        run(loaded, features, replace(CONFIG, checkpoint_every=2), store, on_step=killed)
    seen: list[int] = []
    again = run(loaded, features, replace(CONFIG, checkpoint_every=2), store, on_step=lambda step, _: seen.append(step))
    assert seen == [2, 3, 4, 5] and again.adapter == whole.adapter
    after = loaded.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert not any(p.requires_grad for p in loaded.model.parameters()) and not loaded.model.training


def test_another_seed_trains_another_adapter(loaded: Any, features: Any) -> None:
    short = replace(CONFIG, epochs=1)
    first, second = run(loaded, features, short), run(loaded, features, replace(short, seed=1))
    assert first.adapter != second.adapter
    assert run(loaded, features, short).adapter == first.adapter


def test_the_rate_warms_up_and_falls_as_a_cosine(loaded: Any, features: Any) -> None:
    rates = [m["rate"] / 5e-3 for m in run(loaded, features, replace(CONFIG, epochs=3, warmup=0.4)).metrics]
    down = [0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * k / 6)))) for k in range(6)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, *down], abs=1e-6)


def test_records_are_told_before_they_are_used(loaded: Any, features: Any) -> None:
    told: list[set[str]] = []
    finished: list[int] = []

    def on_step(step: int, records: Sequence[str]) -> None:
        assert len(finished) == step
        told.append(set(records))

    run(loaded, features, on_step=on_step, progress=lambda done, total, what: finished.append(done))
    everyone = {talk.record for talk in TALKS}
    assert set.union(*told[:3]) == set.union(*told[3:]) == everyone
    assert sum(map(len, told[:3])) == len(everyone)


def test_nothing_to_learn_is_said(loaded: Any, features: Any) -> None:
    for talks in ([], [one(0, "1:32:32", "What?", "left", learned=False)]):
        with pytest.raises(BadInput, match="no conversation has a learned turn") as caught:
            run_sft(loaded, talks, features, CONFIG, MemoryStore())
        assert "cloche synth" in caught.value.hint
    assert not any("lora" in name for name, _ in loaded.model.named_modules())


def test_an_adapter_comes_back_as_it_was_packed(loaded: Any, features: Any) -> None:
    config = LoraConfig(3, 5)
    model = attach(loaded, config)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    encoded = loaded.encoder.encode(TALKS[0], [features.grid(IMAGES[0])])
    batch = collate([shared_row([encoded])], 0)
    with torch.inference_mode():
        wanted = learned_logits(loaded.family, model, batch, features.stack(batch.images))
        data = pack(model, config, loaded.digest)
        detach(model)
        plain = learned_logits(loaded.family, loaded.model, batch, features.stack(batch.images))
        back = attach(loaded, LoraConfig(32, 64), data)
        found = learned_logits(loaded.family, back, batch, features.stack(batch.images))
        again = pack(back, config, loaded.digest)
        detach(back)
    assert torch.equal(found, wanted) and not torch.allclose(found, plain, atol=1e-2)
    assert again == data
    tensors, described = unpack(data)
    assert described == {"r": 3, "alpha": 5, "rslora": False, "base_digest": loaded.digest, "dropout": 0.0}
    assert len(tensors) == len(names) == 2 * 7 * 2 and {t.dtype for t in tensors.values()} == {torch.float32}
    assert all(".language_model.layers." in name for name in tensors)


@torch.inference_mode()
def test_rslora_scales_by_the_root_of_the_rank_wherever_the_adapter_goes(
    loaded: Any, features: Any, tmp_path: Path
) -> None:
    """Attached, packed, attached again and merged: alpha over the root of r is alpha over r with more alpha."""
    shape = LoraConfig(4, 8, rslora=True)
    model = attach(loaded, shape)
    for p in (p for p in model.parameters() if p.requires_grad):
        p.normal_(std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    data = pack(model, shape, loaded.digest)
    batch = collate([row for row, _ in rows_of(loaded, TALKS, features)], 0)

    def logits(of: Any) -> torch.Tensor:
        return learned_logits(loaded.family, of, batch, features.stack(batch.images))

    wanted = logits(model)
    detach(model)
    assert unpack(data)[1]["rslora"] is True and LoraConfig.of(data, 0.1) == LoraConfig(4, 8, 0.1, True)
    tensors, described = unpack(data)
    for changed, same in (({}, True), ({"rslora": False, "alpha": 16}, True), ({"rslora": False}, False)):
        back = attach(loaded, LoraConfig(), save(tensors, metadata={METADATA: json.dumps(described | changed)}))
        found = logits(back)
        detach(back)
        assert torch.allclose(found, wanted, atol=1e-5) == same
    (tmp_path / "adapter.safetensors").write_bytes(data)
    merge(loaded.directory, tmp_path / "adapter.safetensors", tmp_path / "merged", "float32")
    torch.testing.assert_close(logits(load(tmp_path / "merged", "fp32", "cpu").model), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "flag"), [({"rank": 0}, "--rank"), ({"alpha": 0}, "--alpha"), ({"dropout": 1.0}, "--lora-dropout")]
)
def test_a_wrong_shape_names_its_flag(wrong: dict[str, Any], flag: str) -> None:
    with pytest.raises(BadInput, match=flag):
        LoraConfig(**wrong)


def adapter_of(loaded: Any, digest: str) -> bytes:
    model = attach(loaded, LoraConfig(2, 4))
    try:
        return pack(model, LoraConfig(2, 4), digest)
    finally:
        detach(model)


def test_an_adapter_of_another_base_is_refused(loaded: Any) -> None:
    with pytest.raises(Refused, match="another base model") as caught:
        attach(loaded, LoraConfig(), adapter_of(loaded, "0" * 64))
    assert caught.value.where == str(loaded.directory) and "--model" in caught.value.hint


@pytest.mark.parametrize("fault", ["renamed", "reshaped", "missing", "no rank"])
def test_an_adapter_that_does_not_fit_is_refused_and_taken_off(loaded: Any, fault: str) -> None:
    tensors, described = unpack(adapter_of(loaded, loaded.digest))
    name = sorted(tensors)[0]
    if fault == "renamed":
        tensors[name.replace("layers.0", "layers.7")] = tensors.pop(name)
    elif fault == "reshaped":
        tensors[name] = tensors[name][:1].contiguous()
    elif fault == "missing":
        del tensors[name]
    else:
        del described["r"]
    before = [n for n, _ in loaded.model.named_modules()]
    with pytest.raises(BadInput):
        attach(loaded, LoraConfig(), save(tensors, metadata={METADATA: json.dumps(described)}))
    assert [n for n, _ in loaded.model.named_modules()] == before


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=40), st.integers(0, 60))
def test_what_is_no_adapter_is_said(noise: bytes, tail: bytes, size: int) -> None:
    for data in (noise, size.to_bytes(8, "little") + noise, len(noise).to_bytes(8, "little") + noise + tail):
        with pytest.raises(ClocheError) as caught:
            unpack(data)
        assert type(caught.value) is BadInput


def test_an_adapter_says_where_it_came_from_and_is_the_same_adapter(loaded: Any, features: Any) -> None:
    adapter = run(loaded, features, replace(CONFIG, epochs=1)).adapter
    origin = {"base": loaded.digest, "manifest": "ab" * 32, "run": "run-x", "log": "cloche/log/x", "log_size": 7}
    told = stamped(stamped(adapter, {"run": "another"}), origin)
    before, after = unpack(adapter), unpack(told)
    assert before[1] == after[1] and before[0].keys() == after[0].keys()
    assert all(torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())
    header = json.loads(told[8 : 8 + int.from_bytes(told[:8], "little")])
    assert json.loads(header["__metadata__"][ORIGIN]) == origin and int.from_bytes(told[:8], "little") % 8 == 0
