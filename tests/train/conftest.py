"""A tiny random Qwen2-VL with its own tokenizer, made once a session: no download, no training."""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from audit.conversation import Turn

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Special tokens; the ids are their places in this tuple, as in the starter."""
QWEN2_PRE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenizer expression, written out a second time so that a slip in train/gguf is seen."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIDE = 128
"""Pixels along each side of a training picture."""


def tokenizer_of(vocabulary: int = 512) -> Any:
    """A byte-level BPE trained on a few made sentences, with Qwen2's normaliser and pre-tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_PRE), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    core.decoder = decoders.ByteLevel()
    words = re.findall(
        r"\S+", "Is the left right red lesion visible in this slice? Yes. No. What plane and where? Ünï 12"
    )
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 8)) for _ in range(400)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    core.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE,
        extra_special_tokens=[s for s in SPECIAL if s not in ("<|im_end|>", "<|endoftext|>")],
    )  # fmt: skip


def tiny_config(vocabulary: int = 512) -> Any:
    """The starter's shape made smaller: vision 3 x 96 with patches of 8 pixels, language 2 x 256."""
    from transformers import Qwen2VLConfig

    token = {name: index for index, name in enumerate(SPECIAL)}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": vocabulary, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True, "use_sliding_window": False, "bos_token_id": token["<|endoftext|>"],
            "eos_token_id": token["<|im_end|>"], "pad_token_id": token["<|endoftext|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
        },
        vision_config={
            "depth": 3, "embed_dim": 96, "hidden_size": 256, "num_heads": 3, "mlp_ratio": 4, "patch_size": 8,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
        },
        image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True, bos_token_id=token["<|endoftext|>"], eos_token_id=token["<|im_end|>"],
        pad_token_id=token["<|endoftext|>"],
    )  # fmt: skip


def write_tiny_model(directory: Path, seed: int = 0) -> Path:
    """A whole model directory: weights, config, tokenizer, chat template, image processor."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(tiny_config())
    with torch.no_grad():  # biases and norms start at 0 and 1: move them, so that a forgotten one is seen
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * (0.1 if weight.ndim == 1 else 0.06))
        model.get_input_embeddings().weight[SPECIAL.index("<|im_end|>")].mul_(4)  # so that some answers end
    model.save_pretrained(directory)
    tokenizer_of().save_pretrained(directory)
    square = SIDE * SIDE
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 8, "merge_size": 2, "temporal_patch_size": 2,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "min_pixels": square, "max_pixels": square,
        "size": {"shortest_edge": square, "longest_edge": square},
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    return directory


def picture(seed: int = 0, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A smooth random colour picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Built:
    """The tiny model on its way to llama.cpp."""

    directory: Path
    """The transformers directory."""
    text: Path
    """GGUF of the language model, float32."""
    mmproj: Path
    """GGUF of the vision tower, float32."""


class Transformers:
    """The reference: Qwen2-VL as transformers runs it, fp32, on the same pixels."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

        self.torch = torch
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)

    def ids(self, image: Image.Image | None, turns: list[Turn]) -> list[int]:
        """Token ids of the prompt, image tokens expanded."""
        parts: list[dict[str, Any]] = [{"role": t.role, "content": t.text} for t in turns]
        if image is not None:
            parts[0]["content"] = [{"type": "image"}, {"type": "text", "text": parts[0]["content"]}]
        text = self.tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if image is None:
            return ids
        count, pad = (image.width // 16) * (image.height // 16), SPECIAL.index("<|image_pad|>")
        return [i for token in ids for i in ([token] * count if token == pad else [token])]

    def logits(self, image: Image.Image | None, turns: list[Turn], continuation: list[int]) -> np.ndarray:
        """(T, V) float32: row t predicts continuation[t]."""
        from train.models.qwen2_vl import patches_of

        torch, prompt = self.torch, self.ids(image, turns)
        ids = torch.tensor([prompt + continuation])
        more = {}
        if image is not None:
            pixels = (np.asarray(image.convert("RGB"), np.float32) / 255 - 0.5) / 0.5
            more["pixel_values"] = torch.from_numpy(patches_of(pixels, 8, 2, 2))
            more["image_grid_thw"] = torch.tensor([[1, image.height // 8, image.width // 8]])
            more["mm_token_type_ids"] = (ids == SPECIAL.index("<|image_pad|>")).int()
        with torch.inference_mode():
            found = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0]
        rows: np.ndarray = found[len(prompt) - 1 : len(prompt) - 1 + len(continuation)].float().numpy()
        return rows


def _converter() -> Path | None:
    named = os.environ.get("CLOCHE_CONVERTER")
    place = Path(named) if named else Path(sys.prefix) / "share" / "cloche" / "converter"
    return place if (place / "convert_hf_to_gguf.py").is_file() else None


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random Qwen2-VL."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def built(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The tiny model converted to GGUF in float32."""
    if _converter() is None:
        pytest.skip("no GGUF converter: run make setup, or set CLOCHE_CONVERTER")
    from train.gguf.convert import convert

    found = convert(tiny_model, tmp_path_factory.mktemp("gguf"), outtype="f32")
    return Built(tiny_model, found.text, found.mmproj)


@pytest.fixture(scope="session")
def reference(tiny_model: Path) -> Iterator[Transformers]:
    """The tiny model in transformers, fp32."""
    yield Transformers(tiny_model)


@pytest.fixture(scope="session")
def loaded(tiny_model: Path) -> Any:
    """The tiny model as training opens it, fp32 on the CPU; pictures from 16 x 16 to 128 x 128 keep their size."""
    from train.data.encode import Encoder
    from train.models.loading import load

    opened = load(tiny_model, "fp32", "cpu")
    family = replace(opened.family, min_pixels=256)
    return replace(opened, family=family, encoder=Encoder(opened.tokenizer, family))


@pytest.fixture
def features(loaded: Any) -> Any:
    """Features of pictures that their names describe: ``seed:width:height``, a transform's suffix behind it."""
    from train.models.features import Features
    from train.rl.views import original, shown

    def opened(name: str) -> Image.Image:
        return shown(picture(*map(int, original(name).split(":"))), name)

    return Features(loaded, opened)
