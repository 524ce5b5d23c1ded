"""Precisions: what every part of a model is held in, and that each of them learns and answers."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from audit.conversation import Conversation, Turn
from audit.errors import BadInput, IntegrityFailure
from tests.train.conftest import TEMPLATE, picture
from train.checkpoints import MemoryStore
from train.data.encode import continued
from train.data.rows import collate, shared_row
from train.gguf.files import digest_of_file, digests_of
from train.lora import LoraConfig
from train.models.devices import fast_bf16
from train.models.features import Features
from train.models.forward import learned_logits
from train.models.generation import Sampling, generate
from train.models.loading import check_precision, load
from train.models.qwen2_vl import Qwen2VL
from train.sft import SftConfig, run_sft

HALF = torch.bfloat16 if fast_bf16() else torch.float32
"""What this CPU computes bf16 in."""
TEXT_ALONE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def released(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a release stores it: in bf16."""
    model = tmp_path_factory.mktemp("released") / "model"
    shutil.copytree(tiny_model, model)
    tensors = {k: v.bfloat16() for k, v in load_file(model / "model.safetensors").items()}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def kinds(loaded: Any) -> dict[str, set[torch.dtype]]:
    """What the Linears of each part are held in."""
    found: dict[str, set[torch.dtype]] = {}
    for name, module in loaded.model.named_modules():
        if isinstance(module, nn.Linear):
            part = next((p for p in ("model.visual", "model.language_model") if name.startswith(p)), name)
            found.setdefault(part, set()).add(module.weight.dtype)
    return found


@pytest.mark.parametrize(
    ("precision", "language", "rest", "said"),
    [
        ("nf4", torch.uint8, HALF, "nf4"),
        ("int8", torch.int8, HALF, "int8"),
        ("bf16", HALF, HALF, "bf16" if HALF is torch.bfloat16 else "fp32"),
        ("fp32", torch.float32, torch.float32, "fp32"),
    ],
)
def test_each_part_of_a_release_is_held_as_stated(
    released: Path, precision: Any, language: torch.dtype, rest: torch.dtype, said: str
) -> None:
    loaded = load(released, precision, "cpu")
    assert kinds(loaded) == {"model.visual": {rest}, "model.language_model": {language}, "lm_head": {rest}}
    assert loaded.precision == said
    assert loaded.model.get_input_embeddings().weight.dtype == rest
    stored = load_file(released / "model.safetensors")
    held = loaded.model.model.visual.blocks[0].mlp.fc1.weight
    assert torch.equal(held, stored["visual.blocks.0.mlp.fc1.weight"].to(rest))


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_a_wider_release_keeps_its_bits_on_a_cpu(tiny_model: Path, precision: Any) -> None:
    found = kinds(load(tiny_model, precision, "cpu"))
    assert found["model.visual"] == found["lm_head"] == {torch.float32}


@pytest.mark.parametrize("precision", ["nf4", "int8", "bf16"])
def test_each_precision_says_nearly_what_fp32_says_learns_and_answers(released: Path, precision: Any) -> None:
    turns = (Turn("user", "Where?"), Turn("assistant", "It is the right slice.", True))
    talks = [Conversation(f"c{k}", (f"{k}",), turns, "r", "k") for k in range(4)]
    said = []
    for kind in ("fp32", precision):
        loaded = load(released, kind, "cpu")
        features = Features(loaded, lambda name: picture(int(name)))
        prompt = loaded.encoder.prompt(turns[:1], ("1",), [features.grid("1")])
        batch = collate([shared_row([continued(prompt, range(20, 60))])], 0)
        with torch.inference_mode():
            said.append(learned_logits(loaded.family, loaded.model, batch, features.stack(batch.images)))
    apart = torch.nn.functional.cosine_similarity(*said, dim=-1)
    assert float(apart.min()) > {"nf4": 0.9, "int8": 0.99, "bf16": 0.99}[precision]
    assert not torch.equal(*said) or loaded.precision == "fp32"
    config = SftConfig(epochs=6, rows_per_step=4, learning_rate=5e-3, lora=LoraConfig(4, 8))
    trained = run_sft(loaded, talks, features, config, MemoryStore())
    assert trained.metrics[-1]["loss"] < 0.8 * trained.metrics[0]["loss"]
    (answer,) = generate(loaded, [prompt], features, Sampling(4))[0]
    assert answer.ids
    again = run_sft(loaded, talks, features, config, MemoryStore())  # gradients live on after an answer
    assert again.adapter == trained.adapter


def test_an_unknown_precision_is_said(tiny_model: Path) -> None:
    with pytest.raises(BadInput, match="'int4' is no precision") as caught:
        load(tiny_model, "int4", "cpu")  # type: ignore[arg-type]
    assert caught.value.hint == "use one of nf4, int8, bf16, fp32"


def test_a_linear_in_another_type_is_caught(loaded: Any) -> None:
    check_precision(loaded.model, Qwen2VL, "fp32", torch.float32)
    with pytest.raises(IntegrityFailure, match=r"model\.visual\.\S+ is held in torch\.float32, not in torch\.bfloat16"):
        check_precision(loaded.model, Qwen2VL, "bf16", torch.bfloat16)
    model = copy.deepcopy(loaded.model)
    model.model.language_model.norm.bfloat16()  # no Linear, and one of the smallest
    with pytest.raises(IntegrityFailure, match=r"model\.language_model\.norm\.weight is held in torch\.bfloat16"):
        check_precision(model, Qwen2VL, "fp32", torch.float32)


def test_every_file_has_its_digest(model: Path) -> None:
    (model / ".cache").mkdir()
    (model / ".cache" / "note").write_text("x")
    (model / "more").mkdir()
    (model / "more" / "LICENSE").write_text("x")
    found = digests_of(model)
    assert list(found) == sorted(found) and not any(".cache" in name for name in found)
    assert {"config.json", "model.safetensors", "more/LICENSE"} <= found.keys()
    assert all(digest_of_file(model / name) == digest for name, digest in found.items())


def silent(model: Path) -> None:
    """Take the template away from the tokenizer and from beside it."""
    (model / "chat_template.jinja").unlink(missing_ok=True)
    place = model / "tokenizer_config.json"
    settings = json.loads(place.read_text())
    settings.pop("chat_template", None)
    place.write_text(json.dumps(settings))


def in_tokenizer(model: Path, template: str) -> None:
    place = model / "tokenizer_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"chat_template": template}))


@pytest.mark.parametrize("own", [None, TEXT_ALONE, TEMPLATE + "{# own #}"])
def test_the_template_is_the_models_own(model: Path, own: str | None) -> None:
    silent(model)
    if own:
        in_tokenizer(model, own)
    (model / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE + "{# processor #}"}))
    loaded = load(model, "fp32", "cpu")
    wanted = own if own and own != TEXT_ALONE else TEMPLATE + "{# processor #}"
    assert loaded.tokenizer.chat_template == wanted
    (model / "chat_template.jinja").write_text(TEMPLATE + "{# file #}")
    assert load(model, "fp32", "cpu").tokenizer.chat_template == TEMPLATE + "{# file #}"  # transformers prefers it
    assert "<|image_pad|>" in loaded.encoder.render([Turn("user", "Where?")], 1)


@pytest.mark.parametrize(
    ("old", "own", "what", "where"),
    [
        (None, None, "it has no chat template", ""),
        (None, TEXT_ALONE, "its chat template writes no images", ""),
        (json.dumps({"chat_template": "{{ broken"}), TEXT_ALONE, "its chat template writes no images", ""),
        ("{", None, "chat_template.json is broken", "chat_template.json"),
        ("[]", None, "chat_template.json is broken", "chat_template.json"),
    ],
)
def test_a_model_that_cannot_be_talked_to_is_said(
    model: Path, old: str | None, own: str | None, what: str, where: str
) -> None:
    silent(model)
    if own:
        in_tokenizer(model, own)
    if old:
        (model / "chat_template.json").write_text(old)
    with pytest.raises(BadInput, match=what) as caught:
        load(model, "fp32", "cpu")
    assert caught.value.where == str(model / where) and "chat_template.json" in caught.value.hint


def test_the_processor_of_transformers_5_is_read(model: Path) -> None:
    place = model / "preprocessor_config.json"
    settings = json.loads(place.read_text())
    wanted = load(model, "fp32", "cpu").family
    place.unlink()
    (model / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert load(model, "fp32", "cpu").family == wanted
    (model / "processor_config.json").write_text("{}")
    with pytest.raises(BadInput, match="cannot be read"):
        load(model, "fp32", "cpu")
