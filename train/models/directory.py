"""A model directory before its weights are opened: is it one, of which family, and what is particular to it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audit.errors import BadInput, Refused
from train.gguf.files import PICKLES
from train.models.chat import chat_template_of
from train.models.family import Family
from train.models.idefics3 import Idefics3
from train.models.llava_next import LlavaNext
from train.models.mllama import Mllama
from train.models.qwen2_5_vl import Qwen25VL
from train.models.qwen2_vl import Qwen2VL
from train.models.qwen3_vl import Qwen3VL
from train.models.smolvlm import SmolVLM

FAMILIES: dict[str, type[Family]] = {
    one.model_type: one for one in (Qwen2VL, Qwen25VL, Qwen3VL, Mllama, Idefics3, SmolVLM, LlavaNext)
}
"""Families by ``model_type``."""


def check_directory(directory: Path) -> dict[str, Any]:
    """Say clearly why a directory is not a model that we load; returns its parsed config.json.

    Raises:
        BadInput: no directory, no or broken config.json, no weights.
        Refused: pickle weights, or a family that is not known.
    """
    if not directory.is_dir():
        raise BadInput(
            "there is no model directory here",
            where=str(directory),
            hint="name a directory that holds config.json and *.safetensors",
        )
    try:
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        kind = config["model_type"]
    except FileNotFoundError:
        raise BadInput(
            "this directory is not a model: it has no config.json",
            where=str(directory),
            hint="name the directory that was saved with save_pretrained",
        ) from None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise BadInput(
            "config.json is broken or names no model_type",
            where=str(directory / "config.json"),
            hint="copy the model again from its medium",
        ) from None
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise Refused(
            "pickle weights can run code and are never loaded",
            where=str(directory / pickles[0]),
            hint="save the model with safe_serialization=True elsewhere and bring the *.safetensors",
        )
    if not any(directory.glob("*.safetensors")):
        raise BadInput(
            "the directory has no weights (*.safetensors)",
            where=str(directory),
            hint="copy the model again from its medium",
        )
    if not (directory / "tokenizer.json").is_file():
        raise BadInput(
            "the directory has no tokenizer.json",
            where=str(directory),
            hint="bring the model with its fast tokenizer: without it transformers would make an empty one",
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise Refused(
            f"the model family {kind!r} is not supported; supported: {', '.join(sorted(FAMILIES))}",
            where=str(directory / "config.json"),
            hint="bring a model of a supported family",
        )
    return config


def check_vocabulary(directory: Path, tokenizer: Any, embeddings: int | None, image_token: int) -> None:
    """Refuse a tokenizer that is not the model's.

    Args:
        embeddings: tokens for which the model holds an embedding; None where its weights are not open.
        image_token: id of the token that stands for an image.
    Raises: BadInput where a token has no embedding, or the tokenizer does not know the image token.
    """
    last = max(tokenizer.get_vocab().values(), default=-1)
    if embeddings is not None and max(image_token, last) >= embeddings:
        what = f"the image token {image_token}" if image_token >= embeddings else f"token {last} of tokenizer.json"
        raise BadInput(
            f"{what} has no embedding: the model holds {embeddings}",
            where=str(directory),
            hint="bring the tokenizer and config.json of the same release as the weights",
        )
    if not 0 <= image_token <= last or tokenizer.convert_ids_to_tokens(image_token) is None:
        raise BadInput(
            f"tokenizer.json does not know the image token {image_token} of config.json",
            where=str(directory),
            hint="bring the tokenizer and config.json of the same release as the weights",
        )


def family_of(directory: Path, max_visual_tokens: int | None = None) -> Family:
    """The family of a model directory, without its weights. Raises as check_directory."""
    import transformers

    kind = check_directory(directory)["model_type"]
    config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    return FAMILIES[kind].of(config, processor_of(directory), max_visual_tokens)


def tokenizer_of(directory: Path, family: Family, embeddings: int | None = None) -> Any:
    """A model's own fast tokenizer, with the chat template that writes its images, and a token to pad with.

    Args:
        embeddings: see check_vocabulary.
    Raises: BadInput where it cannot be read or is not the model's, or no template of the release writes images.
    """
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True, use_fast=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"the tokenizer cannot be read: {type(error).__name__}",
            where=str(directory),
            hint="copy the model again from its medium and compare its digests",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_vocabulary(directory, tokenizer, embeddings, family.image_token)
    slot = tokenizer.convert_ids_to_tokens(family.image_token)
    tokenizer.chat_template = chat_template_of(directory, tokenizer, slot)
    return tokenizer


def processor_of(directory: Path) -> dict[str, Any]:
    """What a model says of its image processor: preprocessor_config.json, or its part of transformers 5's one file."""
    own, joint = directory / "preprocessor_config.json", directory / "processor_config.json"
    if joint.is_file() and not own.is_file():
        whole: dict[str, Any] = json.loads(joint.read_text())
        return dict(whole["image_processor"])
    found: dict[str, Any] = json.loads(own.read_text())
    return found


def family_noted(note: Mapping[str, Any]) -> Family:
    """The family that `Family.noted` wrote down."""
    return FAMILIES[note["model_type"]](**{k: _plain(v) for k, v in note.items() if k != "model_type"})


def _plain(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(_plain(v) for v in value) if isinstance(value, list) else value
