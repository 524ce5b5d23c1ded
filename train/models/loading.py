"""Open a model directory: safetensors only, local only, the language Linears in 4 bits and nothing else (DESIGN §4)."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from audit.errors import BadInput, IntegrityFailure
from train.data.encode import Encoder
from train.gguf.files import digest_of
from train.models import attention
from train.models.devices import computed_in, placed
from train.models.directory import FAMILIES, check_directory, processor_of, tokenizer_of
from train.models.family import Family
from train.models.parts import stored_in_bf16
from train.models.quiet import quieten

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
    """How its language Linears are held: ``fp32`` where bf16 was asked of a CPU that has none."""

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
        precision: ``nf4`` holds the language Linears in 4 bits with double quantisation, ``int8`` in 8 bits; the rest
            (tower, projector, head, embedding, norms) is bf16 on a GPU, and on a CPU that computes bf16 itself where
            the files hold bf16; else fp32. ``bf16`` holds all of it so (fp32 on other CPUs), ``fp32`` too.
        device: ``auto`` takes a GPU where there is one; else ``cpu``, ``cuda`` or ``cuda:N``.
        max_visual_tokens: budget an image; None is the family's own.
        digest: that of the directory, where the caller has just taken it; else it is taken here.
    Raises:
        BadInput, Refused: see check_directory; also truncated weights, no chat template, no such precision.
        EnvironmentProblem: the device is not there.
        IntegrityFailure: a module is not held in the precision that was asked for.
    """
    import transformers
    from safetensors import SafetensorError

    quieten()
    attention.register()
    kind = check_directory(directory)["model_type"]
    if precision not in get_args(Precision):
        raise BadInput(
            f"{precision!r} is no precision", where="--precision", hint=f"use one of {', '.join(get_args(Precision))}"
        )
    place, family_class = placed(device), FAMILIES[kind]
    try:
        compute = computed_in(precision, place, stored_in_bf16(directory))
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        model, found = transformers.AutoModelForImageTextToText.from_pretrained(
            directory,
            config=config,
            local_files_only=True,
            dtype=compute,
            quantization_config=_quantisation(family_class, precision, compute),
            device_map={"": place},
            attn_implementation={"": "sdpa", "text_config": attention.NAME, "vision_config": "sdpa"},
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        processor = processor_of(directory)
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
    if precision == "bf16" and compute == torch.float32:
        precision = "fp32"
    check_precision(model, family_class, precision, compute)
    if precision == "nf4":
        _keep_differentiable(model)
    family = family_class.of(config, processor, max_visual_tokens)
    tokenizer = tokenizer_of(directory, family, model.get_input_embeddings().weight.shape[0])
    return Loaded(
        model, tokenizer, family, Encoder(tokenizer, family), directory, digest or digest_of(directory), precision
    )


def _quantisation(family: type[Family], precision: Precision, compute: torch.dtype) -> Any:
    """transformers' words for nf4 and int8; None for the others."""
    import transformers

    kept = [*family.vision, "lm_head"]
    if precision == "nf4":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=kept,
        )
    if precision == "int8":
        # It says at every call that it casts to fp16 within; that is what LLM.int8 does (arXiv 2208.07339).
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return None


def _keep_differentiable(model: Any) -> None:
    """Switch off bitsandbytes' CPU inference kernel.

    On CPUs with AVX512-BF16 a Linear4bit that runs once in eval mode repacks its weights for a kernel without a
    backward (bitsandbytes 0.50, ``Linear4bit.forward``): after a rollout, gradients would be lost without a word.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def check_precision(
    model: Any, family: Family | type[Family], precision: Precision, compute: torch.dtype | None = None
) -> None:
    """Walk the model: every language Linear is held as asked for, nothing else is quantised, and all of that is alike.

    Args:
        compute: what every weight that is not quantised must be held in, and 4-bit Linears compute in; None does not
            look. No family keeps a weight in another type on purpose.
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
            raise _misheld(f"the Linear {name} {what}", "the family's skip list does not fit this model")
        if held is Linear4bit:
            _check_four_bits(name, module, compute)
    for name, weight in model.named_parameters():
        if compute is not None and weight.is_floating_point() and weight.dtype != compute:
            what = f"{name} is held in {weight.dtype}, not in {compute}"
            raise _misheld(what, "transformers keeps a part of this model in another precision")


def _check_four_bits(name: str, module: Any, compute: torch.dtype | None) -> None:
    """Raise IntegrityFailure where a Linear4bit is no NF4 with double quantisation (arXiv 2305.14314, section 3)."""
    weight, wrong = module.weight, ""
    if weight.quant_type != "nf4":
        wrong = f"is held in {weight.quant_type}, not in nf4"
    elif not weight.compress_statistics:
        wrong = "is quantised once, not twice"
    elif compute is not None and module.compute_dtype != compute:
        wrong = f"computes in {module.compute_dtype}, not in {compute}"
    if wrong:
        raise _misheld(f"the Linear {name} {wrong}", "transformers did not quantise this model as it was told")


def _misheld(what: str, why: str) -> IntegrityFailure:
    return IntegrityFailure(what, where="model loading", hint=f"report this: {why}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
