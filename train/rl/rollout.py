"""Rollouts: prompts are read once and fanned out to a group; groups that teach nothing are counted and replaced."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from audit.conversation import Turn
from train.data.encode import Encoded, continued
from train.models.features import Features
from train.models.generation import Continuation, Sampling, generate, text_of
from train.models.loading import Loaded
from train.rl.config import GrpoConfig
from train.rl.curriculum import Curriculum, Lesson
from train.rl.objective import advantages_of
from train.rl.rewards.case import Case, Reward


@dataclass(frozen=True)
class Prompt:
    """A question with its reference answer."""

    image: str
    """Object id of the image."""
    turns: tuple[Turn, ...]
    """What the policy is to answer."""
    reference: str
    """The answer that is wanted."""
    record: str
    """The record that it is about."""
    rationale: str = ""
    """What leads to the answer; a curriculum may show its beginning."""


@dataclass(frozen=True, eq=False)
class Group:
    """A prompt and its completions."""

    prompt: Prompt
    """What was asked."""
    completions: tuple[Continuation, ...]
    """What the policy said."""
    texts: tuple[str, ...]
    """The same as words."""
    scores: dict[str, tuple[float | None, ...]]
    """What each earned, by reward, before any curriculum; None where a reward does not apply."""
    rewards: tuple[float, ...]
    """What each earned in all: the weighted sum, under the curriculum's threshold where there is one."""
    advantages: np.ndarray
    """(G,) float64: how much better each is than its group."""
    prefix: tuple[int, ...] = ()
    """Tokens that all completions were given."""
    given: str = ""
    """The same as words."""
    weight: float = 1.0
    """What a curriculum multiplied its advantages with."""
    kept: bool = True
    """Whether the step goes on with it; one that taught nothing was replaced."""

    @property
    def teaches(self) -> bool:
        """Whether its completions differ in what they earned."""
        return bool(np.any(self.advantages))


@dataclass(frozen=True)
class Rollouts:
    """Draws the groups of a step."""

    loaded: Loaded
    """The base."""
    model: Any
    """The policy: the base with its adapter on."""
    prompts: Sequence[Prompt]
    """What may be asked."""
    features: Features
    """Of the images."""
    config: GrpoConfig
    """How to sample."""
    rewards: Sequence[Reward]
    """What completions earn; the first is the similarity that a curriculum goes by."""
    curriculum: Curriculum | None = None
    """Gives prefixes, thresholds and weights."""

    def of(self, step: int, lesson: Lesson | None) -> list[Group]:
        """All groups of a step, those that were replaced too, a function of the step and the policy alone."""
        rng = Random(f"{self.config.seed} {step}")
        groups: list[Group] = []
        wanted = self.config.prompts
        for attempt in range(1 + self.config.resample):
            drawn = self._sampled(self._drawn(wanted, attempt, lesson, rng), lesson, rng)
            last = attempt == self.config.resample
            groups += [g if last else replace(g, kept=g.teaches) for g in drawn]
            wanted -= sum(g.teaches for g in drawn)
            if wanted <= 0:
                break
        return groups

    def _drawn(self, count: int, attempt: int, lesson: Lesson | None, rng: Random) -> list[Prompt]:
        if attempt and self.curriculum and lesson:
            return self.curriculum.draw(self.prompts, count, rng, lesson)
        return [rng.choice(self.prompts) for _ in range(count)]

    def _sampled(self, prompts: Sequence[Prompt], lesson: Lesson | None, rng: Random) -> list[Group]:
        config = self.config
        prefixes = [self._prefix(p, lesson, rng) for p in prompts]
        how = Sampling(
            config.max_new_tokens,
            config.temperature,
            config.group,
            rng.getrandbits(31),
            batch=config.prompts * config.group,
        )
        asked = [asked_of(self.loaded, self.features, p, x) for p, x in zip(prompts, prefixes, strict=True)]
        found = generate(self.loaded, asked, self.features, how, self.model)
        return [self._rewarded(*one, lesson) for one in zip(prompts, found, prefixes, strict=True)]

    def _prefix(self, prompt: Prompt, lesson: Lesson | None, rng: Random) -> tuple[int, ...]:
        if self.curriculum is None or lesson is None:
            return ()
        return self.curriculum.prefix(self.loaded.encoder, prompt, lesson, rng)

    def _rewarded(
        self, prompt: Prompt, completions: Sequence[Continuation], prefix: tuple[int, ...], lesson: Lesson | None
    ) -> Group:
        texts = tuple(text_of(self.loaded, c) for c in completions)
        question = prompt.turns[-1].text
        cases = [
            Case(question, prompt.reference, text, c.ended, len(c.ids))
            for text, c in zip(texts, completions, strict=True)
        ]
        scores = {reward.name: tuple(reward(case) for case in cases) for reward in self.rewards}
        earned = np.array([[np.nan if s is None else s for s in each] for each in scores.values()]).T  # (G, K)
        weights = np.array(self.config.reward_weights or [1.0] * len(self.rewards))
        counts = 1.0
        if self.curriculum and lesson and not np.isnan(earned[:, 0]).any():  # whether it applies, no answer can change
            similarities = earned[:, 0].tolist()
            self.curriculum.saw(prompt, similarities, prefixed=bool(prefix))
            earned[:, 0] = self.curriculum.rewards(similarities, lesson)
            counts = self.curriculum.weight(prompt, lesson)
        return Group(
            prompt,
            tuple(completions),
            texts,
            scores,
            tuple(np.nansum(earned * weights, 1).tolist()),
            counts * advantages_of(earned, weights, self.config.scaled),
            prefix,
            self.loaded.tokenizer.decode(prefix),
            counts,
        )


def asked_of(loaded: Loaded, features: Features, prompt: Prompt, prefix: Sequence[int], suffix: str = "") -> Encoded:
    """A prompt's tokens, and behind them the prefix that its completions are given.

    Args:
        suffix: names the transform under which the image is shown.
    """
    image = prompt.image + suffix
    asked = loaded.encoder.prompt(prompt.turns, (image,), [features.grid(image)])
    return continued(asked, prefix) if prefix else asked
