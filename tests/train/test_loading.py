"""Opening models: what is refused, how it is said, and what is held in 4 bits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from audit.errors import BadInput, ClocheError, IntegrityFailure, Refused
from train.gguf.files import digest_of
from train.models.directory import check_directory, family_of
from train.models.loading import check_precision, load
from train.models.qwen2_vl import Qwen2VL

WEIGHTS = "model.safetensors"
UP = "layers.1.mlp.up_proj.weight"


def on_disk(name: str) -> str:
    """What Qwen2-VL calls a weight in its files."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def cut_weights(model: Path) -> None:
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(data[: len(data) // 2])


def drop_a_tensor(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    del tensors[f"model.{UP}"]
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})


def reshape_a_tensor(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    tensors[f"model.{UP}"] = tensors[f"model.{UP}"][:100].contiguous()
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})


def rename_family(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))


def one_word_more(model: Path) -> None:
    """A tokenizer of another release, with a token for which there is no embedding."""
    place = model / "tokenizer.json"
    told = json.loads(place.read_text())
    told["model"]["vocab"]["another"] = 512
    place.write_text(json.dumps(told))


def image_token(model: Path, token: int) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"image_token_id": token}))


FAULTS: dict[str, tuple[Callable[[Path], object], type[ClocheError], str, str]] = {
    "nothing there": (shutil.rmtree, BadInput, "no model directory", ""),
    "a file": (lambda m: (shutil.rmtree(m), m.write_text("x")), BadInput, "no model directory", ""),
    "no config": (lambda m: (m / "config.json").unlink(), BadInput, "no config.json", ""),
    "broken config": (lambda m: (m / "config.json").write_text('{"model_type": '), BadInput, "broken", "config.json"),
    "no text": (lambda m: (m / "config.json").write_bytes(b"\xff\xfe\x00"), BadInput, "broken", "config.json"),
    "a list": (lambda m: (m / "config.json").write_text("[1]"), BadInput, "broken", "config.json"),
    "no family": (lambda m: (m / "config.json").write_text("{}"), BadInput, "names no model_type", "config.json"),
    "odd family": (
        lambda m: (m / "config.json").write_text('{"model_type": [1]}'), Refused, "not supported", "config.json",
    ),
    "unknown family": (rename_family, Refused, "'bert' is not supported; supported: ", "config.json"),
    "pickle beside": (lambda m: (m / "pytorch_model.bin").write_bytes(b"x"), Refused, "pickle", "pytorch_model.bin"),
    "another pickle": (lambda m: (m / "extra.pickle").write_bytes(b"x"), Refused, "pickle", "extra.pickle"),
    "no weights": (lambda m: (m / WEIGHTS).unlink(), BadInput, "no weights", ""),
    "half the weights": (cut_weights, BadInput, "cannot be read", ""),
    "noise for weights": (lambda m: (m / WEIGHTS).write_bytes(b"\x00" * 64), BadInput, "cannot be read", ""),
    "a weight missing": (drop_a_tensor, BadInput, UP, ""),
    "a weight of another shape": (reshape_a_tensor, BadInput, UP, ""),
    "no processor": (lambda m: (m / "preprocessor_config.json").unlink(), BadInput, "cannot be read", ""),
    "a larger tokenizer": (one_word_more, BadInput, "token 512 of tokenizer.json has no embedding: the model h", ""),
    "an image token outside": (lambda m: image_token(m, 600), BadInput, "the image token 600 has no embedding", ""),
    "an unknown image token": (lambda m: image_token(m, 511), BadInput, "does not know the image token 511", ""),
    "no tokenizer": (lambda m: [p.unlink() for p in m.glob("tokenizer*")], BadInput, "no tokenizer.json", ""),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_model_is_refused_with_its_place(tiny_model: Path, tmp_path: Path, fault: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    spoil, kind, what, where = FAULTS[fault]
    spoil(model)
    with pytest.raises(ClocheError) as caught:
        load(model, "fp32", "cpu")
    error = caught.value
    assert type(error) is kind
    assert what in error.what and error.hint
    assert error.where == str(model / where)


def test_a_whole_model_opens_frozen(loaded: Any, tiny_model: Path) -> None:
    assert not any(p.requires_grad for p in loaded.model.parameters()) and not loaded.model.training
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.stops == {0, 2}
    assert check_directory(tiny_model)["model_type"] == "qwen2_vl"
    wanted = load_file(tiny_model / WEIGHTS)
    held = {on_disk(name): weight for name, weight in loaded.model.named_parameters()}
    assert held.keys() == wanted.keys() and len(held) > 40
    assert all(torch.equal(held[name], tensor) for name, tensor in wanted.items())


def test_the_family_is_known_without_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / WEIGHTS).write_bytes(b"")
    found = family_of(model, 20)
    assert (found.patch, found.merge, found.image_token, found.max_pixels) == (8, 2, 5, 20 * 256)


def test_nf4_holds_the_language_linears_and_nothing_else(tiny_model: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    model = load(tiny_model, "nf4", "cpu").model
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    four_bit = {n for n, m in linears.items() if isinstance(m, Linear4bit)}
    parts = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    assert four_bit == {f"model.language_model.layers.{k}.{part}" for k in range(2) for part in parts}
    for name in four_bit:
        module = linears[name]
        weight = module.weight
        assert weight.dtype == torch.uint8 and weight.numel() * 2 == module.in_features * module.out_features
        assert weight.quant_state.quant_type == "nf4" and weight.quant_state.nested
    kept = {n: m for n, m in linears.items() if n not in four_bit}
    assert "lm_head" in kept and sum(n.startswith(Qwen2VL.vision) for n in kept) >= 3 * 4 + 2
    stored = load_file(tiny_model / WEIGHTS)
    for name, module in kept.items():
        if name != "lm_head":  # tied to the embedding
            assert torch.equal(module.weight, stored[on_disk(f"{name}.weight")])


def four_bit_linear() -> nn.Module:
    from bitsandbytes.nn import Linear4bit

    return Linear4bit(4, 4, quant_type="nf4")


@pytest.mark.parametrize("wrong", ["vision in 4 bits", "head in 4 bits", "a language Linear in 16 bits", ""])
def test_the_walk_over_the_modules_fails_where_it_must(wrong: str) -> None:
    model = nn.Module()
    model.model = nn.Module()
    model.model.visual = nn.Sequential(four_bit_linear() if wrong.startswith("vision") else nn.Linear(4, 4))
    model.model.language_model = nn.Sequential(four_bit_linear(), nn.LayerNorm(4), four_bit_linear())
    if wrong.startswith("a language"):
        model.model.language_model[2] = nn.Linear(4, 4)
    model.lm_head = four_bit_linear() if wrong.startswith("head") else nn.Linear(4, 4)
    if not wrong:
        check_precision(model, Qwen2VL, "nf4")
        return
    place = {"vision": "model.visual.0", "head": "lm_head", "a": "model.language_model.2"}[wrong.split()[0]]
    with pytest.raises(IntegrityFailure, match=f"Linear {place} is (not )?quantised"):
        check_precision(model, Qwen2VL, "nf4")


def test_a_skip_list_that_does_nothing_is_caught(tiny_model: Path) -> None:
    """transformers' own quantisation with the usual ``visual``: it may not pass for ours (STACK 1.2)."""
    import transformers

    for skipped in (["nothing"], ["model.visual", "lm_head", "model.language_model.layers.0"]):
        wanted = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, llm_int8_skip_modules=skipped
        )
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            tiny_model, quantization_config=wanted, dtype=torch.float32, device_map={"": "cpu"}
        )
        with pytest.raises(IntegrityFailure, match="quantised"):
            check_precision(model, Qwen2VL, "nf4")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bnb_4bit_quant_type": "fp4"}, r"layers\.0\.\S+ is held in fp4, not in nf4"),
        ({"bnb_4bit_use_double_quant": False}, r"layers\.0\.\S+ is quantised once, not twice"),
        (
            {"bnb_4bit_compute_dtype": torch.bfloat16},
            r"layers\.0\.\S+ computes in torch.bfloat16, not in torch.float32",
        ),
    ],
)
def test_four_bits_of_another_kind_are_caught(tiny_model: Path, wrong: dict[str, Any], said: str) -> None:
    import transformers

    right = {
        "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.float32,
        "llm_int8_skip_modules": ["model.visual", "lm_head"],
    }  # fmt: skip
    for chosen in (right, right | wrong):
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            tiny_model, quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True, **chosen),
            dtype=torch.float32, device_map={"": "cpu"},
        )  # fmt: skip
        if chosen is right:
            check_precision(model, Qwen2VL, "nf4", torch.float32)
            continue
        with pytest.raises(IntegrityFailure, match=said):
            check_precision(model, Qwen2VL, "nf4", torch.float32)


def test_the_digest_sees_every_byte_and_every_name(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    seen = {digest_of(model)}
    assert seen == {digest_of(tiny_model)}
    for path in sorted(model.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        seen.add(digest_of(model))
        path.write_bytes(whole)
    path.rename(path.with_name("renamed"))
    seen.add(digest_of(model))
    assert len(seen) == len(list(model.iterdir())) + 2
    assert load(tiny_model, "fp32", "cpu").digest == digest_of(tiny_model)
