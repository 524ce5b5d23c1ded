"""Training the tower, too: off by default, gradients reach it, and what is merged is what was trained."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import nn

from audit.conversation import Conversation, Turn
from tests.train.conftest import picture
from train.checkpoints import MemoryStore
from train.data.rows import collate, shared_row
from train.gguf.merge import merge
from train.lora import LoraConfig, attach, detach, targets, unpack
from train.models.features import Features, cost_of_live
from train.models.forward import learned_logits
from train.models.loading import load
from train.models.qwen2_vl import Qwen2VL
from train.sft import SftConfig, run_sft

CONFIG = SftConfig(
    epochs=3, rows_per_step=2, micro_rows=2, learning_rate=1e-2, checkpoint_every=1, lora=LoraConfig(4, 8, vision=True)
)
IMAGES = ("1:32:32", "2:48:32")
TALKS = [
    Conversation(f"c{k}", (image,), (Turn("user", "What plane?"), Turn("assistant", said, True)), "r", "caption")
    for k, (image, said) in enumerate(zip(IMAGES * 2, ("left", "right red", "Yes.", "No."), strict=True))
]
IN_TOWER = ".model.visual."


class EveryLinear(Qwen2VL):
    """A family that names no vision Linears."""

    vision_lora_targets: ClassVar = ""


@pytest.fixture
def trained(loaded: Any, features: Any) -> Any:
    return run_sft(loaded, TALKS, features, CONFIG, MemoryStore())


def logits_of(loaded: Any, model: Any, features: Any) -> torch.Tensor:
    encoded = [loaded.encoder.encode(t, [features.grid(i) for i in t.images]) for t in TALKS]
    batch = collate([shared_row(encoded[k::2]) for k in (0, 1)], loaded.tokenizer.pad_token_id)
    return learned_logits(loaded.family, model, batch, features.stack(batch.images))


def test_the_tower_is_frozen_unless_asked_for(loaded: Any, features: Any) -> None:
    model = attach(loaded, LoraConfig(4, 8))
    learning = [n for n, p in model.named_parameters() if p.requires_grad]
    detach(model)
    assert learning and not any(IN_TOWER in n for n in learning)
    assert not LoraConfig().vision
    plain = run_sft(loaded, TALKS, features, replace(CONFIG, lora=LoraConfig(4, 8)), MemoryStore())
    tensors, described = unpack(plain.adapter)
    assert not any(IN_TOWER in n for n in tensors) and "vision" not in described
    assert features.computed == len(IMAGES)  # once


def test_the_family_names_every_linear_of_tower_and_projector(loaded: Any) -> None:
    """Its own pattern and the default of a family that names none take the same."""

    def taken(family: Any) -> set[str]:
        model = attach(replace(loaded, family=family), LoraConfig(2, 4, vision=True))
        found = {n for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A")}
        detach(model)
        return found

    every = taken(EveryLinear(**asdict(loaded.family)))
    assert every == taken(loaded.family)
    seeing = {n for n in every if n.startswith("model.visual.")}
    linears = {n for n, m in loaded.model.named_modules() if isinstance(m, nn.Linear)}
    assert seeing == {n for n in linears if n.startswith("model.visual.")}
    assert len(every - seeing) == 14 and targets(loaded) == loaded.family.lora_targets


def test_gradients_reach_the_tower(loaded: Any, features: Any) -> None:
    model = attach(loaded, LoraConfig(4, 8, vision=True))
    try:
        loss = logits_of(loaded, model, features.live()).logsumexp(-1).sum()
        loss.backward()
        seeing = {n: p.grad for n, p in model.named_parameters() if IN_TOWER in n and ".lora_B." in n}
        assert len(seeing) == 14
        for name, gradient in seeing.items():
            assert gradient is not None and float(gradient.abs().max()) > 0, name
        model.zero_grad(set_to_none=True)
        logits_of(loaded, model, features).logsumexp(-1).sum().backward()  # features once hold none
        assert all(p.grad is None for n, p in model.named_parameters() if IN_TOWER in n)
    finally:
        detach(model)


def test_the_loss_falls_and_the_tower_moves(loaded: Any, features: Any) -> None:
    said: list[str] = []
    trained = run_sft(loaded, TALKS, features, replace(CONFIG, epochs=10), MemoryStore(), tell=said.append)
    assert trained.metrics[-1]["loss"] < 0.6 * trained.metrics[0]["loss"]
    tensors, described = unpack(trained.adapter)
    assert described["vision"] is True
    assert all(float(t.abs().max()) > 0 for n, t in tensors.items() if IN_TOWER in n)
    assert "the tower learns, too" in said[0] and "times the work" in said[0]
    assert features.computed == 0  # what is kept of the frozen tower is neither asked for nor written over


@torch.inference_mode()
def test_merged_is_unmerged(loaded: Any, features: Any, trained: Any, tmp_path: Path) -> None:
    bare = logits_of(loaded, loaded.model, features)
    model = attach(loaded, LoraConfig(), trained.adapter)
    try:
        wanted = logits_of(loaded, model, features.live())
    finally:
        detach(model)
    (tmp_path / "adapter.safetensors").write_bytes(trained.adapter)
    report = merge(loaded.directory, tmp_path / "adapter.safetensors", tmp_path / "merged", "float32")
    assert sum("visual" in name for name in report.merged) == 14
    whole = load(tmp_path / "merged", "fp32", "cpu")
    whole = replace(whole, family=loaded.family, encoder=loaded.encoder)
    found = logits_of(whole, whole.model, Features(whole, features.image))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert float((wanted - bare).abs().max()) > 0.1
    torch.testing.assert_close(logits_of(loaded, loaded.model, Features(loaded, features.image)), bare)


class Killed(Exception):
    """The machine goes down."""


def test_a_killed_run_goes_on_bit_for_bit(loaded: Any, features: Any, trained: Any) -> None:
    store = MemoryStore()

    def progress(done: int, total: int, what: str) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        run_sft(loaded, TALKS, features, CONFIG, store, progress)
    assert run_sft(loaded, TALKS, features, CONFIG, store).adapter == trained.adapter


def test_live_features_open_each_image_once_a_pass_and_its_size_once(loaded: Any) -> None:
    opened: list[str] = []

    def image(name: str) -> Image.Image:
        opened.append(name)
        return picture(*map(int, name.split(":")))

    live = Features(loaded, image).live()
    assert live.grid(IMAGES[0]) == live.grid(IMAGES[0]) == (2, 2)
    assert opened == [IMAGES[0]] and live.computed == 0
    twice = live.stack([IMAGES[0], IMAGES[1], IMAGES[0]])
    assert live.computed == 2 and twice is not None and len(twice.tokens) == 4 + 6 + 4
    assert not live.kept


def test_the_cost_is_counted(loaded: Any) -> None:
    """One epoch of the tower alone costs twice its forward; many epochs pay it each time."""
    fitted = loaded.family.fitted(picture(1, 128, 128))
    alone = cost_of_live(loaded, fitted, 10, 0, 1)
    assert alone == pytest.approx(2.0)
    assert cost_of_live(loaded, fitted, 10, 0, 5) == pytest.approx(10.0)
    assert 1.0 < cost_of_live(loaded, fitted, 10, 10_000, 4) < 8.0
    assert cost_of_live(loaded, fitted, 0, 10_000, 4) == pytest.approx(1.0)


@pytest.fixture(autouse=True)
def base_stays(loaded: Any) -> Iterator[None]:
    """Whatever a test does, the base model is as it was."""
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    yield
    assert all(torch.equal(p, before[n]) for n, p in loaded.model.named_parameters())
