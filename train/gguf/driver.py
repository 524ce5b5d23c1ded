"""Runs llama.cpp's converter; started by convert.py as a program of its own, never imported.

    python -I -B driver.py CONVERTER MODEL TEXT_OUT MMPROJ_OUT OUTTYPE NAME

The converter knows a pre-tokenizer by the hash of one encoded string, which depends on the vocabulary, so that a model
with Qwen2's rules and a vocabulary of its own is unknown to it. Here the rules themselves are compared; where they are
not Qwen2's, the converter's own answer stands.
"""

import importlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

QWEN2_EXPRESSION = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text before its byte-pair merges; llama.cpp knows it under the name ``qwen2``."""


def has_qwen2_rules(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer.json normalises to NFC and cuts text as Qwen2 does."""
    steps = (tokenizer.get("pre_tokenizer") or {}).get("pretokenizers") or []
    if (tokenizer.get("normalizer") or {}).get("type") != "NFC" or len(steps) != 2:
        return False
    split, level = steps
    return (
        (split.get("type"), split.get("behavior"), split.get("invert")) == ("Split", "Isolated", False)
        and split.get("pattern", {}).get("Regex") == QWEN2_EXPRESSION
        and (level.get("type"), level.get("add_prefix_space")) == ("ByteLevel", False)
        and level.get("use_regex") is False
    )


def main(converter: Path, model: Path, text: Path, mmproj: Path, outtype: str, name: str) -> None:
    """Write the language model and, for a model that sees, its vision tower."""
    sys.path[:0] = [str(converter), str(converter / "gguf-py")]
    import gguf
    import torch

    conversion = importlib.import_module("conversion")  # of llama.cpp, in the converter's folder
    kinds, text_model = conversion.ModelType, conversion.TextModel
    own_answer = text_model.get_vocab_base_pre

    def pre_tokenizer(self: Any, tokenizer: Any) -> str:
        rules = model / "tokenizer.json"
        known = rules.is_file() and has_qwen2_rules(json.loads(rules.read_text("utf-8")))
        return "qwen2" if known else own_answer(self, tokenizer)

    own_sentences = text_model._set_vocab_sentencepiece

    def sentences(self: Any, add_to_gguf: bool = True) -> None:
        if not (model / "tokenizer.model").is_file():  # before it asks for the sentencepiece package
            raise FileNotFoundError(model / "tokenizer.model")
        own_sentences(self, add_to_gguf)

    text_model.get_vocab_base_pre, text_model._set_vocab_sentencepiece = pre_tokenizer, sentences
    types = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
    with torch.inference_mode():
        hparams = conversion.ModelBase.load_hparams(model, False)
        sees = "vision_config" in hparams
        for kind, out in ((kinds.TEXT, text), (kinds.MMPROJ, mmproj))[: 1 + sees]:
            architecture = conversion.get_model_architecture(hparams, kind)
            model_class = conversion.get_model_class(architecture, mmproj=kind == kinds.MMPROJ)
            model_class(model, types[outtype], out, model_name=name).write()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    places = [Path(argument) for argument in sys.argv[1:5]]
    main(places[0], places[1], places[2], places[3], sys.argv[5], sys.argv[6])
