"""The update: against a policy gradient written out by hand, in one piece or several, with what must not teach."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.train.rl.parts import CONFIG, PROMPTS, alone, apart, grouped, steps_of
from train.data.rows import collate
from train.models.forward import learned_logits
from train.rl.grpo import Group
from train.rl.objective import advantages_of
from train.rl.update import group_row


def names_of(policy: Any) -> list[str]:
    """Of what learns."""
    return [n for n, p in policy.named_parameters() if p.requires_grad]


def test_advantages_are_those_of_the_formula() -> None:
    group = grouped(PROMPTS[0], (), (), (1.0, 0.0, 0.0, 1.0, 0.5))
    std = (4 * 0.25 / 4) ** 0.5  # Bessel: five rewards, four degrees of freedom
    assert group.advantages == pytest.approx([a / (std + 1e-4) for a in (0.5, -0.5, -0.5, 0.5, 0.0)])
    assert not grouped(PROMPTS[0], (), (), (0.1,) * 7).advantages.any()  # whose mean is not 0.1 to the last bit


EARNED = st.lists(st.none() | st.floats(-10, 10, allow_nan=False), min_size=2, max_size=8)


@given(EARNED, st.booleans())
def test_advantages_are_finite_and_sum_to_zero_whatever_is_earned(earned: list[float | None], scaled: bool) -> None:
    found = advantages_of(np.array([earned], float).T, np.ones(1), scaled)
    known = np.array([r for r in earned if r is not None])
    assert np.isfinite(found).all() and abs(found.sum()) < 1e-6
    assert all(a == 0 for a, r in zip(found, earned, strict=True) if r is None)
    if len(known) < 2 or np.ptp(known) < 1e-9:
        assert not found.any()
    better = np.argsort(np.nan_to_num(np.array(earned, float)))
    assert (np.diff([found[k] for k in better if earned[k] is not None]) >= -1e-9).all()
    noise = np.array([[0.1 + 0.2, 0.3, 0.3]]).T  # rounding is no difference
    assert not advantages_of(noise, np.ones(1), scaled).any()


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


def test_a_prefix_is_learned_at_its_weight_and_what_follows_sees_it(
    loaded: Any, policy: Any, features: Any, groups: list[Group]
) -> None:
    """NLL of the prefix tokens at temperature one, of groups that teach nothing, too; completions go on behind it."""
    config, weights = replace(CONFIG, temperature=0.8, max_grad_norm=1e9), list(policy.parameters())
    weights = [p for p in weights if p.requires_grad]
    prefixes = [tuple(loaded.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in ("The slice is", "In", "")]
    flat = 0 * groups[1].advantages
    started = [replace(g, prefix=p) for g, p in zip(groups, prefixes, strict=True)]
    started[1] = replace(started[1], advantages=flat)
    shown, said, tokens = [], [], 0
    for g in started:
        for k, (advantage, c) in enumerate(zip(g.advantages, g.completions, strict=True)):
            whole = replace(c, ids=(*g.prefix, *c.ids))
            logits = alone(loaded, policy, features, g.prompt, whole)
            at = torch.arange(len(whole.ids)), torch.tensor(whole.ids)
            size = len(g.prefix)
            if k == 0:
                shown.append(-torch.log_softmax(logits, -1)[at][:size])
            if c.ended and advantage:
                said.append(-advantage * torch.log_softmax(logits / 0.8, -1)[at][size:])
            tokens += len(c.ids) if c.ended and g.teaches else 0
    loss = torch.cat(said).sum() / tokens + 0.5 * torch.cat(shown).mean()
    wanted = dict(zip(names_of(policy), torch.autograd.grad(loss, weights), strict=True))
    _, gradient, forwards = steps_of(loaded, policy, features, started, config, prefix_nll=0.5)
    assert forwards == 1 and apart(gradient, wanted) < 1e-4
    _, gradient, _ = steps_of(loaded, policy, features, started[1:2], config, prefix_nll=0.5)
    assert any(g.any() for g in gradient.values()), "a prefix teaches where its completions do not"
    assert steps_of(loaded, policy, features, started[1:2], config)[0] == {}


def test_truncated_completions_teach_nothing(loaded: Any, policy: Any, features: Any, groups: list[Group]) -> None:
    cut = [replace(g, completions=tuple(replace(c, ended=False) for c in g.completions)) for g in groups]
    found, gradient, forwards = steps_of(loaded, policy, features, cut, CONFIG)
    assert (found, forwards) == ({}, 0)
    assert all(not g.any() for g in gradient.values())
