"""RCPA's curriculum: prefixes that shrink, a threshold that rises, weights that move from easy to hard (METHODS 2.3).

The paper gives names and no formulas for most parts; these are METHODS 2.3's. Beyond it: a prefix never shows a word of
the answer (`train.rl.prefix`), competence counts only rollouts without a prefix where the caller says which had one,
and replaced prompts are drawn from the band that can teach. Everything here is a function of the step, of the
generator that is handed in and of `state()`, so that a resumed run goes on bit for bit.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Protocol, TypeVar

from audit.conversation import Turn
from audit.errors import BadInput
from train.rl.prefix import shown


class Asked(Protocol):
    """What the curriculum reads of a prompt."""

    @property
    def image(self) -> str: ...  # noqa: D102 as in train.rl.grpo.Prompt
    @property
    def turns(self) -> tuple[Turn, ...]: ...  # noqa: D102
    @property
    def reference(self) -> str: ...  # noqa: D102
    @property
    def rationale(self) -> str: ...  # noqa: D102


P = TypeVar("P", bound=Asked)


@dataclass(frozen=True)
class CurriculumConfig:
    """The parts of RCPA, each with its switch. The names are the paper's where it has one."""

    curriculum_steps: int = 50
    """Steps of pre-alignment, S; then no prefix, the highest threshold, and the weights stay."""
    pace: Literal["steps", "competence"] = "steps"
    """What moves the curriculum on: the step over S, or the mean similarity over its target; then S is not used."""
    competence: float = 0.8
    """Mean similarity at which pre-alignment is over, where competence sets the pace."""
    competence_memory: float = 0.98
    """What a group leaves of the running mean similarity before it; it begins at 0."""
    prefix: bool = True
    """Begin a share of the rollouts with the beginning of the rationale."""
    prefix_max: float = 0.8
    """Share of the rationale that is shown at the start, rho_max; a cosine takes it to 0."""
    prefix_jitter: float = 0.2
    """How far a prompt's share may lie from the schedule's, as a part of it; never above prefix-max."""
    offset: float = 0.15
    """Share of prompts that get no prefix from the start, so that the policy also learns to begin."""
    prefix_nll: float = 1e-3
    """Weight of the negative log-likelihood of prefix tokens during pre-alignment, alpha; 0 leaves it out."""
    threshold: Literal["rising", "fixed", "off"] = "rising"
    """Similarity from which an answer earns 1: rising from delta-min to delta-max, fixed at delta-max, or off, when the
    reward is the similarity alone."""
    delta_min: float = 0.2
    """Threshold at the start."""
    delta_max: float = 0.8
    """Threshold at the end of pre-alignment and after it."""
    gamma: float = 0.2
    """Weight of the similarity itself beside the threshold, so that a group on one side of it still differs; 0 leaves
    it out."""
    difficulty: bool = True
    """Weigh a prompt's advantages by how near its difficulty lies to the one that is due."""
    difficulty_start: float = 0.4
    """Difficulty (1 - mean similarity) that weighs most at the start, mu_0."""
    difficulty_end: float = 0.8
    """Difficulty that weighs most at the end, mu_1."""
    sigma: float = 0.35
    """Width of the weight around it."""
    difficulty_memory: float = 0.5
    """What a group leaves of the difficulty that its prompt had before it."""
    band: float = 0.5
    """Replace groups that taught nothing with prompts whose chance of that is at most this; 1 draws from all alike."""

    def __post_init__(self) -> None:
        """Raises: BadInput naming the flag that is out of bounds."""
        _check("curriculum_steps", self.curriculum_steps >= 1, "must be 1 or more")
        for name in ("competence", "sigma"):
            _check(name, 0 < getattr(self, name) < math.inf, "must be a number above 0")
        _check("competence", self.competence <= 1, "must be at most 1")
        for name in ("prefix_jitter", "offset", "delta_min", "delta_max", "difficulty_start", "difficulty_end", "band"):
            _check(name, 0 <= getattr(self, name) <= 1, "must be from 0 to 1")
        for name in ("prefix_max", "competence_memory", "difficulty_memory"):
            _check(name, 0 <= getattr(self, name) < 1, "must be from 0 to below 1")
        for name in ("prefix_nll", "gamma"):
            _check(name, 0 <= getattr(self, name) < math.inf, "must be a number from 0")
        _check("delta_max", self.delta_max >= self.delta_min, "must not be below --delta-min")
        _check("difficulty_end", self.difficulty_end >= self.difficulty_start, "must not be below --difficulty-start")
        _check("pace", self.pace in ("steps", "competence"), "must be one of steps, competence")
        _check("threshold", self.threshold in ("rising", "fixed", "off"), "must be one of rising, fixed, off")

    @classmethod
    def off(cls) -> "CurriculumConfig":
        """Plain GRPO: the similarity is the reward, nothing is shown, all prompts weigh and are drawn alike."""
        return cls(prefix=False, prefix_nll=0.0, threshold="off", difficulty=False, band=1.0)


def _check(name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise BadInput(f"--{name.replace('_', '-')} {rule}", where="alignment settings", hint="cloche align --help")


@dataclass(frozen=True)
class Lesson:
    """What holds during one step."""

    progress: float
    """p in [0, 1]; at 1 pre-alignment is over."""
    prefix_share: float
    """rho, of a rationale's tokens; 0 for none."""
    threshold: float
    """delta, the similarity from which an answer earns 1; -1 where the similarity alone counts."""
    prefix_nll: float
    """alpha, the weight of prefix tokens in the loss."""
    difficulty_target: float
    """mu, the difficulty that weighs most."""

    @property
    def metrics(self) -> dict[str, float]:
        """What a row of the run's metrics says of the curriculum."""
        return {
            "progress": self.progress,
            "prefix_share": self.prefix_share,
            "threshold": self.threshold,
            "difficulty_target": self.difficulty_target,
        }


class Curriculum:
    """Where each prompt and the run as a whole stand.

    Args:
        config: which parts there are.
        group: completions a group, G; the band depends on it.
    """

    def __init__(self, config: CurriculumConfig, group: int = 8) -> None:
        self.config, self.group = config, group
        self._difficulty: dict[str, float] = {}  # by digest of the prompt
        self._similarity = 0.0  # running mean over groups
        self._reached = 0.0  # furthest progress of competence: a bad hour does not bring prefixes back

    def lesson(self, step: int) -> Lesson:
        """What holds during a step, counted from 0."""
        of = self.config
        progress = self._reached if of.pace == "competence" else min(max(step / of.curriculum_steps, 0.0), 1.0)
        before = progress < 1
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        rising = _between(of.delta_min, of.delta_max, progress)
        return Lesson(
            progress,
            of.prefix_max * cosine if of.prefix and before else 0.0,
            {"rising": rising, "fixed": of.delta_max, "off": -1.0}[of.threshold],
            of.prefix_nll if of.prefix and before else 0.0,
            _between(of.difficulty_start, of.difficulty_end, progress),
        )

    def prefix(self, encoder: Any, prompt: Asked, lesson: Lesson, rng: Random) -> tuple[int, ...]:
        """Tokens of the rationale that all rollouts of a prompt begin with; never a word of its answer.

        Two numbers are drawn whatever comes of it, so that what follows does not depend on it.
        """
        left_out, moved = rng.random(), rng.uniform(-1, 1)
        if lesson.prefix_share <= 0 or left_out < self.config.offset:
            return ()
        share = lesson.prefix_share * (1 + self.config.prefix_jitter * moved)
        return shown(encoder, prompt.rationale, prompt.reference, min(share, self.config.prefix_max))

    def rewards(self, similarities: Sequence[float], lesson: Lesson) -> list[float]:
        """What each completion earns for its similarity to the reference, in [0, 1 + gamma]."""
        if self.config.threshold == "off":
            return [float(s) for s in similarities]
        return [float(s >= lesson.threshold and s > 0) + self.config.gamma * s for s in similarities]

    def weight(self, prompt: Asked, lesson: Lesson) -> float:
        """What a prompt's advantages are multiplied with, in [0, 1]; 1 for one that was never seen."""
        difficulty = self.difficulty_of(prompt)
        if not self.config.difficulty or difficulty is None:
            return 1.0
        return math.exp(-((difficulty - lesson.difficulty_target) ** 2) / (2 * self.config.sigma**2))

    def saw(self, prompt: Asked, similarities: Sequence[float], prefixed: bool = False) -> None:
        """Take in a group.

        Args:
            prefixed: whether it began with a prefix; its similarity then says little of what the policy can do, and
                competence leaves it out.
        """
        if not similarities:
            return
        mean = min(max(math.fsum(similarities) / len(similarities), 0.0), 1.0)
        key, memory = key_of(prompt), self.config.difficulty_memory
        before = self._difficulty.get(key, 1 - mean)
        self._difficulty[key] = memory * before + (1 - memory) * (1 - mean)
        if not prefixed:
            kept = self.config.competence_memory
            self._similarity = kept * self._similarity + (1 - kept) * mean
            self._reached = max(self._reached, min(self._similarity / self.config.competence, 1.0))

    def difficulty_of(self, prompt: Asked) -> float | None:
        """Running mean of 1 - similarity over a prompt's groups; None where it was never seen."""
        return self._difficulty.get(key_of(prompt))

    def can_teach(self, prompt: Asked) -> bool:
        """Whether a prompt was seen and is likely enough to give a group that differs."""
        difficulty = self.difficulty_of(prompt)
        return difficulty is not None and zero_signal(1 - difficulty, self.group) <= self.config.band

    def draw(self, prompts: Sequence[P], count: int, rng: Random, lesson: Lesson) -> list[P]:
        """Prompts in place of those that taught nothing: from the band first, then unseen ones, then the others.

        Within each, those whose difficulty is due weigh more. None comes twice before all came once.
        """
        if self.config.band >= 1:
            return [rng.choice(prompts) for _ in range(count)] if prompts else []
        order: list[P] = []
        while prompts and len(order) < count:
            ranks = []
            for number, prompt in enumerate(prompts):
                tier = 0 if self.can_teach(prompt) else 1 if self.difficulty_of(prompt) is None else 2
                weight = max(self.weight(prompt, lesson), 1e-9)
                ranks.append((tier, -math.log(1 - rng.random()) / weight, number))  # Efraimidis and Spirakis 2006
            order += [prompts[number] for _, _, number in sorted(ranks)]
        return order[:count]

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as JSON; prompts are digests."""
        return {"difficulty": dict(self._difficulty), "similarity": self._similarity, "reached": self._reached}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state; an empty one is a beginning."""
        self._difficulty = {str(k): float(v) for k, v in state.get("difficulty", {}).items()}
        self._similarity, self._reached = float(state.get("similarity", 0.0)), float(state.get("reached", 0.0))


def _between(low: float, high: float, share: float) -> float:
    """From one number to another, which is reached to the last bit."""
    return min(low + (high - low) * share, high) if share < 1 else high


def zero_signal(solved: float, group: int) -> float:
    """Chance that all completions of a group earn the same, q^G + (1 - q)^G (METHODS 2.3).

    Args:
        solved: chance q that one completion earns 1 and not 0.
        group: completions a group, G.
    """
    return float(solved**group + (1 - solved) ** group)


def key_of(prompt: Asked) -> str:
    """Sixteen letters that stand for a prompt: its image, its words and its answer, none of which they tell."""
    said = [prompt.image, [[t.role, t.text] for t in prompt.turns], prompt.reference]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
