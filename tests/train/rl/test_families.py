"""A group as branches of one row, for each way in which a family lays a picture: as if each completion stood alone."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from audit.conversation import Turn
from tests.train.conftest import picture
from tests.train.rl.parts import CONFIG, alone, apart, by_hand, sampled, steps_of, transforms
from train.data.rows import collate
from train.lora import LoraConfig, attach, detach
from train.models.features import Features
from train.models.forward import learned_logits
from train.models.generation import Sampling, generate
from train.models.loading import Loaded, load
from train.rl.grpo import Group, Prompt
from train.rl.rollout import asked_of
from train.rl.update import Updates, group_row
from train.rl.views import original, shown

NAMES = ("qwen2_vl", "llava_next_vicuna", "smolvlm")


@dataclass(frozen=True, eq=False)
class Rolled:
    """A family's tiny model as a policy, and what it said."""

    loaded: Loaded
    """In fp32."""
    policy: Any
    """With an adapter that does something."""
    features: Features
    """Of pictures named ``seed:width:height``, a transform's suffix behind it."""
    groups: list[Group]
    """One a picture, one completion of each truncated."""


@pytest.fixture(scope="module", params=NAMES)
def rolled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolled]:
    case = importlib.import_module(f"tests.train.families.{request.param}").CASE
    loaded = load(case.write(tmp_path_factory.mktemp(request.param) / "model"), "fp32", "cpu")
    policy = attach(loaded, LoraConfig(4, 8))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.05, generator=draw)
    features = Features(loaded, lambda name: shown(picture(*map(int, original(name).split(":"))), name))
    sizes = enumerate(case.sizes[:3], 1)
    prompts = [Prompt(f"{k}:{w}:{h}", (Turn("user", "Is it red?"),), "Yes", f"r{k}") for k, (w, h) in sizes]
    yield Rolled(loaded, policy, features, sampled(loaded, policy, features, prompts=prompts))
    detach(policy)


def close(one: torch.Tensor, other: torch.Tensor) -> float:
    """Distance relative to the second's size."""
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))


@torch.no_grad()
def test_branches_score_as_rows_of_their_own(rolled: Rolled) -> None:
    rows = [group_row(asked_of(rolled.loaded, rolled.features, g.prompt, ()), g.completions) for g in rolled.groups]
    batch = collate(rows, 0)
    logits = learned_logits(rolled.loaded.family, rolled.policy, batch, rolled.features.stack(batch.images))
    said = [(g.prompt, c) for g in rolled.groups for c in g.completions]
    for number, (prompt, one) in enumerate(said):
        mine = batch.owners == number
        if one.ended:
            wanted = alone(rolled.loaded, rolled.policy, rolled.features, prompt, one)
            assert batch.targets[mine].tolist() == list(one.ids)
            assert close(logits[mine], wanted) < 1e-5
        else:
            assert not mine.any()


@pytest.mark.parametrize("kl", [0.0, 0.04])
def test_gradients_are_those_of_rows_of_their_own(rolled: Rolled, kl: float) -> None:
    config = replace(CONFIG, kl=kl, temperature=0.8, max_grad_norm=1e9)
    weights = {n: p for n, p in rolled.policy.named_parameters() if p.requires_grad}
    terms, tokens = [], 0
    for g in rolled.groups:
        for advantage, said in zip(g.advantages, g.completions, strict=True):
            if not said.ended:
                continue
            at = torch.arange(len(said.ids)), torch.tensor(said.ids)

            def logprobs(g: Group = g, said: Any = said, at: Any = at) -> torch.Tensor:
                logits = alone(rolled.loaded, rolled.policy, rolled.features, g.prompt, said)
                return torch.log_softmax(logits / 0.8, -1)[at]

            now = logprobs()
            with torch.no_grad(), rolled.policy.disable_adapter():
                base = logprobs()
            ratio, away = (now - now.detach()).exp(), base - now
            terms.append((ratio * (kl * (away.exp() - away - 1) - advantage)).sum())
            tokens += len(said.ids)
    wanted = dict(zip(weights, torch.autograd.grad(sum(terms) / tokens, list(weights.values())), strict=True))
    _, gradient, _ = steps_of(rolled.loaded, rolled.policy, rolled.features, rolled.groups, config)
    assert apart(gradient, wanted) < 1e-5


@pytest.mark.parametrize("loss", ["dapo", "gspo"])
def test_gradients_do_not_depend_on_how_many_groups_fit(rolled: Rolled, loss: Any) -> None:
    """With all that an update may hold: a turned picture, KL, a prefix that is learned, a group that does not teach."""
    words = tuple(rolled.loaded.tokenizer("The slice is", add_special_tokens=False)["input_ids"])
    flat = replace(rolled.groups[1], advantages=0 * rolled.groups[1].advantages, prefix=words)
    groups = [rolled.groups[0], flat, replace(rolled.groups[2], prefix=words)]
    config, turn = replace(CONFIG, loss=loss, kl=0.04, max_grad_norm=1e9), transforms(rolled.loaded, "rotate-90")
    told = [
        steps_of(rolled.loaded, rolled.policy, rolled.features, groups, replace(config, micro_groups=n), turn, 0.5)
        for n in (3, 1, 2)
    ]
    assert [forwards for *_, forwards in told] == [3, 9, 6]
    for found, gradient, _ in told[1:]:
        assert found == pytest.approx(told[0][0], rel=1e-4, abs=1e-6)
        assert apart(gradient, told[0][1]) < 1e-5


def test_a_turned_picture_is_read_as_the_family_cuts_it(rolled: Rolled) -> None:
    (turn,) = transforms(rolled.loaded, "rotate-90")
    material = Updates(rolled.loaded, rolled.policy, rolled.features, CONFIG, [turn])._material(rolled.groups, 0, 0.0)
    lengths = [len(other.ids) - len(row.ids) for row, other in zip(material.rows, material.turned, strict=True)]
    assert any(lengths) == (rolled.loaded.family.model_type != "qwen2_vl"), "others mark each row of a picture"
    wanted = by_hand(rolled.loaded, rolled.policy, rolled.features, rolled.groups, turn)
    config = replace(CONFIG, domain_weight=0.7)
    found, _, _ = steps_of(rolled.loaded, rolled.policy, rolled.features, rolled.groups, config, [turn])
    assert wanted.gated < 0.5
    assert found["domain_kl"] == pytest.approx(wanted.kl, rel=1e-3)
    assert found["domain_js"] == pytest.approx(wanted.js, rel=1e-3)
    assert found["loss"] == pytest.approx(0.7 * wanted.kl + wanted.policy, abs=1e-4)


def test_fanned_out_greedy_tokens_are_those_of_one_sample(rolled: Rolled) -> None:
    """Which are those of transformers' generate: tests/train/families/test_contract.py."""
    asked = [asked_of(rolled.loaded, rolled.features, g.prompt, ()) for g in rolled.groups]
    one, many = (generate(rolled.loaded, asked, rolled.features, Sampling(8, samples=n), rolled.policy) for n in (1, 4))
    assert [[c.ids for c in cs] for cs in many] == [[cs[0].ids] * 4 for cs in one]
