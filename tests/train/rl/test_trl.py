"""Against TRL's GRPOTrainer, its own code on our batches: losses, gradients, advantages, masks; and where we differ."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.conftest import picture
from tests.train.families.qwen2_vl import joined, write
from tests.train.rl.parts import CONFIG, REWARDS, apart, grouped, sampled
from train.lora import LoraConfig, attach, detach
from train.models.features import Features
from train.models.loading import Loaded, load
from train.rl.grpo import Group
from train.rl.objective import Objective, Tokens, Totals, advantages_of, policy_loss
from train.rl.rollout import asked_of
from train.rl.update import Updates

LOSSES = ("grpo", "dr_grpo", "dapo", "gspo", "cispo")
NOISE = {"gspo": 1e-3, "cispo": 2.0}
"""How far old log-probabilities lie from the policy's, so that clipping bites; 0.3 for the others."""


class Theirs:
    """TRL's trainer over the tiny model, its generation replaced by completions that are given.

    Args:
        trainer: the trainer.
        loaded: the same model as ours.
        policy: the same with its adapter: both sides score and train these weights.
        features: of the pictures.
    """

    def __init__(self, trainer: Any, loaded: Loaded, policy: Any, features: Features) -> None:
        self.trainer, self.loaded, self.policy, self.features = trainer, loaded, policy, features

    def set(self, objective: Objective, most: int = 10) -> None:
        """Let the trainer minimise this."""
        trainer = self.trainer
        trainer.loss_type = "grpo" if objective.loss == "gspo" else objective.loss
        trainer.importance_sampling_level = "sequence" if objective.loss == "gspo" else "token"
        trainer.epsilon_low, trainer.epsilon_high = objective.low, objective.high
        trainer.beta, trainer.max_completion_length = objective.kl, most

    def inputs(self, groups: Sequence[Group], rewards: Sequence[Sequence[Sequence[float | None]]]) -> dict[str, Any]:
        """What TRL makes of a rollout: prompts as its processor reads them, advantages, masks, log-probabilities.

        Args:
            rewards: one list a reward function, of one list a group.
        """
        trainer = self.trainer
        said = [list(c.ids) for g in groups for c in g.completions]
        trainer._generate_single_turn = lambda *_: (said, None)
        given = [[r for group in one for r in group] for one in rewards]
        trainer.reward_funcs = [lambda *, _k=k, **_: given[_k] for k in range(len(given))]
        trainer.reward_func_names = [f"reward {k}" for k in range(len(given))]
        trainer.reward_processing_classes = [None] * len(given)
        if len(trainer.reward_weights) != len(given):
            trainer.reward_weights = torch.ones(len(given))
        rows = [
            {
                "prompt": [{"role": t.role, "content": t.text} for t in g.prompt.turns],
                "image": picture(*map(int, g.prompt.image.split(":"))),
            }
            for g in groups
            for _ in g.completions
        ]
        found: dict[str, Any] = trainer._generate_and_score_completions(rows)
        return found


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    place = tmp_path_factory.mktemp("trl")
    directory = write(place / "model")
    loaded = load(directory, "fp32", "cpu")
    policy = attach(loaded, LoraConfig(4, 8))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.05, generator=draw)
    processor = joined(directory)
    processor.tokenizer.padding_side = "left"
    config = GRPOConfig(
        output_dir=str(place / "out"), per_device_train_batch_size=12, num_generations=4, max_completion_length=10,
        gradient_checkpointing=False, report_to=[], bf16=False, use_cpu=True, mask_truncated_completions=True,
        num_iterations=2, temperature=0.8, disable_tqdm=True,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": "Where?"}]}])
    trainer = GRPOTrainer(
        model=policy, reward_funcs=lambda **_: [0.0] * 12, args=config, train_dataset=data, processing_class=processor
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    yield Theirs(trainer, loaded, policy, Features(loaded, lambda name: picture(*map(int, name.split(":")))))
    detach(policy)


@pytest.fixture(scope="module")
def rollout(theirs: Theirs) -> list[Group]:
    """Three groups of four, one completion of each truncated."""
    return sampled(theirs.loaded, theirs.policy, theirs.features, 0.8)


def ragged(seed: int, lengths: Sequence[int], loss: str, kl: float) -> dict[str, torch.Tensor]:
    """A batch as TRL lays it: (B, T) padded on the right; a length of 0 is a truncated completion, masked."""
    draw = torch.Generator().manual_seed(seed)
    shape = len(lengths), max(*lengths, 1)
    now = -3 * torch.rand(shape, generator=draw)
    batch = {
        "prompt_ids": torch.zeros(shape[0], 1, dtype=torch.long), "prompt_mask": torch.ones(shape[0], 1),
        "completion_ids": torch.zeros(shape, dtype=torch.long),
        "completion_mask": (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).int(),
        "now": now.requires_grad_(), "advantages": torch.randn(shape[0], generator=draw),
        "old_per_token_logps": now.detach() + NOISE.get(loss, 0.3) * torch.randn(shape, generator=draw),
    }  # fmt: skip
    if kl:
        batch["ref_per_token_logps"] = now.detach() + 0.5 * torch.randn(shape, generator=draw)
    return batch | {"num_items_in_batch": batch["completion_mask"].sum()}


def ours(objective: Objective, batch: dict[str, torch.Tensor], now: torch.Tensor, most: int) -> Any:
    """The same batch as flat tokens."""
    mask = batch["completion_mask"].bool()
    owners = torch.arange(len(mask))[:, None].expand_as(mask)[mask]
    old, reference = (batch[k][mask] if k in batch else None for k in ("old_per_token_logps", "ref_per_token_logps"))
    tokens = Tokens(now[mask], batch["advantages"][owners], owners, old, reference)
    return policy_loss(objective, tokens, Totals(int(mask.sum()), len(mask), most))


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**20), st.lists(st.integers(0, 9), min_size=2, max_size=8).filter(lambda n: max(n) > 1),
    st.sampled_from([0.0, 0.04]),
    st.booleans(), st.sampled_from([(None, None), (0.1, 0.4), (0.2, 0.2)]),
)  # fmt: skip
def test_losses_and_gradients_are_trls(
    theirs: Theirs,
    loss: Any,
    seed: int,
    lengths: list[int],
    kl: float,
    on_policy: bool,
    epsilons: tuple[float | None, float | None],
) -> None:
    epsilons = epsilons if loss not in NOISE else (None, None)  # their own: 3e-4 and 4e-4, a ceiling of 5
    objective = Objective(loss, *epsilons, kl)
    batch = ragged(seed, lengths, loss, kl)
    if on_policy:
        del batch["old_per_token_logps"]
    theirs.set(objective, 12)
    now = batch.pop("now")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs.trainer, "_get_per_token_logps_and_entropies", lambda *_, **__: (now, now.detach(), None))
        value = theirs.trainer._compute_loss(None, batch)
    (wanted,) = torch.autograd.grad(value, now)
    mine = now.detach().clone().requires_grad_()
    found = ours(objective, batch, mine, 12)
    (gradient,) = torch.autograd.grad(found.value, mine)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-9)
    size = float(wanted.abs().sum()) + 1e-6  # the terms cancel: what is small is their sum, not its parts
    assert float(found.value.detach()) == pytest.approx(float(value.detach()), rel=1e-5, abs=1e-5 * min(size, 1.0))
    metrics = theirs.trainer._metrics["train"]
    if kl:
        assert found.kl == pytest.approx(metrics["kl"][-1], rel=1e-5, abs=1e-7)
    if loss == "cispo":
        assert found.clipped_high == pytest.approx(metrics["cispo_clip_ratio"][-1], abs=1e-6)
    elif loss != "gspo":  # whose share TRL counts in completions, and we in tokens as for the others
        assert found.clipped_low == pytest.approx(metrics["clip_ratio/low_mean"][-1], abs=1e-6)
        assert found.clipped_high == pytest.approx(metrics["clip_ratio/high_mean"][-1], abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_batches_above_are_clipped(loss: Any) -> None:
    """Old log-probabilities lie far enough away that both bounds bite, and not everywhere."""
    batch = ragged(0, [9] * 8, loss, 0.0)
    found = ours(Objective(loss), batch, batch["now"].detach(), 12)
    assert 0 < found.clipped_high < 0.5
    assert found.clipped_low == 0 if loss == "cispo" else 0 < found.clipped_low < 0.5


@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_models_update_is_trls(theirs: Theirs, rollout: list[Group], loss: Any, kl: float) -> None:
    """Qwen2-VL with fp32 LoRA, pictures and all: TRL scores padded rows one by one, we score branches of one row."""
    config = replace(CONFIG, loss=loss, kl=kl, updates=2, temperature=0.8, micro_groups=2)
    theirs.set(config.objective)
    inputs = theirs.inputs(rollout, [REWARDS])
    mask = inputs["completion_mask"].bool()
    noise = NOISE.get(loss, 0.3) * torch.randn(mask.shape, generator=torch.Generator().manual_seed(3))
    inputs["old_per_token_logps"] = inputs["old_per_token_logps"] + noise
    weights = {n: p for n, p in theirs.policy.named_parameters() if p.requires_grad}
    theirs.policy.zero_grad()
    value = theirs.trainer._compute_loss(theirs.policy, inputs)
    value.backward()
    wanted = {n: p.grad.clone() for n, p in weights.items()}

    theirs.policy.zero_grad()
    updates = Updates(theirs.loaded, theirs.policy, theirs.features, config)
    material = updates._material(rollout, 0, 0.0)
    updates._gradients(material, 2)  # a first pass notes the old and the reference's log-probabilities
    theirs.policy.zero_grad()
    for k, old in enumerate(material.old):
        here = slice(4 * k, 4 * k + 4)
        assert old is not None
        material.old[k] = old + noise[here][mask[here]]
    found = updates._gradients(material, 2)
    gradient = {n: p.grad.clone() for n, p in weights.items()}
    theirs.policy.zero_grad()
    assert found["loss"] == pytest.approx(float(value.detach()), rel=1e-5, abs=1e-6)
    assert apart(gradient, wanted) < 1e-5
    if kl:
        assert found["kl"] == pytest.approx(theirs.trainer._metrics["train"]["kl"][-1], rel=1e-5)


@pytest.mark.parametrize("loss", ["dapo", "gspo"])
def test_several_updates_a_rollout_are_trls(theirs: Theirs, rollout: list[Group], loss: Any) -> None:
    """Steps so large that the second one finds ratios far from one."""
    config = replace(CONFIG, loss=loss, kl=0.04, updates=3, temperature=0.8, micro_groups=1)
    theirs.set(config.objective)
    inputs = theirs.inputs(rollout, [REWARDS])
    weights = {n: p for n, p in theirs.policy.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in weights.items()}

    def moved() -> dict[str, torch.Tensor]:
        found = {n: p.detach() - before[n] for n, p in weights.items()}
        with torch.no_grad():
            for n, p in weights.items():
                p.copy_(before[n])
        return found

    rate = 0.05 if loss == "dapo" else 0.01
    other = torch.optim.SGD(weights.values(), lr=rate)
    for _ in range(config.updates):
        other.zero_grad()
        theirs.trainer._compute_loss(theirs.policy, inputs).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), config.max_grad_norm)
        other.step()
    other.zero_grad()
    wanted = moved()
    mine = torch.optim.SGD(weights.values(), lr=rate)
    updates = Updates(theirs.loaded, theirs.policy, theirs.features, config, optimizer=mine)
    found = updates.learn(rollout, 0)
    assert apart(moved(), wanted) < 1e-4  # three steps one upon the other
    assert found["clipped_high"] > 0


def test_prompts_and_masks_are_trls(theirs: Theirs, rollout: list[Group]) -> None:
    theirs.set(Objective("dapo"))
    inputs = theirs.inputs(rollout, [REWARDS])
    for k, group in enumerate(rollout):
        asked = asked_of(theirs.loaded, theirs.features, group.prompt, ())
        row = inputs["prompt_ids"][4 * k][inputs["prompt_mask"][4 * k].bool()]
        assert row.tolist() == asked.ids.tolist()
    ended = [c.ended for g in rollout for c in g.completions]
    assert inputs["completion_mask"].any(1).tolist() == ended
    updates = Updates(theirs.loaded, theirs.policy, theirs.features, CONFIG)
    totals = updates._material(rollout, 0, 0.0).totals
    assert (totals.tokens, totals.completions) == (int(inputs["num_items_in_batch"]), len(ended))


SCORE = st.none() | st.floats(0, 1, width=16)
EARNED = st.lists(st.lists(SCORE, min_size=4, max_size=4), min_size=3, max_size=3)
"""What three groups of four earn of one reward; None where it does not apply."""


@settings(max_examples=30, deadline=None)
@given(EARNED, st.booleans())
def test_one_rewards_advantages_are_trls(theirs: Theirs, rollout: list[Group], earned: Any, scaled: bool) -> None:
    theirs.trainer.scale_rewards = "group" if scaled else "none"
    theirs.trainer.multi_objective_aggregation = "sum_then_normalize"
    wanted = theirs.inputs(rollout, [earned])["advantages"]
    found = [advantages_of(np.array([group], float).T, np.ones(1), scaled) for group in earned]
    assert np.concatenate(found) == pytest.approx(wanted.numpy(), rel=1e-5, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.lists(EARNED, min_size=2, max_size=3), st.lists(st.floats(0.1, 3), min_size=3, max_size=3))
def test_several_rewards_are_normalised_then_summed_and_not_standardised_again(
    theirs: Theirs, rollout: list[Group], earned: list[Any], shares: list[float]
) -> None:
    """As TRL's normalize_then_sum, but for its last line, which lets the groups of a step set each other's scale."""
    weights = np.array(shares[: len(earned)])
    theirs.trainer.multi_objective_aggregation = "normalize_then_sum"
    theirs.trainer.reward_weights = torch.tensor(weights, dtype=torch.float32)
    wanted = theirs.inputs(rollout, earned)["advantages"].numpy()
    scores = np.array(earned, float).transpose(1, 2, 0)  # (groups, G, K)
    found = np.concatenate([advantages_of(group, weights) for group in scores])
    assert np.abs(np.add.reduceat(found, [0, 4, 8])).max() < 1e-9, "each group's advantages sum to zero"
    some = ~np.isnan(scores).all(-1).reshape(-1)
    if some.sum() > 1 and (spread := found[some].std(ddof=1)) > 1e-2:
        again = np.where(some, (found - found[some].mean()) / (spread + 1e-4), 0.0)
        assert again == pytest.approx(wanted, rel=1e-3, abs=1e-2)


def test_groups_whose_rewards_are_alike_are_left_out_of_the_average(theirs: Theirs, rollout: list[Group]) -> None:
    """As in DAPO; TRL keeps them in what it divides by, so that its steps shrink with their share. So do we with KL."""
    theirs.trainer.scale_rewards, theirs.trainer.multi_objective_aggregation = "group", "sum_then_normalize"
    rewards = (REWARDS[0], (0.5,) * 4, REWARDS[2])
    flat = grouped(rollout[1].prompt, rollout[1].completions, rollout[1].texts, rewards[1])
    mixed, kept = [rollout[0], flat, rollout[2]], [rollout[0], rollout[2]]
    tokens = [sum(len(c.ids) for g in some for c in g.completions if c.ended) for some in (kept, mixed)]
    for loss, kl, share in (
        ("dapo", 0, tokens[0] / tokens[1]),
        ("grpo", 0, 2 / 3),
        ("dapo", 0.04, 1),
        ("gspo", 0.04, 1),
    ):
        config = replace(CONFIG, loss=loss, kl=kl, temperature=0.8)
        theirs.set(config.objective)
        inputs = theirs.inputs(rollout, [rewards])
        del inputs["old_per_token_logps"]
        value = float(theirs.trainer._compute_loss(theirs.policy, inputs).detach())
        updates = Updates(theirs.loaded, theirs.policy, theirs.features, config)
        found = updates._gradients(updates._material(mixed, 0, 0.0), 3)["loss"]
        theirs.policy.zero_grad()
        assert found * share == pytest.approx(value, rel=1e-4, abs=1e-6)
