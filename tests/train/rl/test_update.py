"""The update: against a policy gradient written out by hand, in one piece or several, with what must not teach."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.train.rl.parts import CONFIG, PROMPTS, alone, apart, grouped, steps_of
from train.data.rows import collate
from train.models.forward import learned_logits
from train.rl.grpo import Group
from train.rl.update import group_row


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
    found, gradient, forwards = steps_of(loaded, policy, features, groups, config)
    scale = min(1.0, 1 / norm)
    assert apart(gradient, {n: g * scale for n, g in wanted.items()}) < 1e-4
    assert forwards == 1
    mean = sum(a * len(c.ids) for g in groups for a, c in zip(g.advantages, g.completions, strict=True) if c.ended)
    assert found["loss"] == pytest.approx(-mean / tokens, abs=1e-5)
    assert found["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_the_reference_is_the_policy_without_its_adapter(
    loaded: Any, policy: Any, features: Any, groups: list[Group]
) -> None:
    config = replace(CONFIG, kl=0.3)
    plain, _, _ = steps_of(loaded, policy, features, groups, replace(config, kl=0.0))
    found, _, forwards = steps_of(loaded, policy, features, groups, config)
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
    found, gradient, forwards = steps_of(loaded, policy, features, cut, CONFIG)
    assert (found, forwards) == ({}, 0)
    assert all(not g.any() for g in gradient.values())
