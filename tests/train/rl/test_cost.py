"""What a step of GRPO computes, counted: nothing is read twice that could be read once. No time is measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from audit.conversation import Turn
from tests.benchmarks.workload import asked, picture, write_model
from tests.train.families.qwen2_vl import joined
from tests.train.rl.parts import CONFIG, PROMPTS, By, apart, grouped, steps_of, transforms
from train.checkpoints import MemoryStore
from train.lora import LoraConfig, attach, pack
from train.models.features import Features
from train.models.generation import Continuation
from train.models.loading import load
from train.rl import rollout, update
from train.rl.grpo import Group, GrpoConfig, Prompt, run_grpo
from train.rl.rollout import asked_of

LENGTHY = By(lambda case: case.tokens + 100 * float(np.mean(list(map(ord, case.completion or "a")))))
"""Differs between almost any two completions, so that every group teaches."""


@contextmanager
def watched(loaded: Any) -> Iterator[tuple[list[tuple[int, int]], list[int]]]:
    """Rows and width of what the language model reads, and the calls of the tower, while this lasts."""
    read: list[tuple[int, int]] = []
    seen: list[int] = []
    hooks = [
        loaded.model.model.language_model.register_forward_pre_hook(
            lambda _, args, more: read.append(tuple(more["inputs_embeds"].shape[:2])), with_kwargs=True
        ),
        loaded.model.model.visual.register_forward_pre_hook(lambda *_: seen.append(1)),
    ]
    try:
        yield read, seen
    finally:
        for hook in hooks:
            hook.remove()


def test_a_step_reads_each_token_once(loaded: Any, adapter: bytes, features: Any) -> None:
    """Of a prompt in the rollout, of each completion's tokens, and of both in the update: not one too many."""
    groups: dict[int, list[Group]] = {}
    marks: list[tuple[int, int]] = []
    config = replace(CONFIG, prompts=1, group=6, steps=4, resample=0, max_new_tokens=8)
    with watched(loaded) as (read, seen):

        def told(step: int, drawn: Any) -> None:
            groups[step] = list(drawn)
            marks.append((len(read), len(seen)))

        def after(step: int, model: Any) -> dict[str, float]:
            marks.append((len(read), len(seen)))
            return {}

        fresh = Features(loaded, features.image)
        run_grpo(loaded, adapter, PROMPTS, fresh, config, [LENGTHY], MemoryStore(), on_groups=told, measure=after)
    images, start = set(), 0
    for step in range(config.steps):
        (group,) = groups[step]
        new = group.prompt.image not in images
        images.add(group.prompt.image)
        length = len(asked_of(loaded, fresh, group.prompt, ()).ids)
        sampled, learned = marks[2 * step][0], marks[2 * step + 1][0]
        rollout, passes = read[start:sampled], read[sampled:learned]
        assert rollout[0] == (1, length)  # the prompt once, not once a completion
        assert all(width == 1 for _, width in rollout[1:])
        assert sum(rows for rows, _ in rollout[1:]) == sum(len(c.ids) - 1 for c in group.completions)
        ended = [c for c in group.completions if c.ended]
        assert passes == ([(1, length + sum(len(c.ids) for c in ended))] if ended else [])
        towers = marks[2 * step][1] - (marks[2 * step - 1][1] if step else 0)
        assert towers == int(new)
        assert marks[2 * step + 1][1] == marks[2 * step][1]  # the update asks the tower nothing
        start = learned
    assert 1 <= len(images) < config.steps  # some image came again
    assert len(seen) == fresh.computed == len(images)
    ends = [c.ended for g in groups.values() for c in g[0].completions]
    assert any(ends) and not all(ends)


def test_the_second_step_over_the_same_images_sees_nothing(loaded: Any, adapter: bytes, features: Any) -> None:
    """Under a domain's transform, too, whose picture is another image: one run of the tower each, in the first step."""
    fresh = Features(loaded, features.image)
    config = replace(CONFIG, prompts=2, steps=3, resample=2, domain_weight=1.0)
    towers: list[int] = []

    def after(step: int, model: Any) -> dict[str, float]:
        towers.append(len(seen))
        return {}

    with watched(loaded) as (_, seen):
        run_grpo(
            loaded, adapter, PROMPTS[:1], fresh, config, [LENGTHY], MemoryStore(), transforms(loaded, "identity"),
            measure=after,
        )  # fmt: skip
    assert towers == [2, 2, 2]


def test_completions_that_were_cut_off_cost_the_update_nothing(
    loaded: Any, policy: Any, features: Any, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not learned: without them the row is shorter and everything that is learned is the same."""
    cut = [
        replace(g, completions=(*g.completions, Continuation((9,) * 20, (0.0,) * 20, False)), texts=(*g.texts, ""),
                rewards=(*g.rewards, 0.0), advantages=np.append(g.advantages, 0.5))
        for g in groups
    ]  # fmt: skip
    config = replace(CONFIG, prompts=3, loss="grpo", kl=0.1, domain_weight=0.5, temperature=0.8)
    domain = transforms(loaded, "mirror")
    with watched(loaded) as (short, _):
        found, gradient, _ = steps_of(loaded, policy, features, cut, config, domain)

    def all_of(group: Group, learned: bool) -> np.ndarray:
        return np.ones(len(group.completions), bool)

    with watched(loaded) as (long, _), monkeypatch.context() as patched:
        patched.setattr(update, "_read", all_of)
        plain, wanted, _ = steps_of(loaded, policy, features, cut, config, domain)
    assert len(short) == len(long) and all(a[1] + 20 <= b[1] for a, b in zip(short, long, strict=True))
    assert apart(gradient, wanted) < 1e-5
    assert found == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in plain.items()}


def test_a_prefix_alone_is_learned_without_any_completion(loaded: Any, policy: Any, features: Any) -> None:
    said = [Continuation((9, 10, 11), (0.0,) * 3, True)] * 4
    group = replace(grouped(PROMPTS[0], said, [""] * 4, (1.0,) * 4), prefix=(20, 21, 22))
    length = len(asked_of(loaded, features, PROMPTS[0], group.prefix).ids)
    with watched(loaded) as (read, _):
        updates = update.Updates(loaded, policy, features, CONFIG)
        found = updates.learn([group], 0, prefix_nll=1.0)
    assert read == [(1, length)]
    assert found["prefix_nll"] > 0 and np.isfinite(found["grad_norm"])


TOKENS, GROUP = 64, 8


class Workload:
    """DESIGN's model in fp32, whose arithmetic torch can count, with an adapter."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.shape = directory, LoraConfig(16, 32)
        self.todo = [Prompt(str(k), (Turn("user", q),), a, f"r{k}") for k, q, a in asked(2, 1)]

    def opened(self) -> tuple[Any, Any]:
        """The base, and the policy over it."""
        loaded = load(self.directory, "fp32", "cpu")
        return loaded, attach(loaded, self.shape)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return Workload(write_model(tmp_path_factory.mktemp("grpo") / "model"))


def ours(workload: Workload) -> list[int]:
    """FLOPs of two steps over the same prompt, vision and all."""
    loaded, model = workload.opened()
    adapter = pack(model, workload.shape, loaded.digest)
    model.unload()
    features = Features(loaded, lambda name: picture(int(name)))
    config = GrpoConfig(steps=2, prompts=1, group=GROUP, max_new_tokens=TOKENS, resample=0)
    found: list[int] = []
    generate = rollout.generate

    def without_stops(loaded: Any, asked: Any, features: Any, how: Any, model: Any) -> Any:
        rows = generate(loaded, asked, features, replace(how, stops=frozenset()), model)
        return [[replace(row, ended=True) for row in group] for group in rows]

    with FlopCounterMode(display=False) as count, pytest.MonkeyPatch.context() as patched:
        patched.setattr(rollout, "generate", without_stops)

        def after(step: int, model: Any) -> dict[str, float]:
            found.append(int(count.get_total_flops()) - sum(found))
            return {}

        run_grpo(loaded, adapter, workload.todo[:1], features, config, [LENGTHY], MemoryStore(), measure=after)
    return found


def usual(workload: Workload, checkpointing: bool) -> int:
    """TRL's way: its generate call and its loss's forward and backward, each completion with its prompt and image."""
    loaded, model = workload.opened()
    processor = joined(workload.directory)
    text = loaded.encoder.render(workload.todo[0].turns, 1, "assistant")
    given = processor(text=[text] * GROUP, images=[[picture(0)]] * GROUP, return_tensors="pt")

    with FlopCounterMode(display=False) as count:
        with torch.no_grad():
            said = model.generate(
                **given, do_sample=True, max_new_tokens=TOKENS, min_new_tokens=TOKENS, eos_token_id=None
            )
        assert said.shape[1] == given["input_ids"].shape[1] + TOKENS
        if checkpointing:
            model.train()
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        more = {k: given[k] for k in ("pixel_values", "image_grid_thw")}
        more["mm_token_type_ids"] = torch.nn.functional.pad(given["mm_token_type_ids"], (0, TOKENS))
        logits = model(input_ids=said, attention_mask=torch.ones_like(said), logits_to_keep=TOKENS + 1, **more).logits
        logits[:, :-1].log_softmax(-1).gather(2, said[:, -TOKENS:, None]).mean().backward()
    return int(count.get_total_flops())


@pytest.mark.slow
def test_a_step_costs_a_fraction(workload: Workload) -> None:
    first, second = ours(workload)
    peer, lighter = (usual(workload, checkpointing) for checkpointing in (True, False))
    print(f"\nfirst step: {peer / first:.2f} and {lighter / first:.2f} times our FLOPs")
    print(f"image seen before: {peer / second:.2f} and {lighter / second:.2f} times")
    assert peer / first >= 3 and lighter / first >= 3
    assert second < first  # no vision in it
