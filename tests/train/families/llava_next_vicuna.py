"""A tiny random LLaVA-NeXT with a language model of Vicuna's shape: its tokenizer, and its template beside it."""

import json
from pathlib import Path
from typing import Any

from tests.train.families.case import Case
from tests.train.families.llava_next_llama3 import SIZES, processor, sentences, write_with

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Reads lists of parts alone, and writes nothing behind an answer but a space."""


def tokenizer(**more: Any) -> Any:
    """SentencePiece's BPE with bytes to fall back on, as transformers' Llama tokenizer builds it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.train_from_iterator(sentences(), trainers.BpeTrainer(vocab_size=220))
    learned = json.loads(core.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: k for k, piece in enumerate([*first, *sorted(learned["vocab"], key=learned["vocab"].get)])}
    words = LlamaTokenizer(
        vocab=vocabulary, merges=[tuple(pair) for pair in learned["merges"]], pad_token="<unk>",
        add_bos_token=True, **more,
    )  # fmt: skip
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return words


def write(directory: Path) -> Path:
    """A whole model directory, the template in the file in which v1.6 checkpoints have it."""
    write_with(directory, tokenizer(legacy=False), seed=1)
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return directory


CASE = Case("llava_next", write, processor, SIZES, golden=6.510134, lora_linears=14)
