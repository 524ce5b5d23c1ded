"""Single-stage QLoRA beside TRL's SFTTrainer: the same 4-bit model, adapter, batches and answers.

python tests/benchmarks/bench_sft.py                    1 and 8 questions an image, 3 epochs, both peers, twice each
python tests/benchmarks/bench_sft.py --images 8 --runs 1

Every run is a process of its own: it loads the model, notes its memory, trains, and prints seconds, first loss and how
far memory rose. TRL stands twice: as it comes, and without the hook that sends its backward through the frozen tower.
TRL gets an image processor without torchvision; nothing else of it is changed.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from workload import (
    ALPHA,
    RANK,
    RATE,
    TARGETS,
    asked,
    peak,
    picture,
    reset_peak,
    with_tests_on_path,
    write_model,
)  # fmt: skip

SIDES = ("ours", "ours, no sharing", "ours, packed", "ours, tower each epoch", "TRL", "TRL, no tower backward")
"""What is compared. Packed: conversations of several images in a row; no sharing: a row a conversation."""
BARS = {1: 2.0, 8: 5.0}
"""DESIGN section 11: samples a second against TRL, by questions an image."""
MEMORY_BAR = 0.6
"""DESIGN section 11: peak above the loaded weights against TRL."""
EPOCHS = 3


def ours(directory: Path, images: int, questions: int, batch: int, way: str) -> dict[str, float]:
    """Train with Cloche."""
    from audit.conversation import Conversation, Turn
    from train import sft
    from train.checkpoints import MemoryStore
    from train.data.rows import packed_row, shared_row
    from train.lora import LoraConfig
    from train.models.features import Features
    from train.models.loading import load

    loaded = load(directory, "nf4", "cpu")
    pictures = {str(k): picture(k) for k in range(images)}
    talks = [
        Conversation(f"c{n}", (str(k),), (Turn("user", q), Turn("assistant", a, True)), f"r{k}", "k")
        for n, (k, q, a) in enumerate(asked(images, questions))
    ]

    class Fresh(Features):
        """Forgets every picture at once, as if there were no cache."""

        def stack(self, image_ids: Any) -> Any:
            self.kept.clear()
            self.held = 0
            return super().stack(image_ids)

    features = (Fresh if "tower" in way else Features)(loaded, pictures.__getitem__)
    rows = max(1, batch // questions)
    if way != "ours" and "tower" not in way:
        rows = batch if "sharing" in way else 1

        def laid(loaded: Any, conversations: Any, features: Any, *more: Any) -> Any:
            encoded = [loaded.encoder.encode(t, [features.grid(i) for i in t.images]) for t in conversations]
            if "sharing" in way:
                return [(shared_row([e]), ("r",)) for e in encoded]
            return [(packed_row(encoded[i : i + batch]), ("r",)) for i in range(0, len(encoded), batch)]

        sft.rows_of = laid
    config = sft.SftConfig(
        epochs=EPOCHS, rows_per_step=rows, micro_rows=1, length_power=1.0, learning_rate=RATE, warmup=0.0,
        checkpoint_every=10**9, lora=LoraConfig(RANK, ALPHA),
    )  # fmt: skip
    gc.collect()
    before, began = reset_peak(), time.perf_counter()
    trained = sft.run_sft(loaded, talks, features, config, MemoryStore())
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "loss": trained.metrics[0]["loss"], "bytes": peak() - before,
            "tower": features.computed}  # fmt: skip


def trl(directory: Path, images: int, questions: int, batch: int, way: str) -> dict[str, float]:
    """Train with TRL."""
    import torch
    import transformers
    from datasets import Dataset
    from datasets import Image as Pictures
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    with_tests_on_path()
    from tests.train.families.qwen2_vl import joined

    transformers.utils.logging.set_verbosity_error()
    quantised = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=["model.visual", "lm_head"],
    )  # fmt: skip
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        directory, dtype=torch.float32, quantization_config=quantised, device_map={"": "cpu"},
        attn_implementation="sdpa",
    )  # fmt: skip
    rows = [
        {
            "images": [picture(k)],
            "prompt": [{"role": "user", "content": q}],
            "completion": [{"role": "assistant", "content": a}],
        }
        for k, q, a in _in_our_order(asked(images, questions), images, questions)
    ]
    data = Dataset.from_list(rows).cast_column("images", [Pictures()])
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), num_train_epochs=EPOCHS, per_device_train_batch_size=batch, learning_rate=RATE,
        lr_scheduler_type="cosine", logging_steps=1, save_strategy="no", report_to=[], bf16=False, use_cpu=True,
        max_length=None, train_sampling_strategy="sequential", disable_tqdm=True, optim="adamw_torch",
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )  # fmt: skip
    if "no tower" in way:
        type(model).enable_input_require_grads = lambda self: None
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=data, processing_class=joined(directory),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS),
    )  # fmt: skip
    gc.collect()
    before, began = reset_peak(), time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    first = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    return {"seconds": seconds, "loss": float(first), "bytes": peak() - before, "tower": 0}


def _in_our_order(talks: list[Any], images: int, questions: int) -> list[Any]:
    """The conversations as our first epoch takes them, so that both sides' first batch is the same."""
    from random import Random

    order = Random("0 0").sample(range(images), images)
    return [talk for k in order for talk in talks[k * questions : (k + 1) * questions]]


def measure(directory: Path, side: str, images: int, questions: int, batch: int) -> dict[str, float]:
    """One run in a process of its own."""
    program = [sys.executable, __file__, "--side", side, "--directory", str(directory)]
    program += ["--images", str(images), "--questions", str(questions), "--batch", str(batch)]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{side}:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a row a side and the ratios with their bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--questions", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--side")
    parser.add_argument("--directory", type=Path)
    given = parser.parse_args()
    if given.side:
        run = trl if given.side.startswith("TRL") else ours
        print(json.dumps(run(given.directory, given.images, given.questions, given.batch, given.side)))
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = write_model(Path(folder) / "model")
        for questions in [given.questions] if given.questions else BARS:
            compare(directory, given.images, questions, given.batch, given.runs)


def compare(directory: Path, images: int, questions: int, batch: int, runs: int) -> None:
    """All sides in turn, `runs` times over; medians."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side in SIDES:
            found[side].append(measure(directory, side, images, questions, batch))
    print(f"{images} images, {questions} questions each, batches of {batch}, {EPOCHS} epochs; medians of {runs}")
    samples = images * questions * EPOCHS
    for side, rows in found.items():
        seconds, mib = median(r["seconds"] for r in rows), median(r["bytes"] for r in rows) / 2**20
        print(
            f"  {side:24} {samples / seconds:7.2f} samples/s  first loss {rows[0]['loss']:.4f}"
            f"  +{mib:6.0f} MiB  tower runs {rows[0]['tower'] or '-'}"
        )
    best = found["ours"]
    for peer in ("TRL", "TRL, no tower backward"):
        faster = median(r["seconds"] for r in found[peer]) / median(r["seconds"] for r in best)
        leaner = median(r["bytes"] for r in best) / median(r["bytes"] for r in found[peer])
        apart = abs(best[0]["loss"] - found[peer][0]["loss"])
        verdict = "holds" if faster >= BARS.get(questions, 1) and leaner <= MEMORY_BAR and apart <= 1e-2 else "MISSED"
        print(
            f"  against {peer}: {faster:.1f}x samples/s (bar {BARS.get(questions, 1)}), {leaner:.2f}x memory"
            f" (bar {MEMORY_BAR}), first losses {apart:.4f} apart (bar 0.01): {verdict}"
        )


if __name__ == "__main__":
    main()
