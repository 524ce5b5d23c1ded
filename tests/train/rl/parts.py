"""What the tests of GRPO share: prompts, a reward by a function, one update by plain gradient descent, distances."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from audit.conversation import Turn
from train.checkpoints import MemoryStore
from train.data.encode import continued
from train.data.rows import collate, packed_row
from train.models.forward import learned_logits
from train.models.generation import Continuation, Sampling, generate, text_of
from train.rl.domain import Domain, Transform
from train.rl.grpo import MEASURED, Group, GrpoConfig, Prompt
from train.rl.objective import advantages_of
from train.rl.rewards.case import Case
from train.rl.rollout import asked_of
from train.rl.table import parse, table_of
from train.rl.update import Updates

ASKED = (("1:48:32", "Is the left lesion visible?"), ("2:32:64", "Where?"), ("3:32:32", "Is it Left?"))
PROMPTS = [Prompt(image, (Turn("user", q),), "Yes", f"r{k}") for k, (image, q) in enumerate(ASKED)]
CONFIG = GrpoConfig(steps=3, prompts=2, group=4, max_new_tokens=10, learning_rate=5e-3, checkpoint_every=1, resample=1)

REWARDS = ((0.0, 1.0, 0.0, 0.5), (1.0, 0.0, 0.0, 0.0), (0.2, 0.4, 1.0, 0.0))
"""What `sampled` groups earn, in turn."""


@dataclass(frozen=True)
class By:
    """A reward by what is written in a test."""

    of: Callable[[Case], float | None]
    name: str = "by"

    def __call__(self, case: Case) -> float | None:
        return self.of(case)


ODD = By(lambda case: float(len(case.completion) % 2), "odd")
"""A reward that differs within most groups."""


class KeepsAll(MemoryStore):
    """A store that forgets nothing."""

    def __init__(self) -> None:
        super().__init__(keep=10**6)


def only(data: bytes) -> MemoryStore:
    """A store with one checkpoint."""
    store = MemoryStore()
    store.save(data)
    return store


def mirror(loaded: Any) -> Transform:
    """The brain table's only transform, for the tiny model's tokenizer."""
    (found,) = Domain.of(table_of("brain-mri"), loaded.tokenizer).transforms
    return found


def transforms(loaded: Any, *kinds: str) -> list[Transform]:
    """These kinds without words to swap, for the tiny model's tokenizer."""
    text = 'title = "T"\nasks = []\n' + "".join(f'[[transform]]\nkind = "{kind}"\n' for kind in kinds)
    return list(Domain.of(parse(text.encode(), "t.toml"), loaded.tokenizer).transforms)


def settled(metrics: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics without what differs from run to run."""
    return [{k: v for k, v in m.items() if k not in MEASURED} for m in metrics]


def grouped(
    prompt: Prompt,
    completions: Sequence[Continuation],
    texts: Sequence[str],
    rewards: Sequence[float],
    prefix: tuple[int, ...] = (),
) -> Group:
    """A group that earned these."""
    advantages = advantages_of(np.array([rewards]).T, np.ones(1))
    scores: dict[str, tuple[float | None, ...]] = {"by": tuple(rewards)}
    return Group(prompt, tuple(completions), tuple(texts), scores, tuple(rewards), advantages, prefix)


def sampled(
    loaded: Any, policy: Any, features: Any, temperature: float = 1.0, prompts: Sequence[Prompt] = tuple(PROMPTS)
) -> list[Group]:
    """A group of four a prompt: three completions that end, of several lengths, and a truncated one."""
    asked = [asked_of(loaded, features, p, ()) for p in prompts]
    found = generate(loaded, asked, features, Sampling(10, temperature, 4, seed=8, stops=frozenset()), policy)
    stop = min(loaded.stops)
    made = []
    for prompt, said, rewards in zip(prompts, found, itertools.cycle(REWARDS), strict=False):
        ids = [tuple(i for i in c.ids if i not in loaded.stops) for c in said]
        four = [Continuation((*ids[k][:length], stop), (), True) for k, length in ((0, 9), (2, 5), (3, 2))]
        four.insert(1, Continuation(ids[1], (), False))
        made.append(grouped(prompt, four, [text_of(loaded, c) for c in four], rewards))
    return made


def steps_of(
    loaded: Any,
    policy: Any,
    features: Any,
    groups: Sequence[Group],
    config: GrpoConfig,
    domain: Sequence[Transform] = (),
    prefix_nll: float = 0.0,
) -> tuple[dict[str, float], dict[str, torch.Tensor], int]:
    """One update with plain gradient descent at rate 1: what it says, the (clipped) gradient, the forwards it ran."""
    config = replace(config, micro_groups=config.micro_groups or 3)
    weights = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in weights.items()}
    forwards: list[None] = []
    hook = loaded.model.get_submodule(loaded.family.language).register_forward_hook(lambda *_: forwards.append(None))
    try:
        optimizer = torch.optim.SGD(weights.values(), lr=1.0)
        found = Updates(loaded, policy, features, config, domain, optimizer=optimizer).learn(groups, 0, prefix_nll)
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


@dataclass(frozen=True)
class Constrained:
    """What the domain constraint comes to."""

    kl: float
    """Mean over the tokens that it is put on, in nats."""
    js: float
    """The same in bits."""
    policy: float
    """Token mean of the policy's loss, advantages shaped with the mean JS of each completion."""
    gated: float
    """Share of the completions that it is not put on."""


def by_hand(
    loaded: Any,
    policy: Any,
    features: Any,
    groups: Sequence[Group],
    turn: Transform,
    order: Sequence[int] = range(10**6),
    begun: Sequence[int] = range(10**6),
) -> Constrained:
    """The constraint against a second policy, each completion in a row of its own, in fp64.

    Args:
        order: each token's counterpart.
        begun: the same behind a letter.
    """
    kls, jss, losses, gated = [], [], [], []
    for g in groups:
        asked = [Turn(t.role, turn.rule.swap_text(t.text)) for t in g.prompt.turns]
        turned = Prompt(g.prompt.image + turn.suffix, tuple(asked), "", "")
        for advantage, said, text in zip(g.advantages, g.completions, g.texts, strict=True):
            if not said.ended:
                continue
            other = Continuation(tuple(order[i] for i in said.ids), (), True)
            with torch.no_grad():
                log_p = torch.log_softmax(alone(loaded, policy, features, g.prompt, said).double(), -1)
                log_d = torch.log_softmax(alone(loaded, policy, features, turned, other).double(), -1)
            # the header ends with a line end
            inside = [False, *(i < len(turn.letters) and bool(turn.letters[i]) for i in said.ids[:-1])]
            size = log_d.shape[-1]
            rows = [row[list((begun if part else order)[:size])] for row, part in zip(log_d, inside, strict=True)]
            log_d = torch.stack(rows)
            question, js = g.prompt.turns[-1].text, torch.zeros(len(rows), dtype=torch.double)
            if may := turn.applies(question, text, (said.ids,)) and turn.applies(question, ""):
                middle = (log_p.exp() + log_d.exp()).div(2).log()
                js = ((log_p.exp() * (log_p - middle)).sum(-1) + (log_d.exp() * (log_d - middle)).sum(-1)) / 2
                kls.append((log_d.exp() * (log_d - log_p)).sum(-1))
                jss.append(js / np.log(2))
            gated.append(not may)
            losses += [-advantage * (1 - float(js.mean()) / np.log(2))] * len(said.ids)
    kl, js = (float(torch.cat(each).mean()) for each in (kls, jss))
    return Constrained(kl, js, float(np.mean(losses)), float(np.mean(gated)))
