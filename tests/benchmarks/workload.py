"""DESIGN section 11's workload: a tiny Qwen2-VL, 448 x 448 images of 256 visual tokens.

The language model is 4 x 512 and the tower 5 x 320, so that the tower takes 63 % of a forward pass, as it
does in Qwen2-VL-2B at this size (STACK 1.4).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE, QUESTION, ANSWER = 448, 40, 12
"""Pixels on a side, tokens of a question, tokens of an answer, about."""
TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
"""The Linears that both sides adapt."""
WORDS = "is the left right red lesion visible in this slice what plane and where".split(" ")  # noqa: SIM905
RANK, ALPHA, RATE = 16, 32, 1e-4
"""LoRA and AdamW, the same on both sides."""


def with_tests_on_path() -> None:
    """Let a benchmark that is run as a file import what the tests share."""
    root = str(Path(__file__).parents[2])
    if root not in sys.path:
        sys.path.append(root)


def write_model(directory: Path) -> Path:
    """The model with its tokenizer, template and image processor."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    with_tests_on_path()
    from tests.train.conftest import tiny_config, tokenizer_of

    config = tiny_config().to_dict()
    del config["text_config"]["layer_types"]
    config["text_config"] |= {
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 2,
    }  # fmt: skip
    config["vision_config"] |= {"depth": 5, "embed_dim": 320, "hidden_size": 512, "num_heads": 4, "patch_size": 14}
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(Qwen2VLConfig(**config)).save_pretrained(directory)
    tokenizer = tokenizer_of()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|im_end|>\n", "<|im_end|>"
    )  # TRL would learn the newline
    tokenizer.save_pretrained(directory)
    square = SIDE * SIDE
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "min_pixels": square, "max_pixels": square,
        "size": {"shortest_edge": square, "longest_edge": square},
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return directory


def picture(number: int) -> Image.Image:
    """A random picture of the workload's size."""
    noise = np.random.default_rng(number).integers(0, 256, (28, 28, 3), np.uint8)
    return Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def asked(images: int, questions: int) -> list[tuple[int, str, str]]:
    """(image, question, answer), image by image."""
    rng = np.random.default_rng(1)
    words = np.asarray(WORDS)
    return [
        (image, " ".join(rng.choice(words, QUESTION)), " ".join(rng.choice(words, ANSWER)))
        for image in range(images)
        for _ in range(questions)
    ]


def reset_peak() -> int:
    """Resident bytes now; the kernel's high-water mark starts again from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Resident bytes at most since `reset_peak`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines: dict[str, Any] = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) << 10
