"""A GRPO step beside TRL's GRPOTrainer with transformers' generate: the same 4-bit model, adapter, prompts and lengths.

python tests/benchmarks/bench_grpo.py                                  64 new tokens, beta 0
python tests/benchmarks/bench_grpo.py --tokens 128 --beta 0.04 --runs 1 --precision fp32

Every side is a process of its own, for its memory. All are loaded first and then take their steps in turn, one at a
time while the others wait, so that what else the machine does meets them alike; the first step warms up. Each step is
over `--prompts` images that were not seen before, G = 8 completions a prompt, one optimizer step. The end token is
passed over on both sides, so that every completion has the same length. TRL stands twice: as it comes, and without
gradient checkpointing, which also spares it the backward pass through the frozen tower. Its adapter is held in fp32 as
ours is (it would make it bf16), and its image processor is the one without torchvision. Ours stands with its parts
taken out one by one, to tell what each brings.
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

SIDES = {
    "ours": "",
    "ours, tower at each use": "features kept nowhere",
    "ours, nothing shared": "each completion reads its prompt by itself, in rollout and update",
    "ours, neither": "both taken out",
    "TRL": "as it comes",
    "TRL, no checkpointing": "gradient_checkpointing off",
}
"""What is compared, and how it differs."""
GROUP = 8
"""Completions a prompt, G."""
BAR = 3.0
"""DESIGN section 11: a step against TRL's, at 64 new tokens."""
APART = 1e-4
"""How far the two sides' log-probabilities after the same prompt may be apart, at most."""
READY, FOUND = "its turn", "found: "
"""What a side's lines for its parent begin with; libraries print others."""

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
    """Seconds and this process's CPU seconds of rollouts and of whole steps; a step waits for its turn."""

    def __init__(self) -> None:
        self.rollouts: list[tuple[float, float]] = []
        self.steps: list[tuple[float, float]] = []
        self.lengths: set[int] = set()
        self.began = (0.0, 0.0)

    def wait(self) -> None:
        """Say that the next step is ready, and begin it when told so."""
        print(READY, flush=True)
        if not sys.stdin.readline():
            raise SystemExit("nobody waits for this step")
        self.began = _now()

    def end(self) -> None:
        """The step is over."""
        self.steps.append(_since(self.began))

    def rolled(self, roll: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, noted as rollouts."""

        def timed(*given: Any, **more: Any) -> Any:
            began = _now()
            found = roll(*given, **more)
            self.rollouts.append(_since(began))
            return found

        return timed

    def told(self, **more: Any) -> dict[str, Any]:
        """What the parent process reads; the step that warmed up is left out."""
        if len(self.rollouts) != len(self.steps):
            raise SystemExit(f"{len(self.rollouts)} rollouts in {len(self.steps)} steps")
        return {"rollout": self.rollouts[1:], "step": self.steps[1:], "lengths": sorted(self.lengths), **more}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(began: tuple[float, float]) -> tuple[float, float]:
    now = _now()
    return now[0] - began[0], now[1] - began[1]


def ours(directory: Path, given: Given) -> dict[str, Any]:
    """Align with Cloche."""
    import torch

    from audit.conversation import Turn
    from train.checkpoints import MemoryStore
    from train.data.encode import continued
    from train.data.rows import collate, shared_row
    from train.lora import LoraConfig, attach, detach, pack
    from train.models.features import Features
    from train.models.forward import learned_logits
    from train.models.loading import load
    from train.rl import grpo, rollout

    loaded = load(directory, given.precision, "cpu")
    clock = Clock()
    todo = asked(given.prompts * (given.runs + 1), 1)
    prompts = [grpo.Prompt(str(k), (Turn("user", q),), a, f"r{k}") for k, q, a in todo]

    class Fresh(Features):
        """Asks the tower at each use, as if nothing were kept."""

        def of(self, image_id: str) -> Any:
            self.kept.clear()
            self.held = 0
            return super().of(image_id)

    kind = Fresh if given.side.endswith(("each use", "neither")) else Features
    features = kind(loaded, lambda name: picture(int(name)))
    shape = LoraConfig(RANK, ALPHA)
    model = attach(loaded, shape)
    adapter = pack(model, shape, loaded.digest)
    detach(model)

    with torch.no_grad():  # the same prompt on both sides must mean the same
        probe = Features(loaded, lambda name: picture(int(name)))
        first = loaded.encoder.prompt(prompts[0].turns, ("0",), [probe.grid("0")])
        batch = collate([shared_row([continued(first, [0])])], 0)
        said = learned_logits(loaded.family, loaded.model, batch, probe.stack(batch.images))[0]
    generate, step = rollout.generate, grpo._step

    def passed_over(loaded: Any, asked: Any, features: Any, how: Any, model: Any) -> Any:
        """Sample without stops; every completion counts as ended, so that the update learns it as TRL's does."""
        found = generate(loaded, asked, features, replace(how, stops=frozenset()), model)
        clock.lengths |= {len(row.ids) for rows in found for row in rows}
        return [[replace(row, ended=True) for row in rows] for rows in found]

    def turn(*given: Any) -> Any:
        clock.wait()
        row = step(*given)
        clock.end()
        return row

    if given.side.endswith(("shared", "neither")):
        passed_over = _unshared(passed_over)
    rollout.generate, grpo._step = clock.rolled(passed_over), turn

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
    return clock.told(
        bytes=peak() - before, tower=features.computed, ids=first.ids.tolist(),
        logprobs=torch.log_softmax(said, -1).tolist(), teaching=all("loss" in row for row in aligned.metrics),
    )  # fmt: skip


def _unshared(sample: Callable[..., Any]) -> Callable[..., Any]:
    """Rollouts that read a prompt for each completion; the update's rows hold one completion each from then on."""
    from train.models import generation
    from train.rl.update import Updates

    learn = Updates.learn

    def alone(prompts: Any, most: int) -> Any:
        return [generation._Group((k,), len(prompt.ids)) for k, prompt in enumerate(prompts)]

    def sampled(loaded: Any, asked: Any, features: Any, how: Any, model: Any) -> Any:
        each = [prompt for prompt in asked for _ in range(how.samples)]
        rows = [row for (row,) in sample(loaded, each, features, replace(how, samples=1), model)]
        return [rows[at : at + how.samples] for at in range(0, len(rows), how.samples)]

    def split(self: Any, groups: Any, *more: Any) -> Any:
        ones = [
            replace(g, completions=(c,), texts=(t,), rewards=(r,), advantages=g.advantages[k : k + 1])
            for g in groups
            for k, (c, t, r) in enumerate(zip(g.completions, g.texts, g.rewards, strict=True))
        ]
        self.fitting.rows = len(ones)
        return learn(self, ones, *more)

    generation._groups, Updates.learn = alone, split
    return sampled


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
    ) if given.precision == "nf4" else None  # fmt: skip
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
            clock.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.end()

    trainer = GRPOTrainer(
        model=model, reward_funcs=reward, args=config, train_dataset=data, processing_class=processor,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS),
        callbacks=[Timed()],
    )  # fmt: skip
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    trainer._generate_single_turn = clock.rolled(trainer._generate_single_turn)
    gc.collect()
    before = reset_peak()
    trainer.train()
    taught = [row for row in trainer.state.log_history if "grad_norm" in row]
    return clock.told(
        bytes=peak() - before, tower=0, ids=first["input_ids"][0].tolist(),
        logprobs=torch.log_softmax(said, -1).tolist(), teaching=all(row["grad_norm"] > 0 for row in taught),
    )  # fmt: skip


class Side:
    """One side in a process of its own, which stands still between its steps."""

    def __init__(self, name: str, directory: Path, given: Given) -> None:
        self.name, self.errors = name, directory.parent / f"{name}.err"
        program = [sys.executable, __file__, "--side", name, "--directory", str(directory)]
        for option in ("tokens", "beta", "prompts", "runs", "precision"):
            program += [f"--{option}", str(getattr(given, option))]
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors.open("w"), text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        self.heard()

    def heard(self) -> str:
        """The next line that is for us: ``ready``, or what was found."""
        for line in self.process.stdout or ():
            if line.startswith((READY, FOUND)):
                return line.removeprefix(FOUND)
        raise SystemExit(f"{self.name}:\n{self.errors.read_text()[-3000:]}")

    def step(self) -> str:
        """Take a step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.heard()


def main() -> None:
    """Print a row a side and the ratios with their bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2, help="prompts a step")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of every completion")
    parser.add_argument("--beta", type=float, default=0.0, help="weight of the KL term")
    parser.add_argument("--runs", type=int, default=2, help="steps that count")
    parser.add_argument("--precision", choices=("nf4", "fp32"), default="nf4", help="of the language model, both sides")
    parser.add_argument("--side")
    parser.add_argument("--directory", type=Path)
    given = parser.parse_args()
    if given.side:
        run = trl if given.side.startswith("TRL") else ours
        print(FOUND + json.dumps(run(given.directory, given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(write_model(Path(folder) / "model"), given)


def compare(directory: Path, given: Given) -> None:
    """All sides' steps in turn; medians of those that count."""
    sides = [Side(name, directory, given) for name in SIDES]
    for _ in range(given.runs + 1):
        last = [side.step() for side in sides]
    found = {side.name: json.loads(line) for side, line in zip(sides, last, strict=True)}
    for name, row in found.items():
        if row["lengths"] != [given.tokens] or not row["teaching"]:
            raise SystemExit(f"{name}: lengths {row['lengths']}, not {given.tokens}, or a step that taught nothing")
    print(
        f"{given.prompts} prompts a step, G = {GROUP}, {given.tokens} new tokens, beta {given.beta:g},"
        f" {given.precision}; medians of {given.runs} steps, seconds (CPU seconds)"
    )
    for name, row in found.items():
        rolling, step = (median_of(row[what]) for what in ("rollout", "step"))
        update = median_of(
            [[s - r for s, r in zip(*pair, strict=True)] for pair in zip(row["step"], row["rollout"], strict=True)]
        )
        parts = zip(("rollout", "update", "step"), (rolling, update, step), strict=True)
        print(
            f"  {name:24}"
            + "  ".join(f"{what} {wall:6.2f} ({cpu:6.2f})" for what, (wall, cpu) in parts)
            + f"  +{row['bytes'] / 2**20:5.0f} MiB  tower runs {row['tower'] or '-'}"
        )
    best = found["ours"]
    for name, other in found.items():
        if name == "ours":
            continue
        wall, cpu = (ratio(other, best, what) for what in (0, 1))
        line = f"  against {name}: {wall:.1f}x a step ({cpu:.1f}x in CPU seconds),"
        line += f" {best['bytes'] / other['bytes']:.2f}x memory"
        if name.startswith("TRL"):
            apart = max(abs(a - b) for a, b in zip(best["logprobs"], other["logprobs"], strict=True))
            same = best["ids"] == other["ids"] and apart <= APART
            line += f"; after the same prompt log-probabilities {apart:.1e} apart (bar {APART}); bar {BAR}x:"
            line += " holds" if min(wall, cpu) >= BAR and same else " MISSED"
        print(line)


def ratio(other: dict[str, Any], best: dict[str, Any], which: int) -> float:
    """The median over steps of one side's seconds over ours, step by step; 1 for CPU seconds."""
    return median(a[which] / b[which] for a, b in zip(other["step"], best["step"], strict=True))


def median_of(pairs: Any) -> list[float]:
    """Medians of seconds and of CPU seconds."""
    return [median(each) for each in zip(*pairs, strict=True)]


if __name__ == "__main__":
    main()
