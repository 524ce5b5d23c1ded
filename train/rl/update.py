"""The update: a rollout's completions are scored as branches of one row each group, and the policy is moved.

The prompt and its image stand in a row once, however many completions there are. The groups are taken a few at a time
where memory asks for it; what is divided by is the whole step's, so that the gradients are the same.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from train.data.encode import Encoded, continued
from train.data.rows import PREFIX, Batch, Row, collate, shared_row
from train.memory import Fitting
from train.models.features import Features
from train.models.forward import core, hidden_states
from train.models.generation import Continuation
from train.models.loading import Loaded
from train.rl.config import GrpoConfig
from train.rl.domain import Transform
from train.rl.objective import Tokens, Totals, policy_loss
from train.rl.rollout import Group, asked_of
from train.rl.scoring import Other, Scores, scored

NOTHING = Continuation((), (), False)
"""Stands in the row of a group of which the prefix alone is learned."""


def group_row(asked: Encoded, completions: Sequence[Continuation], prefix: int = 0) -> Row:
    """A group as one row: the prompt once, each completion a branch; truncated ones are not learned.

    Args:
        prefix: tokens at the prompt's end that are learned, too, in the shared part.
    """
    branches = [continued(asked, c.ids, c.ended) for c in completions]
    if prefix:
        marked = branches[0].learned.copy()
        marked[len(asked.ids) - prefix : len(asked.ids)] = True
        branches[0] = replace(branches[0], learned=marked)
    return shared_row(branches)


@dataclass
class Material:
    """What a rollout's updates learn from."""

    groups: Sequence[Group]
    """Those that teach something by their rewards, their prefix, the domain or KL."""
    read: list[np.ndarray]
    """(G,) bool a group: which completions stand in its row."""
    rows: list[Row]
    """One a group."""
    totals: Totals
    """What the policy's sums are divided by; groups whose rewards are all alike count where KL has a weight."""
    prefix_nll: float
    """Weight of prefix tokens."""
    prefix_tokens: int
    """Of all groups."""
    transform: Transform | None
    """What the domain constraint shows this time."""
    applies: list[np.ndarray]
    """(G,) bool a group: whether the constraint may be put on a completion."""
    constrained: int
    """Learned tokens that it is put on."""
    turned: list[Row] = field(default_factory=list)
    """The rows under the transform."""
    old: list[torch.Tensor | None] = field(default_factory=list)
    """Log-probabilities (N,) a group before the first update; None where not yet known."""
    reference: list[torch.Tensor | None] = field(default_factory=list)
    """The same of the policy without its adapter."""


class Updates:
    """Moves the policy; it holds what a step changes.

    Args:
        loaded: the base.
        model: the policy, the base with its adapter on.
        features: of the images.
        config: how to align.
        transforms: of the domain; they take turns, one a step.
        tell: told what a person should know.
    """

    def __init__(
        self,
        loaded: Loaded,
        model: Any,
        features: Features,
        config: GrpoConfig,
        transforms: Sequence[Transform] = (),
        tell: Callable[[str], None] = lambda what: None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.loaded, self.model, self.features, self.config = loaded, model, features, config
        self.transforms = transforms if config.domain_weight or config.shaping else ()
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer or torch.optim.AdamW(self.weights, lr=config.learning_rate, weight_decay=0.0)
        self.fitting = Fitting(config.micro_groups or config.prompts, tell)
        self.tell = tell
        self.recomputes = False
        """Whether layers are computed again in the backward pass, as `train.recompute.recomputing` says."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, as JSON."""
        return {"groups": self.fitting.rows}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self.fitting.rows = int(state.get("groups", self.fitting.rows))

    def learn(self, groups: Sequence[Group], step: int, prefix_nll: float = 0.0) -> dict[str, float]:
        """Take a rollout's optimizer steps; what the last pass over it found, empty where nothing can be learned.

        Args:
            groups: of the rollout; of those that were replaced, only the given prefix is learned.
            prefix_nll: weight of the mean negative log-likelihood of prefix tokens.
        """
        material = self._material(groups, step, prefix_nll)
        if not any((row.learned & (row.sources >= 0)).any() for row in material.rows):
            return {}
        found: dict[str, float] = {}
        for _ in range(self.config.updates):
            found = self.fitting.do(len(material.rows), lambda size: self._gradients(material, size), self._forget)
            norm = float(torch.nn.utils.clip_grad_norm_(self.weights, self.config.max_grad_norm))
            found |= {"grad_norm": norm, "skipped": float(not np.isfinite(norm))}
            if found["skipped"]:
                self.tell(f"step {step + 1} is skipped: its gradient is not a finite number")
                found = {name: value for name, value in found.items() if np.isfinite(value) and name != "loss"}
            else:
                self.optimizer.step()
            self._forget()
        return found

    def _material(self, groups: Sequence[Group], step: int, prefix_nll: float) -> Material:
        useful = [g for g in groups if (g.prefix and prefix_nll) or (g.kept and (g.teaches or self.pulls))]
        encoded = [asked_of(self.loaded, self.features, g.prompt, g.prefix) for g in useful]
        transform, applies = self._transform(useful, encoded, step)
        read = [_read(g, self._counts(g) or bool(a.any())) for g, a in zip(useful, applies, strict=True)]
        rows = [
            _row(asked, g, chosen, g.completions, prefix_nll)
            for asked, g, chosen in zip(encoded, useful, read, strict=True)
        ]
        counted = [g for g in useful if self._counts(g)]
        totals = Totals(
            sum(len(c.ids) for g in counted for c in g.completions if c.ended),
            sum(len(g.completions) for g in counted),
            self.config.max_new_tokens,
        )
        constrained = sum(
            len(c.ids) * int(may)
            for g, a in zip(useful, applies, strict=True)
            for c, may in zip(g.completions, a, strict=True)
            if c.ended
        )
        prefixes = sum(len(g.prefix) for g in useful) if prefix_nll else 0
        material = Material(useful, read, rows, totals, prefix_nll, prefixes, transform, applies, constrained)
        material.old, material.reference = [None] * len(useful), [None] * len(useful)
        if transform:
            material.turned = [
                self._turned(g, transform, chosen, prefix_nll) for g, chosen in zip(useful, read, strict=True)
            ]
        return material

    @property
    def pulls(self) -> bool:
        """Whether groups teach something, too, whose completions all earned the same: KL and the domain do."""
        return bool(self.config.kl or (self.transforms and self.config.domain_weight))

    def _counts(self, group: Group) -> bool:
        """Whether a group's tokens stand in the policy's sums."""
        return group.kept and (group.teaches or bool(self.config.kl))

    def _transform(
        self, groups: Sequence[Group], encoded: Sequence[Encoded], step: int
    ) -> tuple[Transform | None, list[np.ndarray]]:
        """The transform whose turn it is, or the next that may be put on some completion; and on which it may.

        A completion that was cut off is not learned, so nothing is put on it, and nothing on a group that was replaced.
        """
        for turn in range(len(self.transforms)):
            transform = self.transforms[(step + turn) % len(self.transforms)]
            applies = [self._applies(transform, g, asked) for g, asked in zip(groups, encoded, strict=True)]
            if any(each.any() for each in applies):
                return transform, applies
        return None, [np.zeros(len(g.completions), bool) for g in groups]

    def _applies(self, transform: Transform, group: Group, asked: Encoded) -> np.ndarray:
        """(G,) bool: whether the constraint may be put on a completion, the prefix that it was given and all."""
        question, ids = " ".join(t.text for t in group.prompt.turns), asked.ids[~asked.visual].tolist()
        said = [(*group.prefix, *c.ids) for c in group.completions]
        texts = [self.loaded.tokenizer.decode(each, skip_special_tokens=True) for each in said]
        judged = zip(texts, said, group.completions, strict=True)
        return np.array(
            [group.kept and c.ended and transform.applies(question, text, (ids, each)) for text, each, c in judged]
        )

    def _turned(self, group: Group, transform: Transform, chosen: np.ndarray, prefix_nll: float) -> Row:
        """A group's row under the transform: the image's own grid, and the words that are right for it."""
        asked = asked_of(self.loaded, self.features, group.prompt, group.prefix, transform.suffix)
        asked = replace(asked, ids=np.where(asked.visual, asked.ids, transform.swap(asked.ids)))
        swapped = [replace(c, ids=tuple(transform.swap(np.array(c.ids)).tolist())) for c in group.completions]
        return _row(asked, group, chosen, swapped, prefix_nll)

    def _gradients(self, material: Material, size: int) -> dict[str, float]:
        """Add up the gradients of all groups, some at a time."""
        found: Counter[str] = Counter()
        language = self.loaded.model.get_submodule(self.loaded.family.language)
        language.train(self.recomputes)  # layers recompute in training mode only; there is no dropout
        for start in range(0, len(material.rows), size):
            found.update(self._part(material, slice(start, start + size)))
        language.eval()
        return dict(found)

    def _part(self, material: Material, here: slice) -> dict[str, float]:
        """Add the gradients of some groups, and say what they share in the step's figures."""
        config, rows, groups = self.config, material.rows[here], material.groups[here]
        batch, own = self._batch(rows), [_segments(row) for row in rows]
        if not len(batch.targets):
            return {}
        said = self._tensor(np.concatenate(own) > PREFIX)  # (N,): generated, not given
        temperatures = torch.where(said, config.temperature, 1.0)
        policy = self._scores(batch, temperatures, self._other(material, here))
        kept = [len(segments) for segments in own]
        if any(one is None for one in material.old[here]):
            material.old[here] = policy.logprobs.detach().split(kept)
        if config.kl and any(one is None for one in material.reference[here]):
            with torch.no_grad(), self.model.disable_adapter():
                material.reference[here] = self._scores(batch, temperatures).logprobs.split(kept)
        owners, read = batch.owners[said], material.read[here]
        sizes = [np.count_nonzero(chosen) for chosen in read]

        def each(told: Sequence[np.ndarray]) -> torch.Tensor:
            """What is told of completions, for each learned token."""
            chosen = np.concatenate([one[stands] for one, stands in zip(told, read, strict=True)])
            return self._tensor(chosen).float()[owners]

        advantages = each([g.advantages for g in groups])
        counts = self._tensor(np.repeat([self._counts(g) for g in groups], sizes)).float()[owners]
        found = {"entropy": float((policy.entropy[said] * counts).sum()) / max(1, material.totals.tokens)}
        domain = policy.logprobs.new_zeros(())
        if material.transform is not None:
            gate = each(material.applies[here])
            js, apart = policy.js[said] * gate, (policy.kl[said] * gate).sum() / max(1, material.constrained)
            domain = config.domain_weight * apart
            if config.shaping:  # D_i, the mean over a completion (METHODS 3.2)
                lengths = owners.bincount().clamp(min=1)
                mean = torch.zeros_like(lengths, dtype=js.dtype).index_add(0, owners, js) / lengths
                advantages = advantages * (1 - mean)[owners]
            found |= {
                "domain_kl": float(apart.detach()),
                "domain_js": float(js.sum()) / max(1, material.constrained),
            }
        first = config.updates == 1
        old = None if first else torch.cat(material.old[here])[said]  # type: ignore[arg-type]
        reference = torch.cat(material.reference[here])[said] if config.kl else None  # type: ignore[arg-type]
        tokens = Tokens(policy.logprobs[said], advantages, owners, old, reference)
        policy_part = policy_loss(config.objective, tokens, material.totals)
        given = -policy.logprobs[~said].sum() / max(1, material.prefix_tokens)
        loss = policy_part.value + domain + material.prefix_nll * given
        if material.prefix_tokens:
            found["prefix_nll"] = float(given.detach())
        loss.backward()
        found |= {
            "loss": float(loss.detach()),
            "clipped_low": policy_part.clipped_low,
            "clipped_high": policy_part.clipped_high,
        }
        if config.kl:
            found["kl"] = policy_part.kl
        return found

    def _scores(self, batch: Batch, temperatures: torch.Tensor, other: Other | None = None) -> Scores:
        states = self._states(batch)
        return scored(core(self.model).lm_head, states, batch.targets, temperatures, other)

    def _other(self, material: Material, here: slice) -> Other | None:
        if material.transform is None:
            return None
        with torch.no_grad():
            batch = self._batch(material.turned[here])
            return Other(self._states(batch), material.transform, batch.ids.flatten()[batch.sources].cpu().numpy())

    def _states(self, batch: Batch) -> torch.Tensor:
        seen = self.features.stack(batch.images)
        return hidden_states(self.loaded.family, self.model, batch, seen)[batch.sources]

    def _batch(self, rows: Sequence[Row]) -> Batch:
        return collate(rows, self.loaded.tokenizer.pad_token_id, self.loaded.device)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.loaded.device)

    def _forget(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)


def _read(group: Group, learned: bool) -> np.ndarray:
    """(G,) bool: the completions that are learned. Those that were cut off would be computed for nothing."""
    return np.array([learned and c.ended for c in group.completions])


def _row(
    asked: Encoded, group: Group, chosen: np.ndarray, completions: Sequence[Continuation], prefix_nll: float
) -> Row:
    read = [c for c, stands in zip(completions, chosen, strict=True) if stands]
    return group_row(asked, read or [NOTHING], prefix=len(group.prefix) if prefix_nll else 0)


def _segments(row: Row) -> np.ndarray:
    """(N,): the segment of each learned token, in the order of `collate`."""
    return row.segments[row.learned & (row.sources >= 0)]
