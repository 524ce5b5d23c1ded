"""A GRPO step beside TRL's GRPOTrainer with transformers' generate: the same 4-bit model, adapter, prompts and lengths.

python tests/benchmarks/bench_grpo.py                                  64 and 128 new tokens, beta 0 and 0.04
python tests/benchmarks/bench_grpo.py --prompts 2 --tokens 16 --beta 0 --runs 1

Every side is a process of its own: it loads the model, notes its memory, does one step to warm up and `--runs` that
count, each over `--prompts` images that it has not seen before, G = 8 completions a prompt and one optimizer step. The
end token is passed over on both sides, so that every completion has the same length. TRL stands twice: as it comes,
and without gradient checkpointing, which also spares it the backward pass through the frozen tower. Its adapter is
held in fp32 as ours is (it would make it bf16), and its image processor is the one without torchvision.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
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

SIDES = ("ours", "TRL", "TRL, no checkpointing")
"""What is compared."""
GROUP = 8
"""Completions a prompt, G."""
TOKENS, BETAS = (64, 128), (0.0, 0.04)
"""New tokens, and weights of KL to the reference."""
BAR = 3.0
"""DESIGN section 11: a step against TRL's, at 64 new tokens."""
APART = 1e-4
"""How far the two sides' log-probabilities after the same prompt may be apart, at most."""

Given = argparse.Namespace


class Sum:
    """`reward_of` as a reward of ours."""

    name = "sum"

    def __call__(self, case: Any) -> float:
        """See `reward_of`."""
        return reward_of(case.completion)


def reward_of(text: str) -> float:
    """A number that differs between any two texts, so that every group teaches something, on both sides alike."""
    return zlib.crc32(text.encode()) % 1000 / 1000


class Clock:
    """Seconds in rollouts and in whole steps, one number a step."""

    def __init__(self) -> None:
        self.rollouts: list[float] = []
        self.steps: list[float] = []
        self.lengths: set[int] = set()
        self.began = 0.0

    def around(self, roll: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its seconds noted."""

        def timed(*given: Any, **more: Any) -> Any:
            began = time.perf_counter()
            found = roll(*given, **more)
            self.rollouts.append(time.perf_counter() - began)
            return found

        return timed

    def told(self, **more: Any) -> dict[str, Any]:
        """What the parent process reads; the step that warmed up is left out."""
        if len(self.rollouts) != len(self.steps):
            raise SystemExit(f"{len(self.rollouts)} rollouts in {len(self.steps)} steps")
        return {"rollout": self.rollouts[1:], "step": self.steps[1:], "lengths": sorted(self.lengths), **more}


def ours(directory: Path, given: Given) -> dict[str, Any]:
    """Align with Cloche."""
    import torch

    from audit.conversation import Turn
    from train.checkpoints import MemoryStore
    from train.data.encode import continued
    from train.data.rows import collate, shared_row
    from train.lora import LoraConfig, attach, detach, pack
    from train.models import generation
    from train.models.features import Features
    from train.models.forward import learned_logits
    from train.models.loading import load
    from train.rl import grpo

    loaded = load(directory, "nf4", "cpu")
    clock = Clock()
    todo = asked(given.prompts * (given.runs + 1), 1)
    prompts = [grpo.Prompt(str(k), (Turn("user", q),), a, f"r{k}") for k, q, a in todo]
    features = Features(loaded, lambda name: picture(int(name)))
    shape = LoraConfig(RANK, ALPHA)
    model = attach(loaded, shape)
    adapter = pack(model, shape, loaded.digest)
    detach(model)

    with torch.no_grad():  # the same prompt on both sides must mean the same
        probe = Features(loaded, lambda name: picture(int(name)))
        first = loaded.encoder.prompt(prompts[0].turns, ("0",), [probe.grid("0")])
        batch = collate([shared_row([continued(first, [0])])], 0)
        said = learned_logits(loaded.family, loaded.model, batch, probe.stack(batch.images))[0]
    decode = generation._decode

    def passed_over(loaded: Any, model: Any, groups: Any, features: Any, how: Any, randomness: Any) -> Any:
        """Decode without stops; every completion counts as ended, so that the update learns it as TRL's does."""
        rows = decode(loaded, model, groups, features, replace(how, stops=frozenset()), randomness)
        clock.lengths |= {len(row.ids) for row in rows}
        return [replace(row, ended=True) for row in rows]

    generation._decode = clock.around(passed_over)

    class InTurn(list[Any]):
        """Whoever draws from it gets the next one: each step's prompts are those of TRL's step."""

        at = 0

        def __getitem__(self, index: Any) -> Any:
            self.at += 1
            return super().__getitem__(self.at - 1)

    config = grpo.GrpoConfig(
        steps=given.runs + 1, prompts=given.prompts, group=GROUP, max_new_tokens=given.tokens, learning_rate=RATE,
        kl=given.beta, resample=0, checkpoint_every=10**9,
    )  # fmt: skip
    gc.collect()
    before = reset_peak()
    aligned = grpo.run_grpo(loaded, adapter, InTurn(prompts), features, config, [Sum()], MemoryStore())
    clock.steps = [row["seconds"] for row in aligned.metrics]
    return clock.told(
        bytes=peak() - before, tower=features.computed, ids=first.ids.tolist(),
        logprobs=torch.log_softmax(said, -1).tolist(), teaching=all("loss" in row for row in aligned.metrics),
    )  # fmt: skip


def trl(directory: Path, given: Given) -> dict[str, Any]:
    """Align with TRL."""
    import torch
    import transformers
    from datasets import Dataset
    from datasets import Image as Pictures
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

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
    todo = asked(given.prompts * (given.runs + 1), 1)
    rows = [{"image": picture(k), "prompt": [{"role": "user", "content": q}]} for k, q, _ in todo]
    data = Dataset.from_list(rows).cast_column("image", Pictures())
    processor = joined(directory)
    processor.tokenizer.padding_side = "left"  # as TRL opens its own
    clock = Clock()

    parts = [{"type": "image", "image": picture(0)}, {"type": "text", "text": todo[0][1]}]
    messages = [{"role": "user", "content": parts}]
    first = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    model.train()  # bitsandbytes packs the weights of a model in eval mode for bf16, and then cannot train it
    with torch.no_grad():
        said = model(**first).logits[0, -1]

    def reward(completions: list[Any], completion_ids: list[list[int]], **more: Any) -> list[float]:
        clock.lengths |= {len(ids) for ids in completion_ids}
        return [reward_of(said[0]["content"]) for said in completions]

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), max_steps=given.runs + 1, learning_rate=RATE, lr_scheduler_type="constant",
        per_device_train_batch_size=GROUP, gradient_accumulation_steps=given.prompts,
        steps_per_generation=given.prompts, num_generations=GROUP, max_completion_length=given.tokens,
        generation_kwargs={"min_new_tokens": given.tokens, "eos_token_id": None},
        gradient_checkpointing="no" not in given.side, beta=given.beta, temperature=1.0, shuffle_dataset=False,
        logging_steps=1, save_strategy="no", report_to=[], bf16=False, use_cpu=True, disable_tqdm=True,
        optim="adamw_torch", max_grad_norm=1.0,
    )  # fmt: skip

    class Timed(transformers.TrainerCallback):
        """Notes how long each optimizer step takes, its rollouts included."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.steps.append(time.perf_counter() - clock.began)

    trainer = GRPOTrainer(
        model=model, reward_funcs=reward, args=config, train_dataset=data, processing_class=processor,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS),
        callbacks=[Timed()],
    )  # fmt: skip
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    trainer._generate_single_turn = clock.around(trainer._generate_single_turn)
    gc.collect()
    before = reset_peak()
    trainer.train()
    taught = [row for row in trainer.state.log_history if "grad_norm" in row]
    return clock.told(
        bytes=peak() - before, tower=0, ids=first["input_ids"][0].tolist(),
        logprobs=torch.log_softmax(said, -1).tolist(), teaching=all(row["grad_norm"] > 0 for row in taught),
    )  # fmt: skip


def measure(directory: Path, side: str, given: Given, tokens: int, beta: float) -> dict[str, Any]:
    """One side in a process of its own."""
    program = [sys.executable, __file__, "--side", side, "--directory", str(directory), "--tokens", str(tokens)]
    program += ["--beta", str(beta), "--prompts", str(given.prompts), "--runs", str(given.runs)]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{side}:\n{done.stdout[-500:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["lengths"] != [tokens] or not found["teaching"]:
        raise SystemExit(f"{side}: lengths {found['lengths']} in place of {tokens}, or a step that taught nothing")
    return found


def main() -> None:
    """Print a row a side and the ratios with their bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2, help="prompts a step")
    parser.add_argument("--tokens", type=int, help="new tokens of every completion; default 64, then 128")
    parser.add_argument("--beta", type=float, help="weight of the KL term; default 0, then 0.04")
    parser.add_argument("--runs", type=int, default=2, help="steps that count")
    parser.add_argument("--side")
    parser.add_argument("--directory", type=Path)
    given = parser.parse_args()
    if given.side:
        run = trl if given.side.startswith("TRL") else ours
        print(json.dumps(run(given.directory, given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = write_model(Path(folder) / "model")
        for beta in BETAS if given.beta is None else [given.beta]:
            for tokens in [given.tokens] if given.tokens else TOKENS:
                compare(directory, given, tokens, beta)


def compare(directory: Path, given: Given, tokens: int, beta: float) -> None:
    """All sides in turn; medians over the steps that count."""
    found = {side: measure(directory, side, given, tokens, beta) for side in SIDES}
    rollouts = given.prompts * GROUP
    print(
        f"{given.prompts} prompts a step, G = {GROUP}, {tokens} new tokens, beta {beta:g};"
        f" medians of {given.runs} steps"
    )
    for side, row in found.items():
        step, rolling = median(row["step"]), median(row["rollout"])
        update = median(s - r for s, r in zip(row["step"], row["rollout"], strict=True))
        print(
            f"  {side:22} {rollouts / rolling:6.2f} rollouts/s, {rollouts / step:6.2f} in whole steps"
            f"  rollouts {rolling:6.2f} s  update {update:6.2f} s  step {step:6.2f} s"
            f"  +{row['bytes'] / 2**20:5.0f} MiB  tower runs {row['tower'] or '-'}"
        )
    best = found["ours"]
    for peer in SIDES[1:]:
        other = found[peer]
        apart = max(abs(a - b) for a, b in zip(best["logprobs"], other["logprobs"], strict=True))
        same = best["ids"] == other["ids"] and apart <= APART
        faster = median(other["step"]) / median(best["step"])
        print(
            f"  against {peer}: {faster:.1f}x a step (bar {BAR}), {best['bytes'] / other['bytes']:.2f}x memory;"
            f" after the same prompt log-probabilities {apart:.1e} apart (bar {APART}):"
            f" {'holds' if faster >= BAR and same else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
