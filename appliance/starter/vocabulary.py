"""The starter's tokenizer: byte-level BPE with Qwen2's pre-tokenizer and NFC, learned from its own training texts."""

import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from appliance.starter.architecture import SPECIAL, VOCABULARY
from appliance.starter.descriptions import picture
from appliance.starter.lessons import ANSWER_IS
from appliance.starter.names import name, word
from appliance.starter.pictures import random_scene
from appliance.starter.reports import report
from synth.assembly import CAPTION_TURNS
from synth.judge import FORM
from synth.triplet import INFORMATIVE, PRECISE

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's split pattern, so that ``tokenizer.ggml.pre = qwen2`` is true of the exported GGUF."""

TEMPLATE = (
    (
        "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n"
        "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
        "{%- for part in message['content'] -%}"
        "{%- if part['type'] in ('image', 'image_url') -%}<|vision_start|><|image_pad|><|vision_end|>"
        "{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}{%- endif -%}<|im_end|>\n"
        "{%- endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
    )
    .replace("}}\n", "}}{{ '\\n' }}")
    .replace(">\n", ">{{ '\\n' }}")
    .replace("assistant\n", "assistant{{ '\\n' }}")
)
"""ChatML without a default system prompt. Newlines are written as expressions: ``{%-`` would eat bare ones."""


def texts(rng: random.Random, count: int) -> list[str]:
    """Sample texts of the kind that the starter is trained on."""
    others = [name(rng) for _ in range(200)]
    fixed = [
        *CAPTION_TURNS,
        PRECISE,
        INFORMATIVE,
        *(a.format("") for a in ANSWER_IS),
        FORM.format("", "", ""),
        "user",
        "assistant",
    ]
    found = []
    for _ in range(count):
        found += fixed
        story = report(rng, others) if rng.random() < 0.5 else picture(random_scene(rng), rng)
        found += [story.caption, *(t for f in story.facts for t in (f.question, f.informative, f.precise))]
        found += [f" {word(rng)}" for _ in range(12)]
    return found


def build(out: Path, seed: int = 0) -> None:
    """Learn the vocabulary and write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(random.Random(seed), 6000), trainer)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 2048,
        "padding_side": "right",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "errors": "replace",
        "split_special_tokens": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(TEMPLATE)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 128 * 128, "longest_edge": 128 * 128},
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
