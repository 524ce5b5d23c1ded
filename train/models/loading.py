"""Open a model directory: safetensors only, local only, the language Linears in 4 bits and nothing else (DESIGN §4)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from audit.errors import BadInput, IntegrityFailure
from train.data.encode import Encoder
from train.gguf.files import digest_of
from train.models.directory import FAMILIES, check_directory
from train.models.family import Family

Precision = Literal["nf4", "int8", "bf16", "fp32"]


@dataclass(frozen=True)
class Loaded:
    """A model ready to train or answer."""

    model: Any
    """transformers model, frozen, in eval mode."""
    tokenizer: Any
    """Its own fast tokenizer."""
    family: Family
    """What is particular to it."""
    encoder: Encoder
    """Conversation to tokens."""
    directory: Path
    """Where it came from."""
    digest: str
    """SHA-256 over the names and SHA-256s of its files."""
    precision: Precision
    """How its language Linears are held."""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        found: torch.device = self.model.device
        return found

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end an answer: the end of the turn, and the end of the text."""
        ids = self.model.generation_config.eos_token_id if self.model.generation_config else None
        named = ids if isinstance(ids, list) else [ids]
        written = self.tokenizer.convert_tokens_to_ids(self.encoder.stop) if self.encoder.stop else None
        ends = (*named, written, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        return frozenset(t for t in ends if t is not None)


def load(
    directory: Path,
    precision: Precision = "fp32",
    device: str = "auto",
    max_visual_tokens: int | None = None,
    digest: str = "",
) -> Loaded:
    """Open a model directory.

    Args:
        precision: ``nf4`` holds the language Linears in 4 bits with double quantisation and leaves everything else
            in 16 bits (in fp32 on a CPU); ``bf16`` and ``fp32`` hold all of it so.
        device: ``auto`` takes a GPU where there is one.
        max_visual_tokens: budget an image; None is the family's own.
        digest: that of the directory, where the caller has just taken it; else it is taken here.
    Raises:
        BadInput, Refused: see check_directory; also truncated weights.
        IntegrityFailure: a module is not held in the precision that was asked for.
    """
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = check_directory(directory)["model_type"]
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    compute = torch.float32 if place == "cpu" or precision == "fp32" else torch.bfloat16
    family_class = FAMILIES[kind]
    quantisation = None
    if precision == "nf4":
        quantisation = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=[*family_class.vision, "lm_head"],
        )
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        model, found = transformers.AutoModelForImageTextToText.from_pretrained(
            directory,
            config=config,
            local_files_only=True,
            dtype=compute,
            quantization_config=quantisation,
            device_map={"": place},
            attn_implementation="sdpa",
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        tokenizer = open_tokenizer(directory)
        processor = json.loads((directory / "preprocessor_config.json").read_text())
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"the model cannot be read: {_first_line(error)}",
            where=str(directory),
            hint="copy the model again from its medium and compare its digests",
        ) from error
    if unfit := sorted({str(k) for k in found["missing_keys"]} | {str(k[0]) for k in found["mismatched_keys"]}):
        raise BadInput(
            f"the weights do not fit config.json: {unfit[0]} is missing or of another shape",
            where=str(directory),
            hint="copy the model again from its medium and compare its digests",
        )
    model.eval().requires_grad_(False)
    check_precision(model, family_class, precision)
    if precision == "nf4":
        _keep_differentiable(model)
    family = family_class.of(config, processor, max_visual_tokens)
    return Loaded(
        model, tokenizer, family, Encoder(tokenizer, family), directory, digest or digest_of(directory), precision
    )


def open_tokenizer(directory: Path) -> Any:
    """The model's own tokenizer, its chat template with it, and a token to pad with.

    Raises: BadInput where the model has no chat template.
    """
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True, use_fast=True)
    older = directory / "chat_template.json"  # where processors kept it; transformers' tokenizers do not look there
    if tokenizer.chat_template is None and older.is_file():
        tokenizer.chat_template = json.loads(older.read_text())["chat_template"]
    if tokenizer.chat_template is None:
        raise BadInput(
            "the model has no chat template",
            where=str(directory),
            hint="bring its chat_template.jinja or chat_template.json, or the instruction-tuned release",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _keep_differentiable(model: Any) -> None:
    """Switch off bitsandbytes' CPU inference kernel.

    On CPUs with AVX512-BF16 a Linear4bit that runs once in eval mode repacks its weights for a kernel without a
    backward (bitsandbytes 0.50, ``Linear4bit.forward``): after a rollout, gradients would be lost without a word.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def check_precision(model: Any, family: Family | type[Family], precision: Precision) -> None:
    """Walk the modules: every language Linear is held as asked for, and nothing else is quantised.

    Raises: IntegrityFailure naming the first module that is not (STACK 1.2: skip lists silently do nothing).
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    wanted = {"nf4": Linear4bit, "int8": Linear8bitLt}.get(precision)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        language = name.startswith(family.language + ".")
        held = type(module) if isinstance(module, Linear4bit | Linear8bitLt) else None
        if held is not (wanted if language else None):
            what = "is not quantised as asked" if language else "is quantised and must not be"
            raise IntegrityFailure(
                f"the Linear {name} {what}",
                where="model loading",
                hint="report this: the family's skip list does not fit this model",
            )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
