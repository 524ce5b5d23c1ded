"""GRPO: against a policy gradient written out by hand, the mirror constraint, and runs that go on bit for bit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.conversation import Turn
from audit.errors import BadInput
from tests.train.conftest import picture
from train.checkpoints import MemoryStore
from train.data.encode import continued
from train.data.rows import collate, packed_row
from train.lora import LoraConfig, attach, detach, pack, unpack
from train.models.features import Features
from train.models.forward import learned_logits
from train.models.generation import Continuation, Sampling, generate, text_of
from train.rl.domain import MIRRORED, Mirror, divergences, mirrored
from train.rl.grpo import MEASURED, Group, GrpoConfig, Prompt, run_grpo
from train.rl.objective import advantages_of
from train.rl.rewards import exact, token_f1
from train.rl.rewards.case import Case
from train.rl.rollout import asked_of
from train.rl.update import Updates, group_row

ASKED = (("1:48:32", "Is the left lesion visible?"), ("2:32:64", "Where?"), ("3:32:32", "Is it Left?"))
PROMPTS = [Prompt(image, (Turn("user", q),), "Yes", f"r{k}") for k, (image, q) in enumerate(ASKED)]
CONFIG = GrpoConfig(steps=3, prompts=2, group=4, max_new_tokens=10, learning_rate=5e-3, checkpoint_every=1, resample=1)


@dataclass(frozen=True)
class By:
    """A reward by what is written in a test."""

    of: Callable[[Case], float | None]
    name: str = "by"

    def __call__(self, case: Case) -> float | None:
        return self.of(case)


ODD = By(lambda case: float(len(case.completion) % 2), "odd")
"""A reward that differs within most groups."""


def settled(metrics: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics without what differs from run to run."""
    return [{k: v for k, v in m.items() if k not in MEASURED} for m in metrics]


def grouped(
    prompt: Prompt, completions: Sequence[Continuation], texts: Sequence[str], rewards: Sequence[float]
) -> Group:
    """A group that earned these."""
    advantages = advantages_of(np.array([rewards]).T, np.ones(1))
    return Group(prompt, tuple(completions), tuple(texts), {"by": tuple(rewards)}, tuple(rewards), advantages)


@pytest.fixture(scope="module")
def adapter(loaded: Any) -> bytes:
    """An adapter that does something."""
    model = attach(loaded, LoraConfig(4, 8))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(std=0.05, generator=draw)
    try:
        return pack(model, LoraConfig(4, 8), loaded.digest)
    finally:
        detach(model)


@pytest.fixture
def policy(loaded: Any, adapter: bytes) -> Iterator[Any]:
    """The tiny model with the adapter on it."""
    model = attach(loaded, LoraConfig(), adapter)
    yield model
    detach(model)


@pytest.fixture
def groups(loaded: Any, policy: Any, features: Any) -> list[Group]:
    """Three groups of four, some completions truncated."""
    asked = [loaded.encoder.prompt(p.turns, (p.image,), [features.grid(p.image)]) for p in PROMPTS]
    found = generate(loaded, asked, features, Sampling(10, 1.0, 4, seed=8), policy)
    texts = [tuple(text_of(loaded, c) for c in cs) for cs in found]
    rewards = ((0.0, 1.0, 0.0, 0.5), (1.0, 0.0, 0.0, 0.0), (0.2, 0.4, 1.0, 0.0))
    made = [grouped(p, cs, t, r) for p, cs, t, r in zip(PROMPTS, found, texts, rewards, strict=True)]
    ended = [c.ended for g in made for c in g.completions]
    assert any(ended) and not all(ended)
    return made


def identity() -> Mirror:
    return Mirror(np.arange(327), None)


def steps_of(
    loaded: Any, policy: Any, features: Any, groups: list[Group], config: GrpoConfig, mirror: Mirror | None
) -> tuple[dict[str, float], dict[str, torch.Tensor], int]:
    """One update with plain gradient descent at rate 1: what it says, the (clipped) gradient, the forwards it ran."""
    config = replace(config, micro_groups=config.micro_groups or 3)
    weights = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in weights.items()}
    forwards: list[None] = []
    hook = loaded.model.model.language_model.register_forward_hook(lambda *_: forwards.append(None))
    try:
        optimizer = torch.optim.SGD(weights.values(), lr=1.0)
        updates = Updates(loaded, policy, features, config, [mirror] if mirror else [], optimizer=optimizer)
        found = updates.learn(groups, 0)
    finally:
        hook.remove()
    gradient = {n: before[n] - p.detach() for n, p in weights.items()}
    with torch.no_grad():
        for n, p in weights.items():
            p.copy_(before[n])
    return found, gradient, len(forwards)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Distance of two gradients, relative to the second."""
    a, b = (torch.cat([g[n].flatten() for n in sorted(g)]) for g in (one, other))
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def alone(loaded: Any, model: Any, features: Any, prompt: Prompt, said: Continuation) -> torch.Tensor:
    """Logits (T, V) of one completion in a row of its own."""
    asked = loaded.encoder.prompt(prompt.turns, (prompt.image,), [features.grid(prompt.image)])
    batch = collate([packed_row([continued(asked, said.ids)])], 0)
    return learned_logits(loaded.family, model, batch, features.stack(batch.images))


def test_advantages_are_those_of_the_formula() -> None:
    group = grouped(PROMPTS[0], (), (), (1.0, 0.0, 0.0, 1.0, 0.5))
    std = (4 * 0.25 / 4) ** 0.5  # Bessel: five rewards, four degrees of freedom
    assert group.advantages == pytest.approx([a / (std + 1e-4) for a in (0.5, -0.5, -0.5, 0.5, 0.0)])
    assert not grouped(PROMPTS[0], (), (), (0.1,) * 7).advantages.any()  # whose mean is not 0.1 to the last bit


@torch.no_grad()
def test_a_group_in_one_row_scores_as_one_by_one(loaded: Any, policy: Any, features: Any, groups: list[Group]) -> None:
    rows = []
    for g in groups:
        asked = loaded.encoder.prompt(g.prompt.turns, (g.prompt.image,), [features.grid(g.prompt.image)])
        rows.append(group_row(asked, g.completions))
    batch = collate(rows, 0)
    logits = learned_logits(loaded.family, policy, batch, features.stack(batch.images))
    for number, (g, said) in enumerate((each, c) for each in groups for c in each.completions):
        mine = batch.owners == number
        if said.ended:
            assert batch.targets[mine].tolist() == list(said.ids)
            torch.testing.assert_close(
                logits[mine], alone(loaded, policy, features, g.prompt, said), rtol=1e-4, atol=1e-4
            )
        else:
            assert not mine.any()


def test_the_update_is_the_policy_gradient(loaded: Any, policy: Any, features: Any, groups: list[Group]) -> None:
    """Token mean of A log p over all completions that ended, each scored alone; then the norm clipped to one."""
    config = replace(CONFIG, temperature=0.8, prompts=3)
    terms, tokens = [], 0
    for g in groups:
        for advantage, said in zip(g.advantages, g.completions, strict=True):
            if said.ended:
                logprobs = torch.log_softmax(alone(loaded, policy, features, g.prompt, said) / 0.8, -1)
                terms.append(-advantage * logprobs[torch.arange(len(said.ids)), torch.tensor(said.ids)].sum())
                tokens += len(said.ids)
    weights = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    wanted = dict(zip(weights, torch.autograd.grad(sum(terms) / tokens, list(weights.values())), strict=True))
    norm = float(torch.sqrt(sum((g**2).sum() for g in wanted.values())))
    found, gradient, forwards = steps_of(loaded, policy, features, groups, config, None)
    scale = min(1.0, 1 / norm)
    assert apart(gradient, {n: g * scale for n, g in wanted.items()}) < 1e-4
    assert forwards == 1
    mean = sum(a * len(c.ids) for g in groups for a, c in zip(g.advantages, g.completions, strict=True) if c.ended)
    assert found["loss"] == pytest.approx(-mean / tokens, abs=1e-5)


@pytest.mark.parametrize("shaping", [True, False])
@pytest.mark.parametrize("domain", [0.0, 1.0])
def test_the_identity_transform_is_plain_grpo(
    loaded: Any, policy: Any, groups: list[Group], shaping: bool, domain: float
) -> None:
    same = Features(loaded, lambda name: picture(*map(int, name.removesuffix(MIRRORED).split(":"))))
    config = replace(CONFIG, shaping=shaping, domain=domain)
    plain, wanted, once = steps_of(loaded, policy, same, groups, config, None)
    found, gradient, forwards = steps_of(loaded, policy, same, groups, config, identity())
    assert (once, forwards) == (1, 2 if shaping or domain else 1)
    assert found["loss"] == pytest.approx(plain["loss"], abs=1e-6)
    assert apart(gradient, wanted) <= 1e-6
    if forwards == 2:
        assert abs(found["domain_kl"]) <= 1e-6 and abs(found["domain_js"]) <= 1e-6
        assert same.computed == 6  # the pictures under their mirrored names were really read


def test_the_mirror_asks_the_mirrored_question(loaded: Any, policy: Any, features: Any, groups: list[Group]) -> None:
    """KL and JS against a second policy worked out by hand: mirrored picture, swapped words, swapped vocabulary."""
    swap = {"left": "right", "right": "left"}
    ids = {
        w: loaded.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in ("left", "right", " left", " right")
    }
    order = list(range(512))
    for lead in ("", " "):
        order[ids[f"{lead}left"]], order[ids[f"{lead}right"]] = ids[f"{lead}right"], ids[f"{lead}left"]
    kls, jss, advantages = [], [], []
    with torch.no_grad():
        for g in groups:
            words = g.prompt.turns[0].text.split(" ")
            turned = Prompt(g.prompt.image + MIRRORED, (Turn("user", " ".join(swap.get(w, w) for w in words)),), "", "")
            for advantage, said, text in zip(g.advantages, g.completions, g.texts, strict=True):
                if not said.ended:
                    continue
                other = Continuation(tuple(order[i] for i in said.ids), (), True)
                log_p = torch.log_softmax(alone(loaded, policy, features, g.prompt, said).double(), -1)
                log_d = torch.log_softmax(alone(loaded, policy, features, turned, other).double()[:, order], -1)
                gate = (
                    0.0
                    if "Left" in g.prompt.turns[0].text or Mirror.of(loaded.tokenizer).unswappable.search(text)
                    else 1.0
                )
                middle = (log_p.exp() + log_d.exp()).div(2).log()
                kl = (log_d.exp() * (log_d - log_p)).sum(-1)
                js = ((log_p.exp() * (log_p - middle)).sum(-1) + (log_d.exp() * (log_d - middle)).sum(-1)) / 2
                kls.append(kl * gate)
                jss.append(js * gate / np.log(2))
                advantages.append(torch.full((len(said.ids),), float(advantage), dtype=torch.double))
    kl, js, a = torch.cat(kls), torch.cat(jss), torch.cat(advantages)
    assert float((kl > 0).double().mean()) not in (0.0, 1.0)  # some are gated out, some are not
    config = replace(CONFIG, domain=0.7)
    found, _, forwards = steps_of(loaded, policy, features, groups, config, Mirror.of(loaded.tokenizer))
    assert forwards == 2
    assert found["domain_kl"] == pytest.approx(float(kl.mean()), rel=1e-3)
    assert found["domain_js"] == pytest.approx(float(js.mean()), rel=1e-3)
    assert found["loss"] == pytest.approx(float(0.7 * kl.mean() - (a * (1 - js)).mean()), abs=1e-4)


def test_the_reference_is_the_policy_without_its_adapter(
    loaded: Any, policy: Any, features: Any, groups: list[Group]
) -> None:
    config = replace(CONFIG, kl=0.3)
    plain, _, _ = steps_of(loaded, policy, features, groups, replace(config, kl=0.0), None)
    found, _, forwards = steps_of(loaded, policy, features, groups, config, None)
    terms = []
    with torch.no_grad():
        for g in groups:
            for said in (c for c in g.completions if c.ended):
                at = torch.arange(len(said.ids)), torch.tensor(said.ids)
                now = torch.log_softmax(alone(loaded, policy, features, g.prompt, said), -1)[at]
                with policy.disable_adapter():
                    base = torch.log_softmax(alone(loaded, policy, features, g.prompt, said), -1)[at]
                terms.append((base - now).exp() - (base - now) - 1)
    wanted = float(torch.cat(terms).mean())
    assert forwards == 2 and wanted > 0
    assert found["kl"] == pytest.approx(wanted, rel=1e-3)
    assert found["loss"] == pytest.approx(plain["loss"] + 0.3 * wanted, abs=1e-4)


def test_truncated_completions_teach_nothing(loaded: Any, policy: Any, features: Any, groups: list[Group]) -> None:
    cut = [replace(g, completions=tuple(replace(c, ended=False) for c in g.completions)) for g in groups]
    found, gradient, forwards = steps_of(loaded, policy, features, cut, CONFIG, None)
    assert (found, forwards) == ({}, 0)
    assert all(not g.any() for g in gradient.values())


def test_the_mirror_swaps_left_and_right(loaded: Any, policy: Any, features: Any) -> None:
    mirror = Mirror.of(loaded.tokenizer)
    assert np.array_equal(mirror.permutation[mirror.permutation], np.arange(len(loaded.tokenizer)))
    said = loaded.tokenizer("left right, not red or Left", add_special_tokens=False)["input_ids"]
    group = grouped(PROMPTS[0], [Continuation((*said, 2), (), True), Continuation((2,), (), True)], ("", ""), (0, 1))
    turned = Updates(loaded, policy, features, CONFIG, [mirror])._turned(group, mirror, 0.0)
    text = loaded.tokenizer.decode(turned.ids, skip_special_tokens=True)
    assert "Is the right lesion visible?" in text and "right left, not red or Left" in text
    row = group_row(asked_of(loaded, features, PROMPTS[0], ()), group.completions)
    assert turned.images == tuple((name + MIRRORED, at, n) for name, at, n in row.images)
    assert np.array_equal(mirror.swap(turned.ids), row.ids)
    image = picture(1, 48, 32)
    assert np.array_equal(np.asarray(mirrored(image)), np.asarray(image)[:, ::-1])


def test_words_that_cannot_be_swapped_are_gated_out(loaded: Any) -> None:
    mirror = Mirror.of(loaded.tokenizer)  # "Left" and "Right" are several tokens here
    assert mirror.applies("the left one, Leftover")
    assert not mirror.applies("Left of it") and not mirror.applies("It is: Right.")
    assert Mirror.of(loaded.tokenizer, (("left", "right"),)).unswappable is None


def test_logits_past_the_tokenizers_last_id_stay_in_place(loaded: Any) -> None:
    mirror = Mirror.of(loaded.tokenizer)
    logits = torch.arange(512.0)[None]
    back = mirror.back(logits)
    assert back[0, 327:].tolist() == logits[0, 327:].tolist()
    assert torch.equal(mirror.back(back), logits) and not torch.equal(back, logits)


LOGITS = st.lists(st.floats(-60, 60, width=32), min_size=6, max_size=6)


@settings(max_examples=200, deadline=None)
@given(LOGITS, LOGITS)
def test_divergences_are_divergences(one: list[float], other: list[float]) -> None:
    p, d = (torch.tensor([x], dtype=torch.float32) for x in (one, other))
    kl, js = divergences(p, d)
    log_p, log_d = torch.log_softmax(p.double(), -1), torch.log_softmax(d.double(), -1)
    assert float(kl) == pytest.approx(float((log_d.exp() * (log_d - log_p)).sum()), rel=1e-3, abs=1e-4)
    assert 0 <= float(js) <= 1 and float(kl) > -1e-5
    assert float(js) == pytest.approx(float(divergences(d, p)[1]), abs=1e-5)
    assert float(divergences(p, p)[0]) == pytest.approx(0, abs=1e-6)
    assert float(divergences(p, p)[1]) == pytest.approx(0, abs=1e-6)


def test_divergence_of_what_has_nothing_in_common_is_one_bit() -> None:
    p, d = torch.tensor([[80.0, 0.0, 0.0]]), torch.tensor([[0.0, 80.0, 0.0]], requires_grad=True)
    kl, js = divergences(p.requires_grad_(), d)
    assert float(js) == pytest.approx(1.0) and not js.requires_grad
    kl.sum().backward()
    assert p.grad is not None and d.grad is None


def test_groups_without_variance_are_counted_and_replaced(loaded: Any, adapter: bytes, features: Any) -> None:
    """The second picture's answers all earn the same, so its groups are drawn again until the attempts are used up."""
    said: list[tuple[str, float]] = []

    def reward(case: Case) -> float:
        said.append((case.reference, float(len(case.completion) % 2) if case.reference == "varied" else 0.25))
        return said[-1][1]

    prompts = [replace(PROMPTS[0], reference="varied"), replace(PROMPTS[1], reference="flat")]
    used: list[list[Group]] = []
    config = replace(CONFIG, prompts=4, steps=4, resample=2, checkpoint_every=99)
    done = run_grpo(
        loaded,
        adapter,
        prompts,
        features,
        config,
        [By(reward)],
        MemoryStore(),
        on_groups=lambda _, g: used.append(list(g)),
    )
    drawn = [said[k : k + 4] for k in range(0, len(said), 4)]
    flat = [g for g in drawn if len({r for _, r in g}) == 1]
    assert sum(m["zero_std"] for m in done.metrics) == len(flat) > 0
    assert len(drawn) > 16  # more than 4 steps x 4 groups: some were drawn again
    assert sum(m["resampled"] for m in done.metrics) == len(drawn) - 16
    assert all(m["zero_std_share"] == m["zero_std"] / (4 + m["resampled"]) for m in done.metrics)
    assert [len(groups) for groups in used] == [4 + m["resampled"] for m in done.metrics]  # every completion is told
    assert all(sum(g.kept for g in groups) == 4 for groups in used)
    kept = [g for groups in used for g in groups if len(set(g.rewards)) > 1]
    assert all(g.kept for g in kept)
    assert len(kept) == len(drawn) - len(flat)
    assert {g.prompt.reference for g in kept} == {"varied"}


def test_where_nothing_varies_nothing_is_learned(loaded: Any, adapter: bytes, features: Any) -> None:
    done = run_grpo(loaded, adapter, PROMPTS, features, CONFIG, [By(lambda case: 1.0)], MemoryStore())
    assert [m["zero_std"] for m in done.metrics] == [4.0] * 3  # two groups, drawn twice
    assert not any("loss" in m for m in done.metrics)
    before, after = unpack(adapter)[0], unpack(done.adapter)[0]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("way", ["plain", "mirror and kl"])
def test_a_run_goes_on_from_every_checkpoint_bit_for_bit(loaded: Any, adapter: bytes, features: Any, way: str) -> None:
    domain = [Mirror.of(loaded.tokenizer)] if way != "plain" else []
    config = replace(CONFIG, kl=0.1 if domain else 0.0, updates=2 if domain else 1)
    kept: list[bytes] = []

    class KeepsAll(MemoryStore):
        def save(self, data: bytes) -> None:
            super().save(data)
            kept.append(data)

    whole = run_grpo(loaded, adapter, PROMPTS, features, config, [ODD], KeepsAll(), domain)
    assert len(kept) == 2 and any("loss" in m for m in whole.metrics)
    assert whole.adapter != adapter
    for done, data in enumerate(kept, 1):
        store, started = MemoryStore(), []
        store.save(data)
        torch.manual_seed(done)
        told: Callable[..., None] = lambda step, _, s=started: s.append(step)  # noqa: E731
        again = run_grpo(loaded, adapter, PROMPTS, features, config, [ODD], store, domain, on_groups=told)
        assert started == list(range(done, 3))
        assert again.adapter == whole.adapter
        assert settled(again.metrics) == settled(whole.metrics)


def test_what_earns_more_is_said_more(loaded: Any, adapter: bytes, features: Any) -> None:
    config = replace(CONFIG, steps=12, prompts=2, group=16, max_new_tokens=6, learning_rate=1e-2, checkpoint_every=99)
    short = By(lambda case: 1.0 - min(1.0, len(case.completion) / 30))
    done = run_grpo(loaded, adapter, PROMPTS[:2], features, config, [short], MemoryStore())
    rewards = [m["reward"] for m in done.metrics]
    assert np.mean(rewards[-3:]) > rewards[0] + 0.1


def test_no_prompts_are_said(loaded: Any, adapter: bytes, features: Any) -> None:
    with pytest.raises(BadInput, match="nothing to align on"):
        run_grpo(loaded, adapter, [], features, CONFIG, [ODD], MemoryStore())


@pytest.mark.parametrize(
    ("said", "wanted", "is_exact", "f1"),
    [
        ("Yes.", "yes", 1.0, 1.0),
        ("normal", "no", 0.0, 0.0),
        ("yes no", "no", 0.0, 2 / 3),
        ("In the left lobe", "the left lobe", 1.0, 1.0),
        ("no no no", "no", 0.0, 0.5),
        ("", "", 0.0, 0.0),
        ("the", "a", 0.0, 0.0),
        ("right frontal", "left frontal", 0.0, 0.5),
    ],
)
def test_rewards_are_not_gamed_by_substrings(said: str, wanted: str, is_exact: float, f1: float) -> None:
    assert exact(said, wanted) == is_exact
    assert token_f1(said, wanted) == pytest.approx(f1)
