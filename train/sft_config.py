"""How an adapter is trained: every setting of supervised fine-tuning, checked where it is made."""

from dataclasses import dataclass
from typing import Literal

from audit.errors import BadInput
from train.lora import LoraConfig


@dataclass(frozen=True)
class SftConfig:
    """How to train. The defaults suit the starter; METHODS 1.6 holds those of the paper for large models."""

    epochs: int = 4
    """Passes over the data (of each stage, where there are two)."""
    rows_per_step: int = 4
    """Rows an optimizer step, the global batch; a row is one image with all its conversations."""
    micro_rows: int = 4
    """Rows a forward pass; halved where memory runs out, with the same gradients."""
    length_power: float = 0.25
    """An answer of n tokens weighs n to this power: 1 is the plain mean over tokens (METHODS 1.6), 0 makes all answers
    alike, so that a caption does not drown a "Yes"."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW (paged, in 8 bits on a GPU), or Muon (arXiv 2502.16982): fewer steps for a small model and small steps."""
    learning_rate: float = 1.2e-3
    """Peak rate."""
    warmup: float = 0.05
    """Share of the steps that warm up; the rest follows a cosine to zero."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of the order of the rows, of dropout and noise, of the held-out part and of the adapter."""
    lora: LoraConfig = LoraConfig()
    """Shape of the adapter."""
    stages: Literal["single", "two"] = "single"
    """``single``: captions and tasks together. ``two``, the baseline: captions first, then tasks, each a whole schedule
    of its own with the same settings (METHODS 1.6)."""
    mix: Literal["branches", "turns"] = "branches"
    """``branches``: each conversation about an image is learned as if alone. ``turns``: as published, one conversation
    an image, its caption first or last at random (METHODS 1.6)."""
    weight_decay: float = 0.0
    """Decoupled decay of the adapter's weights."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    neftune: float = 0.0
    """Alpha of the noise on text embeddings while training (NEFTune, arXiv 2310.05914, uses 5); 0 is none."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute the language layers' activations again in the backward pass: less memory, about a third more time.
    ``auto`` does so on a GPU with a model of more than a billion parameters."""
    head_tile: int = 0
    """Learned tokens whose logits are in memory at once; 0 takes as many as fit 64 Mi numbers."""
    held_out: float = 0.0
    """Share of the images that is not learned but measured; a patient is never on both sides."""
    evaluate_every: int = 50
    """Steps between measurements of the held-out loss."""
    probe_every: int = 0
    """Steps between probes, which ask the held-out questions with short answers; 0 asks none."""
    probe_questions: int = 64
    """Questions a probe asks at most."""
    patience: int = 0
    """Measurements without a lower held-out loss after which training stops; the best adapter is then what it leaves.
    0 goes on to the end and leaves the last adapter."""
    max_bad_steps: int = 5
    """Steps one after the other that may be skipped for a loss or gradient that is not a finite number."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept; the one before serves where the last cannot be read."""

    def __post_init__(self) -> None:
        """Raises: BadInput naming the flag that is out of bounds."""
        for name in ("epochs", "rows_per_step", "micro_rows", "checkpoint_every", "evaluate_every", "probe_questions",
                     "max_bad_steps", "keep_checkpoints"):  # fmt: skip
            _check(name, getattr(self, name) >= 1, "must be 1 or more")
        for name in ("weight_decay", "neftune", "head_tile", "probe_every", "patience"):
            _check(name, 0 <= getattr(self, name) < float("inf"), "must be a number from 0")
        for name in ("learning_rate", "max_grad_norm"):
            _check(name, 0 < getattr(self, name) < float("inf"), "must be a number above 0")
        for name in ("length_power", "warmup"):
            _check(name, 0 <= getattr(self, name) <= 1, "must be from 0 to 1")
        _check("held_out", 0 <= self.held_out < 1, "must be from 0 to below 1")
        _check("patience", not self.patience or self.held_out > 0, "needs --held-out above 0")
        _check("probe_every", not self.probe_every or self.held_out > 0, "needs --held-out above 0")
        for name, known in _CHOICES.items():
            _check(name, getattr(self, name) in known, f"must be one of {', '.join(known)}")


_CHOICES = {
    "optimizer": ("adamw", "muon"),
    "stages": ("single", "two"),
    "mix": ("branches", "turns"),
    "gradient_checkpointing": ("auto", "on", "off"),
}


def _check(name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise BadInput(f"--{name.replace('_', '-')} {rule}", where="training settings", hint="cloche train --help")
