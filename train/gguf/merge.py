"""Merge a LoRA adapter into the unquantised base, one shard at a time.

Merging into 4-bit weights would bake their rounding in; the base must therefore be 16 or 32 bits wide. Only one shard
is in memory at a time. Source: LoRA, arXiv 2106.09685, section 4.1: W = W0 + (alpha / r) B A.
"""

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from audit.errors import BadInput, EnvironmentProblem, Refused
from train.gguf.files import PICKLES, digest_of, digest_of_file, replaced

INDEX = "model.safetensors.index.json"
ADAPTER_KEY = "cloche.adapter"
"""Key of an adapter's safetensors metadata: JSON with r, alpha, rslora and base_digest."""
_COPIED = (".json", ".jinja", ".txt", ".model", ".tiktoken")
_COPIED_NAMES = ("LICENSE", "LICENCE", "NOTICE")
_UNQUANTISED = "merge into the 16-bit release of the same model"
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_PAIR = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as it lies in its file."""

    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    """Module name in memory -> (A (r, in), B (out, r))."""
    scale: float
    """What B A is multiplied by."""
    base_digest: str
    """``digest_of`` the base directory it was trained on."""


@dataclass(frozen=True)
class MergeReport:
    """What a merge did."""

    tensors: int
    """Tensors written."""
    merged: tuple[str, ...]
    """Names on disk of the tensors that a LoRA pair changed."""
    base_digest: str
    """Digest of the base directory."""
    adapter_digest: str | None
    """SHA-256 of the adapter file; None without an adapter."""
    dtype: str
    """Type of the weights written."""


def read_adapter(path: Path) -> Adapter:
    """Read one safetensors file with PEFT's key names.

    Raises:
        BadInput: not safetensors, no ``cloche.adapter`` entry, a tensor that is not one half of a LoRA pair (DoRA
            magnitudes, whole modules, biases), shapes that do not fit r, or a value that is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {})[ADAPTER_KEY])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        rank, alpha, digest = int(note["r"]), float(note["alpha"]), str(note["base_digest"])
        scale = alpha / math.sqrt(rank) if note.get("rslora") else alpha / rank
    except (SafetensorError, KeyError, TypeError, ValueError, ZeroDivisionError, OSError) as error:
        raise BadInput("this is not an adapter of ours", where=str(path), hint="cloche train makes one") from error
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = _PAIR.match(name)
        if found is None or tensor.ndim != 2:
            raise BadInput(f"the adapter holds {name}, which is no LoRA matrix of a linear layer", where=str(path))
        if not torch.isfinite(tensor).all():
            raise BadInput(f"the adapter's {name} holds a value that is not a finite number", where=str(path))
        halves.setdefault(found["module"], {})[found["side"]] = tensor
    for module, pair in halves.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != rank or pair["B"].shape[1] != rank:
            raise BadInput(f"the LoRA pair of {module} is incomplete or not of rank {rank}", where=str(path))
    return Adapter({m: (p["A"], p["B"]) for m, p in halves.items()}, scale, digest)


def names_on_disk(module: str) -> tuple[str, ...]:
    """Names that a module of transformers 5 may have in a checkpoint, the likeliest first.

    transformers renames older checkpoints in memory (``model.layers`` becomes ``model.language_model.layers``) and
    writes the old names back on saving, so both occur.
    """
    rules = (
        ("model.language_model.", "model."), ("model.visual.", "visual."),  # Qwen2-VL, Qwen2.5-VL
        ("model.language_model.", "language_model.model."), ("lm_head", "language_model.lm_head"),  # LLaVA, mllama
        ("model.vision_tower.", "vision_tower."), ("model.multi_modal_projector", "multi_modal_projector"),
        ("model.vision_model.", "vision_model."),
        ("model.vision_tower.", "vision_tower.vision_model."),  # CLIP's, which lost a storey in transformers 5
        ("model.vision_tower.", "model.vision_tower.vision_model."),
    )  # fmt: skip
    return (module, *(new + module.removeprefix(old) for old, new in rules if module.startswith(old)))


def merge(base: Path, adapter: Path | None, out: Path, dtype: str = "float16") -> MergeReport:
    """Write ``base`` with ``adapter`` added to it, as a model directory that the GGUF converter reads.

    Args:
        base: unquantised model directory, safetensors only.
        adapter: adapter file, or None to write the base alone.
        out: new directory; appears whole or not at all.
        dtype: ``float16``, ``bfloat16`` or ``float32``; sums are made in float32.

    Raises:
        BadInput: not a model directory, a broken shard, a LoRA pair without its base tensor, an overflow of ``dtype``.
        Refused: pickle weights, a quantised base, or an adapter trained on another base.
    """
    shards = _shards(base)
    kind = _DTYPES.get(dtype)
    if kind is None:
        raise BadInput(f"{dtype} is no type to merge into", hint=f"use one of {', '.join(_DTYPES)}")
    digest = digest_of(base)
    update = read_adapter(adapter) if adapter else Adapter({}, 0.0, digest)
    if update.base_digest != digest:
        raise Refused(
            f"the adapter was trained on the base {update.base_digest[:12]} and this base is {digest[:12]}",
            where=str(base), hint="name the base that the training run names: cloche runs",
        )  # fmt: skip
    homes = _homes(shards, update, base)
    weights: dict[str, str] = {}
    total = 0
    with replaced(out) as partial:
        partial.mkdir()
        for shard in shards:
            tensors = {name: _merged(name, t, homes, update, kind, shard) for name, t in _tensors(shard)}
            try:
                save_file(tensors, partial / shard.name, metadata={"format": "pt"})
            except SafetensorError as error:  # the library hides the OSError below
                raise EnvironmentProblem(f"weights could not be written: {error}", where=str(out)) from error
            weights |= dict.fromkeys(tensors, shard.name)
            total += sum(t.numel() * t.element_size() for t in tensors.values())
        _copy_the_rest(base, partial, dtype)
        if len(shards) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}
            (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return MergeReport(len(weights), tuple(sorted(homes)), digest, digest_of_file(adapter) if adapter else None, dtype)


def _shards(base: Path) -> list[Path]:
    """The weight files of a model directory, refused where they are pickles or already quantised."""
    if not (base / "config.json").is_file():
        raise BadInput("this is not a model directory: it has no config.json", where=str(base))
    pickles = sorted(p.name for p in base.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise Refused(
            f"{pickles[0]} is a pickle, which runs code when it is read", where=str(base),
            hint="use the safetensors release of this model and remove the pickle",
        )  # fmt: skip
    try:
        config = json.loads((base / "config.json").read_text())
        index = base / INDEX
        listed = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else []
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadInput("config.json or the weight index is not what it should be", where=str(base)) from error
    if isinstance(config, dict) and config.get("quantization_config"):
        raise Refused("the base is quantised", where=str(base), hint=_UNQUANTISED)
    shards = [base / Path(name).name for name in listed] or sorted(base.glob("*.safetensors"))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise BadInput(f"the model lacks its weights: {missing[0] if missing else 'no safetensors'}", where=str(base))
    return shards


def _tensors(shard: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"the weights are broken: {error}", where=str(shard), hint="copy the model again") from error


def _homes(shards: list[Path], update: Adapter, base: Path) -> dict[str, str]:
    """Name on disk -> module, for every LoRA pair. Reads only the heads of the shards."""
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BadInput(f"the weights are broken: {error}", where=str(shard), hint="copy the model again") from error
    homes: dict[str, str] = {}
    for module, (a, b) in update.pairs.items():
        named = [f"{name}.weight" for name in names_on_disk(module) if f"{name}.weight" in shapes]
        if len(named) != 1:
            raise BadInput(f"the base has {len(named)} tensors for {module}, not one", where=str(base))
        if shapes[named[0]] != (b.shape[0], a.shape[1]):
            raise BadInput(f"the LoRA pair of {module} does not fit {shapes[named[0]]}", where=str(base))
        homes[named[0]] = module
    return homes


def _merged(
    name: str, tensor: torch.Tensor, homes: Mapping[str, str], update: Adapter, kind: torch.dtype, shard: Path
) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise Refused(f"the base is quantised: {name} is {tensor.dtype}", where=str(shard), hint=_UNQUANTISED)
    if name in homes:
        a, b = update.pairs[homes[name]]
        tensor = tensor.float() + update.scale * (b @ a)
    written = tensor.to(kind)
    if not torch.isfinite(written).all():
        raise BadInput(f"{name} does not fit into {kind}", where=str(shard), hint="merge with dtype bfloat16")
    return written.contiguous()


def _copy_the_rest(base: Path, out: Path, dtype: str) -> None:
    """Config, tokenizer, template and preprocessor files; nothing that holds weights or code."""
    for path in sorted(base.iterdir()):
        wanted = path.suffix in _COPIED or path.name.startswith(_COPIED_NAMES)
        if path.is_file() and wanted and path.name != INDEX and not path.name.startswith("adapter_"):
            shutil.copyfile(path, out / path.name)
    config = json.loads((out / "config.json").read_text())
    for place in (config, config.get("text_config"), config.get("vision_config")):
        if isinstance(place, dict):
            for key in ("dtype", "torch_dtype"):
                if key in place:
                    place[key] = dtype
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
