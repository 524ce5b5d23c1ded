"""LoRA adapters: attached to the language Linears by a root-anchored pattern, kept as one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from audit.errors import BadInput, Refused
from train.models.loading import Loaded

METADATA = "cloche.adapter"
"""Key of the JSON in the safetensors header."""

ORIGIN = "cloche.origin"
"""Key beside it: JSON that says where the adapter came from."""


@dataclass(frozen=True)
class LoraConfig:
    """Shape of an adapter (arXiv 2106.09685)."""

    rank: int = 32
    """Rank r of each pair."""
    alpha: int = 64
    """Scale: the update is alpha / r times B A."""
    dropout: float = 0.0
    """Dropout before A while training; 0 for GRPO, whose rollouts must come from the trained policy."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) (arXiv 2312.03732). Off: programs that read adapters beside a model know alpha / r."""

    def __post_init__(self) -> None:
        """Raises: BadInput naming the flag that is out of bounds."""
        for flag, holds, rule in (
            ("--rank", self.rank >= 1, "must be 1 or more"),
            ("--alpha", 0 < self.alpha < float("inf"), "must be a number above 0"),
            ("--lora-dropout", 0 <= self.dropout < 1, "must be from 0 to below 1"),
        ):
            if not holds:
                raise BadInput(f"{flag} {rule}", where="training settings", hint="cloche train --help")

    @classmethod
    def of(cls, adapter: bytes, dropout: float = 0.0) -> "LoraConfig":
        """The shape of a packed adapter. Raises BadInput where the bytes are none."""
        described = unpack(adapter)[1]
        return cls(described["r"], described["alpha"], dropout, bool(described.get("rslora")))


def attach(loaded: Loaded, config: LoraConfig, adapter: bytes | None = None) -> Any:
    """Wrap the model with an adapter, fresh or given; only the adapter's weights learn, in fp32.

    Raises:
        BadInput: the adapter's bytes are not an adapter, or not one of this shape; nothing is left attached.
        Refused: the adapter belongs to another base model.
    """
    import peft

    if adapter is not None:
        tensors, described = unpack(adapter)
        if described["base_digest"] != loaded.digest:
            raise Refused(
                "the adapter was trained on another base model",
                where=str(loaded.directory),
                hint="give the --model that it was trained on; see `cloche models`",
            )
        config = LoraConfig.of(adapter, config.dropout)
    wanted = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        target_modules=loaded.family.lora_targets,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(loaded.model, wanted, autocast_adapter_dtype=True)
    if adapter is not None:
        places = peft.get_peft_model_state_dict(model)
        unfit = [
            name for name in sorted({*places, *tensors})
            if name not in places or name not in tensors or places[name].shape != tensors[name].shape
        ]  # fmt: skip
        if unfit:
            model.unload()
            raise BadInput(
                f"the adapter does not fit the model: {unfit[0]} is missing, unknown or of another shape",
                where="adapter",
                hint="train it again on this model",
            )
        peft.set_peft_model_state_dict(model, tensors)
    return model


def detach(model: Any) -> None:
    """Take the adapter off again; the base model is as it was."""
    model.unload()


def pack(model: Any, config: LoraConfig, base_digest: str) -> bytes:
    """The adapter as safetensors bytes, PEFT's names, what it is in the header."""
    import peft
    from safetensors.torch import save

    tensors = {k: v.detach().float().cpu().contiguous() for k, v in peft.get_peft_model_state_dict(model).items()}
    described = {
        "r": config.rank,
        "alpha": config.alpha,
        "rslora": config.rslora,
        "base_digest": base_digest,
        "dropout": asdict(config)["dropout"],
    }
    return save(tensors, metadata={METADATA: json.dumps(described)})


def stamped(adapter: bytes, origin: Mapping[str, str | int]) -> bytes:
    """The same adapter with where it came from in its header; the weights stay the same bytes.

    Args:
        adapter: bytes of `pack`.
        origin: base digest, manifest root, run, the log's name and checkpoint.
    """
    size = int.from_bytes(adapter[:8], "little")
    header = json.loads(adapter[8 : 8 + size])
    header["__metadata__"][ORIGIN] = json.dumps(dict(origin), sort_keys=True)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned. Source: the safetensors format
    return len(text).to_bytes(8, "little") + text + adapter[8 + size :]


def unpack(adapter: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and description of an adapter file. Raises BadInput where it is not one."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        size = int.from_bytes(adapter[:8], "little")
        described = json.loads(json.loads(adapter[8 : 8 + size])["__metadata__"][METADATA])
        tensors = load(adapter)
        _ = int(described["r"]), float(described["alpha"]), str(described["base_digest"])
        return tensors, described
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            "these bytes are not an adapter", where="adapter", hint="name an adapter listed by `cloche models`"
        ) from error
