"""Stage one of the starter: warm the vision tower up on labels of every visual token.

A tower that learns only from answers learns slowly: a few answer tokens a picture against 64 labelled tokens here.
Auxiliary heads name the shape, colour, spot, place and ground of each token and redraw its pixels coarsely, so that
what was not named survives too. The heads are thrown away afterwards.
"""

import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from appliance.starter.architecture import config
from appliance.starter.pictures import CELL, LABEL_SIZES, SIDE, Drawing, draw
from appliance.starter.resuming import keep, resume
from train.models.qwen2_vl import patches_of

BATCH = 32
RATE = 2e-3


class Heads(nn.Module):
    """Linear read-outs of a visual token, used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.named = nn.ModuleList(nn.Linear(width, size) for size in LABEL_SIZES)
        self.pixels = nn.Linear(width, 4 * 4 * 3)

    def losses(self, tokens: torch.Tensor, labels: torch.Tensor, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses by name for tokens (N, D), labels (N, 6), pixels (N, 48) in [-1, 1]."""
        names = ("shape", "colour", "centre", "spot", "place", "ground")
        found = {
            n: F.cross_entropy(h(tokens), labels[:, i]) for i, (n, h) in enumerate(zip(names, self.named, strict=True))
        }
        return {**found, "pixels": F.mse_loss(self.pixels(tokens), pixels)}


def batch_of(drawings: list[Drawing]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patches (B*256, 384), grid (B, 3), labels (B*64, 6), coarse pixels (B*64, 48)."""
    arrays = np.stack([np.asarray(d.image, np.float32) / 127.5 - 1 for d in drawings])  # (B, 128, 128, 3)
    patches = torch.from_numpy(np.concatenate([patches_of(a, 8, 2, 2) for a in arrays]))
    fine = CELL // 4
    n = SIDE // CELL
    coarse = (
        arrays.reshape(-1, n, 4, fine, n, 4, fine, 3).mean((3, 6)).transpose(0, 1, 3, 2, 4, 5)
    )  # (B, 8, 8, 4, 4, 3)
    grid = torch.tensor([[1, SIDE // 8, SIDE // 8]] * len(drawings))
    labels = torch.from_numpy(np.concatenate([d.labels for d in drawings]))
    return patches, grid, labels, torch.from_numpy(coarse.reshape(-1, 48).copy())


def train_tower(out: Path, steps: int, seed: int = 1, log_every: int = 50) -> Path:
    """Train the tower for ``steps`` into ``out``/tower.safetensors; goes on from that where it is there."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tower = Qwen2VisionTransformerPretrainedModel._from_config(config().vision_config, attn_implementation="sdpa")
    heads = Heads(config().vision_config.hidden_size)
    matrices = [p for n, p in tower.named_parameters() if p.ndim == 2]
    rest = [p for p in (*tower.parameters(), *heads.parameters()) if not any(p is m for m in matrices)]
    optimizers = {
        "muon": torch.optim.Muon(matrices, lr=RATE, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW(rest, lr=RATE, weight_decay=0.01),
    }
    parts = {"tower": tower, "heads": heads}
    first = resume(out / "tower.safetensors", parts, optimizers)
    started = time.time()
    with (out / "tower.jsonl").open("a") as log:
        for step in range(first, steps):
            rate = min(1.0, (step + 1) / 50) * min(1.0, 1.02 - step / steps) ** 0.7
            for optimizer in optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = RATE * rate
            rng = random.Random(f"tower {seed} {step}")
            patches, grid, labels, pixels = batch_of([draw(rng) for _ in range(BATCH)])
            with torch.autocast("cpu", torch.bfloat16):
                tokens = attend_together(tower, patches, len(grid))
            losses = heads.losses(tokens.float(), labels, pixels)
            loss = sum(losses.values(), torch.zeros(()))
            loss.backward()
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if step % log_every == 0 or step == steps - 1:
                row = {
                    "step": step,
                    "seconds": round(time.time() - started),
                    **{k: round(float(v.detach()), 4) for k, v in losses.items()},
                }
                log.write(json.dumps(row) + "\n")
                log.flush()
                print(row, flush=True)
            if step % 100 == 99 or step == steps - 1:
                keep(out / "tower.safetensors", parts, optimizers, step + 1)
    return out / "tower.safetensors"


def attend_together(tower: nn.Module, patches: torch.Tensor, pictures: int) -> torch.Tensor:
    """The tower over same-sized pictures as one batch: equal to picture by picture, without a loop in attention.

    Args:
        patches: (B*256, 384).
        pictures: B.
    Returns: visual tokens (B*64, 256).
    """
    side = SIDE // 8
    position = _vision_positions(side)
    x = tower.patch_embed(patches).view(pictures, side * side, -1)
    cos, sin = tower.rotary_pos_emb(x, position)
    for block in tower.blocks:
        h = block.norm1(x)
        attention = block.attn
        q, k, v = attention.qkv(h).view(pictures, side * side, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = _rotate(q, cos, sin).to(v.dtype), _rotate(k, cos, sin).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(pictures, side * side, -1)
        x = x + attention.proj(mixed)
        x = x + block.mlp(block.norm2(x))
    return tower.merger(x.view(pictures * side * side, -1))


def _vision_positions(side: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    blocks = [p.view(side // 2, 2, side // 2, 2).permute(0, 2, 1, 3).reshape(-1) for p in (rows, columns)]
    return torch.stack(blocks, -1)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x = x.float()
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
