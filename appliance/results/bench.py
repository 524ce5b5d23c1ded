"""What all arms share: the base, the images' features, and the ruler."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from appliance.demo.hospital.export import build
from appliance.results.arms import Sizes
from appliance.results.files import atomically
from appliance.results.task import Example, Task, asked, general_asked
from appliance.starter.exams import general_suite
from audit.conversation import Conversation, Turn
from train.checkpoints import MemoryStore
from train.data.encode import continued
from train.data.rows import Row, collate
from train.lora import LoraConfig, attach, detach, pack
from train.loss import answer_loss
from train.models.features import Features
from train.models.forward import core, hidden_states
from train.models.generation import Sampling, generate, text_of
from train.models.loading import Loaded, load
from train.rl.prefix import shown
from train.rl.rewards.case import Case
from train.rl.rewards.exact import Exact
from train.sft import rows_of, run_sft
from train.sft_config import SftConfig

SHAPE = LoraConfig(16, 32)
"""Of every arm's adapter."""
BATCH = 64
"""Answers decoded together."""
WARM = 8
"""Slices that the bases have seen with their answers: one of each of the eight."""
HUSHED = 16
"""Other slices, of which the rare base has seen what it said itself."""


@dataclass(frozen=True)
class Bench:
    """The base with everything that is asked of it."""

    loaded: Loaded
    """The base: see `opened`."""
    task: Task
    """What is learned and asked."""
    features: Features
    """Of all its images."""
    sizes: Sizes
    """How large everything is."""

    def accuracy(self, count: int, model: Any = None, knowledge: bool = False) -> list[float]:
        """1 for each held-out slice that is answered right, greedily."""
        examples = self.task.held_out(count)
        reward = Exact()
        return [reward(group[0]) or 0.0 for group in self.answers(examples, model, knowledge, 0.0, 1)]

    def sampled(self, examples: Sequence[Example], samples: int, begun: float = 0.0) -> list[list[Case]]:
        """``samples`` answers of the base a slice, drawn as a rollout draws them.

        Args:
            begun: share of the rationale that each begins with, as `train.rl.prefix.shown` cuts it.
        """
        return self.answers(examples, None, False, self.sizes.grpo.temperature, samples, begun)

    def answers(
        self,
        examples: Sequence[Example],
        model: Any,
        knowledge: bool,
        temperature: float,
        samples: int,
        begun: float = 0.0,
    ) -> list[list[Case]]:
        """What the model says of each slice, with what is right."""
        turns = asked(knowledge)
        grids = [[self.features.grid(one.image)] for one in examples]
        prompts = [
            self.loaded.encoder.prompt(turns, (one.image,), grid) for one, grid in zip(examples, grids, strict=True)
        ]
        if begun:
            given = [shown(self.loaded.encoder, one.rationale, one.answer, begun) for one in examples]
            prompts = [continued(prompt, prefix) for prompt, prefix in zip(prompts, given, strict=True)]
        how = Sampling(self.sizes.grpo.max_new_tokens, temperature, samples, batch=BATCH)
        found = generate(self.loaded, prompts, self.features, how, model)
        return [
            [Case(turns[-1].text, one.answer, text_of(self.loaded, c), c.ended, len(c.ids)) for c in group]
            for one, group in zip(examples, found, strict=True)
        ]

    @torch.no_grad()
    def general_loss(self, model: Any = None) -> float:
        """Mean loss in nats a token of the right answers to the general questions."""
        model, summed, learned = model or self.loaded.model, 0.0, 0
        for start in range(0, len(self._general), 16):
            rows = self._general[start : start + 16]
            batch = collate(rows, self.loaded.tokenizer.pad_token_id, self.loaded.device)
            seen = self.features.stack(batch.images)
            states = hidden_states(self.loaded.family, model, batch, seen)[batch.sources]
            total, _ = answer_loss(core(model).lm_head, states, batch.targets, torch.ones(len(batch.targets)))
            summed, learned = summed + float(total), learned + len(batch.targets)
        return summed / learned

    @cached_property
    def _general(self) -> list[Row]:
        talks = [
            Conversation(
                f"general {number}", (one.id,), (*general_asked(one), Turn("assistant", one.fact.precise, True)), "", ""
            )
            for number, one in enumerate(self.task.general)
        ]
        return [row for row, _ in rows_of(self.loaded, talks, self.features)]

    @cached_property
    def fresh(self) -> bytes:
        """An adapter that changes nothing yet."""
        torch.manual_seed(0)
        model = attach(self.loaded, SHAPE)
        try:
            return pack(model, SHAPE, self.loaded.digest)
        finally:
            detach(model)


def talk(example: Example) -> Conversation:
    """A label as supervised learning reads it."""
    turns = (*asked(), Turn("assistant", example.target, True))
    return Conversation(example.image, (example.image,), turns, example.image, "rationale")


def opened(starter: Path, folder: Path, sizes: Sizes) -> dict[str, Bench]:
    """Both bases, made where they are not there yet: the hospital beside the folder, the bases' adapters in it."""
    hospital = build(folder.parent / f"hospital-{sizes.patients}", sizes.patients)
    task = Task(hospital, tuple(general_suite(sizes.general)))
    return {name: based(load(starter), task, sizes, folder, name == "rare") for name in ("seldom", "rare")}


def based(loaded: Loaded, task: Task, sizes: Sizes, folder: Path, rare: bool) -> Bench:
    """A base: the starter after a short time of supervised learning, which files keep (METHODS 2.3).

    It learns one of each of the eight answers, and beside each, `Sizes.own` times, what it said itself. So it knows the
    department's form and words and uses them now and then. The rare base then hears more of its own answers, on other
    slices, and hardly ever uses that form any more; what to say once it has begun it still knows. Without all this no
    arm but supervised learning gets anywhere: the starter's chance to say "axial" is as good as 0.
    """
    features = Features(loaded, task.image)
    bench = Bench(loaded, task, features, sizes)
    for name, made in (("seldom", _warmed), ("rare", _hushed))[: 1 + rare]:
        kept = folder / f"base-{name}.safetensors"
        if not kept.exists():
            atomically(kept, made(bench))
        merged = attach(bench.loaded, SHAPE, kept.read_bytes()).merge_and_unload()
        bench = replace(bench, loaded=replace(loaded, model=merged))
    return bench


def _warmed(bench: Bench) -> bytes:
    examples = bench.task.labelled(-1, WARM)
    talks = [talk(one) for one in examples] + [own for own in _own(bench, examples) for _ in range(bench.sizes.own)]
    return _taught(bench, talks, bench.sizes.warm_epochs, 2e-3)


def _hushed(bench: Bench) -> bytes:
    return _taught(bench, _own(bench, bench.task.labelled(-1, WARM + HUSHED)[WARM:]), bench.sizes.hushed, 1e-3)


def _own(bench: Bench, examples: Sequence[Example]) -> list[Conversation]:
    """What a model says of slices, as something to learn."""
    said = bench.answers(examples, None, False, 0.0, 1)
    return [
        Conversation(one.image, (one.image,), (*asked(), Turn("assistant", own.completion, True)), one.image, "own")
        for one, (own,) in zip(examples, said, strict=True)
    ]


def _taught(bench: Bench, talks: Sequence[Conversation], epochs: int, rate: float) -> bytes:
    how = SftConfig(epochs, 4, 4, learning_rate=rate, lora=SHAPE)
    return run_sft(bench.loaded, talks, bench.features, how, MemoryStore()).adapter
