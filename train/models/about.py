"""What a model directory is, before anything of it is loaded: family, size, licence, tokens an image, memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from audit.errors import BadInput, ClocheError
from train.estimate import GGUF_BYTES, How, Memory, Shape, Work, memory
from train.gguf.files import digest_over, digests_of
from train.models.directory import check_directory, family_of
from train.models.family import Family
from train.models.parts import Parts, parts_of, shapes_in, stored_in_bf16, without_tied_head

_USUAL, _LARGEST = 448, 4096
_SERVED_CONTEXT = 4096


@dataclass(frozen=True)
class Known:
    """What is read of a model directory without its weights."""

    directory: Path
    """Where it is."""
    family: Family
    """What is particular to it."""
    config: Any
    """transformers' config."""
    shape: Shape
    """Its numbers."""
    parts: Parts
    """Its parameters."""
    stored_in_bf16: bool = False
    """Whether its files hold bf16."""


def known(directory: Path, max_visual_tokens: int | None = None) -> Known:
    """Read a model directory. Raises as check_directory, and BadInput where its files contradict each other."""
    import transformers

    check_directory(directory)
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # what a strange config.json raises in transformers has no root of its own
        raise _unreadable(directory, error) from error
    try:
        family = family_of(directory, max_visual_tokens)
        shapes = shapes_in(directory)
        tied = any(getattr(one, "tie_word_embeddings", False) for one in (config.get_text_config(), config))
        parts = parts_of(without_tied_head(shapes, tied), family.lora_targets, family.vision_lora_targets)
        return Known(directory, family, config, Shape.of(config), parts, stored_in_bf16(directory))
    except ClocheError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(directory, error) from error


def _unreadable(directory: Path, error: Exception) -> BadInput:
    named = Path(error.filename).name if isinstance(error, OSError) and error.filename else "config.json"
    return BadInput(
        f"{named} cannot be read: {type(error).__name__}",
        where=str(directory),
        hint="config.json and preprocessor_config.json must be those the weights came with; copy the model again",
    )


def licence_of(directory: Path) -> tuple[str, str]:
    """Name and first line of the licence file; two empty strings where there is none."""
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.name.lower().startswith(("license", "licence", "copying", "notice")):
            with path.open(encoding="utf-8", errors="replace") as file:
                lines = (line.strip() for line in file.read(10_000).splitlines())
            return path.name, next((line[:200] for line in lines if line), "")
    return "", ""


def visual_tokens(family: Family) -> dict[str, int]:
    """Visual tokens of an image of the usual size, and of a very large one, within the budget."""
    return {
        f"{side}x{side}": family.visual_tokens(family.grid(family.fitted(Image.new("RGB", (side, side)))))
        for side in (_USUAL, _LARGEST)
    }


def to_train(of: Known, how: How) -> Memory:
    """Memory of NF4 LoRA on one row of an image of the usual size, and a caption."""
    grid = of.family.grid(of.family.fitted(Image.new("RGB", (_USUAL, _USUAL))))
    work = Work(
        tokens=sum(of.family.expansion(grid, "").counts) + 256,
        learned=192,
        patches=of.family.tower_patches(grid),
        crossed=of.family.feature_bytes(grid, 1, 1),
    )
    return memory(of.parts, of.shape, work, how)


def to_serve(of: Known) -> dict[str, int]:
    """Bytes to answer with, by quantisation: language model, vision in 16 bits, keys and values of the context."""
    language, vision = of.parts.language + of.parts.embeddings, of.parts.vision + of.parts.projector
    context = min(_SERVED_CONTEXT, of.shape.context)
    cache = 2 * of.shape.layers * of.shape.kv_heads * of.shape.head_dim * 2 * context
    return {name: int(language * each) + 2 * vision + cache for name, each in GGUF_BYTES.items()}


def about(directory: Path) -> dict[str, Any]:
    """Everything that `cloche models show` says of a directory, as plain values; digests take a while."""
    of = known(directory)
    name, line = licence_of(directory)
    parts = of.parts
    files = digests_of(directory)
    return {
        "directory": str(directory),
        "family": of.family.model_type,
        "parameters": {
            "total": parts.total,
            "language": parts.language,
            "embeddings": parts.embeddings,
            "vision": parts.vision,
            "projector": parts.projector,
        },
        "licence": {"file": name, "first_line": line},
        "visual_tokens": visual_tokens(of.family),
        "context": of.shape.context,
        "train_bytes": {
            f"nf4, {device}": to_train(of, How("nf4", device, 32, "adamw", device == "cuda", of.stored_in_bf16)).peak
            for device in ("cpu", "cuda")
        },
        "serve_bytes": to_serve(of),
        "digest": digest_over(files),
        "files": {n: {"bytes": (directory / n).stat().st_size, "sha256": digest} for n, digest in files.items()},
    }
