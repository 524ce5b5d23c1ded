"""Stage two of the starter: the language model, on features of the frozen tower computed once.

Muon on the matrices and AdamW on the rest, warm-up, a long plateau, a linear descent at the end. Rows are made from
the step's number, so a run that was cut off goes on from its checkpoint with the same rows.
"""

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from appliance.starter.architecture import SPECIAL, config
from appliance.starter.lessons import BLANK, Lessons, Pool
from appliance.starter.pictures import SIDE, draw
from appliance.starter.resuming import keep, resume, weights
from appliance.starter.tower import attend_together, batch_of
from train.data.encode import Encoder
from train.data.rows import collate
from train.models.family import Visual
from train.models.forward import learned_logits
from train.models.qwen2_vl import Qwen2VL, patches_of

LEGS = ((0, 2200, 2e-3, 0.3), (2200, 2700, 1.2e-3, 0.7))
"""First step, end, highest rate and share of the steps on which the rate descends, of each leg."""
STEPS = LEGS[-1][1]
"""Steps in all."""
ROWS = 20


def rate_at(step: int) -> float:
    """The rate of a step: a warm-up of 100 steps, then in each leg a plateau and a linear descent to 0."""
    first, end, highest, descent = next(leg for leg in LEGS if step < leg[1])
    return highest * min(1.0, (step + 1) / 100) * min(1.0, (end - step) / (descent * (end - first)))


def build_pool(model: Any, count: int, seed: int, kept: Path) -> tuple[Pool, dict[str, np.ndarray]]:
    """Draw pictures and compute their visual tokens once; float16 (64, 256) each, kept in a file for the next start."""
    rng = random.Random(f"pool {seed}")
    drawings = {f"{seed}/{k}": draw(rng) for k in range(count)}
    pool = Pool(tuple(drawings), {i: d.scene for i, d in drawings.items()})
    if not kept.exists():
        names, found = list(drawings), []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for start in range(0, count, 32):
                some = [drawings[i] for i in names[start : start + 32]]
                found.append(
                    attend_together(model.model.visual, batch_of(some)[0], len(some)).half().view(len(some), 64, -1)
                )
            blank = np.ones((SIDE, SIDE, 3), np.float32)
            found.append(
                attend_together(model.model.visual, torch.from_numpy(patches_of(blank, 8, 2, 2)), 1).half()[None]
            )
        save_file({"features": torch.cat(found)}, kept)
    features = load_file(kept)["features"].numpy()
    return pool, dict(zip((*drawings, BLANK), features, strict=True))


def train_speech(
    out: Path, words: Path, steps: int = STEPS, pool_size: int = 8000, seed: int = 2, stop_after: float | None = None
) -> bool:
    """Train up to ``steps`` steps, STEPS at most; returns whether the end was reached.

    Args:
        out: holds tower.safetensors and the checkpoint.
        words: directory of the tokenizer.
        stop_after: seconds after which to save and leave.
    """
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration._from_config(config(), attn_implementation="sdpa")
    model.model.visual.load_state_dict(weights(out / "tower.safetensors", "tower"))
    model.model.visual.requires_grad_(False)
    pool, features = build_pool(model, pool_size, seed, out / "pool.safetensors")
    family = Qwen2VL(SPECIAL.index("<|image_pad|>"), 8)
    encoder = Encoder(AutoTokenizer.from_pretrained(words), family)
    lessons = Lessons(encoder, pool, seed)
    language = dict(model.model.language_model.named_parameters())
    matrices = [p for n, p in language.items() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in language.items() if p.ndim != 2 or "embed" in n]
    optimizers = {
        "muon": torch.optim.Muon(matrices, lr=0.0, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW(rest, lr=0.0, weight_decay=0.0, betas=(0.9, 0.98)),
    }
    parts = {"model": model.model.language_model}
    first = resume(out / "speech.safetensors", parts, optimizers)
    started, log = time.time(), (out / "speech.jsonl").open("a")
    for step in range(first, steps):
        rate = rate_at(step)
        rows = sorted(lessons.rows(step, ROWS), key=lambda r: len(r.ids))
        total, loss_sum = sum(int((r.learned & (r.sources >= 0)).sum()) for r in rows), 0.0
        for start in range(0, ROWS, 5):
            batch = collate(rows[start : start + 5], 0)
            seen = Visual.joined(Visual(torch.from_numpy(features[i].astype(np.float32))) for i in batch.images)
            with torch.autocast("cpu", torch.bfloat16):
                logits = learned_logits(family, model, batch, seen)
            loss = F.cross_entropy(logits, batch.targets, reduction="sum") / total
            loss.backward()
            loss_sum += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.model.language_model.parameters(), 1.0)
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        late = stop_after is not None and time.time() - started > stop_after
        if step % 20 == 0 or late:
            row = {
                "step": step,
                "loss": round(loss_sum, 4),
                "learned": total,
                "tokens": sum(len(r.ids) for r in rows),
                "rate": rate,
                "seconds": round(time.time() - started),
            }
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, flush=True)
        if step % 100 == 99 or late or step == steps - 1:
            keep(out / "speech.safetensors", parts, optimizers, step + 1)
        if late:
            return False
    return True
