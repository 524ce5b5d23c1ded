"""What a model is made of, read from the headers of its safetensors files: no weight is loaded."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from audit.errors import BadInput

_HEADER_LIMIT = 100 << 20
"""Bytes of a header at most. Source: the safetensors format."""
_PROJECTOR = re.compile(
    r"multi_modal_projector|visual\.(deepstack_)?merger|connector|modality_projection|image_newline"
)
_VISION = re.compile(r"(^|\.)(visual|vision_tower|vision_model)\.")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|lm_head)\.weight$")
_LINEAR = r"^(?!.*embed).*\.weight$"
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes by tensor name."""


@dataclass(frozen=True)
class Parts:
    """Parameters by part, and the language Linears."""

    vision: int
    """Parameters of the tower."""
    projector: int
    """Parameters between tower and language model."""
    embeddings: int
    """Parameters of token embeddings and head; a tied head counts once."""
    language: int
    """Parameters of everything else."""
    linears: tuple[tuple[int, int], ...]
    """(out, in) of each language Linear: what 4 bits hold."""
    adapted: tuple[tuple[int, int], ...]
    """(out, in) of each Linear that takes LoRA."""
    seeing: tuple[tuple[int, int], ...] = ()
    """(out, in) of each Linear of tower and projector that takes LoRA where they learn, too."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.vision + self.projector + self.embeddings + self.language

    @property
    def in_linears(self) -> int:
        """Parameters of the language Linears."""
        return sum(o * i for o, i in self.linears)

    def adapter(self, rank: int, vision: bool = False) -> int:
        """Parameters of an adapter of this rank, on tower and projector, too, or not."""
        return rank * sum(o + i for o, i in (*self.adapted, *(self.seeing if vision else ())))


def parts_of(shapes: Shapes, lora_targets: str, vision_lora_targets: str = "") -> Parts:
    """Sort a model's tensors into parts, by their names on disk or in memory.

    Args:
        lora_targets: the family's root-anchored pattern; what follows ``layers`` in it is the same on disk.
        vision_lora_targets: the same of tower and projector; what follows ``model`` in it is the same on disk. Empty
            for all their Linears: what has two axes and is no embedding.
    """
    adapted_name = re.compile(r"layers" + lora_targets.partition("layers")[2] + r"\.weight$")
    seeing = vision_lora_targets.removeprefix(r"model\.")
    seeing_name = re.compile(rf"(^|\.)({seeing})\.weight$" if seeing else _LINEAR)
    counts = {"vision": 0, "projector": 0, "embeddings": 0, "language": 0}
    linears, adapted, sees = [], [], []
    for name, shape in shapes.items():
        part = _part(name)
        counts[part] += prod(shape)
        if part == "language" and len(shape) == 2:
            linears.append((shape[0], shape[1]))
            if adapted_name.search(name):
                adapted.append((shape[0], shape[1]))
        if part in ("vision", "projector") and len(shape) == 2 and seeing_name.search(name):
            sees.append((shape[0], shape[1]))
    return Parts(**counts, linears=tuple(linears), adapted=tuple(adapted), seeing=tuple(sees))


def _part(name: str) -> str:
    if _PROJECTOR.search(name):
        return "projector"
    if _VISION.search(name):
        return "vision"
    return "embeddings" if _EMBEDDING.search(name) else "language"


def shapes_in(directory: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a directory's safetensors files. Raises BadInput naming a file that is none."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        found |= shapes_of_file(path)
    return found


def shapes_of_file(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a safetensors file's tensors. Raises BadInput where it is none, or is cut off."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= min(_HEADER_LIMIT, path.stat().st_size - 8):
                raise ValueError("size of the header")
            header = json.loads(file.read(size))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        if path.stat().st_size < 8 + size + end:
            raise ValueError("cut off")
        return {name: tuple(int(n) for n in entry["shape"]) for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise BadInput(
            "this is no whole safetensors file",
            where=str(path),
            hint="copy the model again from its medium and compare its digests",
        ) from None


def stored_in_bf16(directory: Path) -> bool:
    """Whether every weight lies in bf16 on the disk; reads the heads of the files alone."""
    from safetensors import safe_open

    kinds = set()
    for shard in sorted(directory.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            kinds |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return kinds == {"BF16"}


def without_tied_head(shapes: Shapes, tied: bool) -> Shapes:
    """The tensors without a head that is the embedding once more (some files hold both)."""
    names: Iterable[str] = [n for n in shapes if not (tied and n.endswith("lm_head.weight"))]
    return {name: shapes[name] for name in names}
