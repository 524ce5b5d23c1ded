"""What the loop asks of a curriculum, a watch over collapse and a domain's transforms; all three may be left out."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from train.data.encode import Encoder

if TYPE_CHECKING:
    from train.rl.rollout import Prompt


class Lesson(Protocol):
    """What a curriculum wants of one step."""

    @property
    def prefix_nll(self) -> float:
        """Weight of the mean negative log-likelihood of prefix tokens; 0 leaves it out."""

    @property
    def metrics(self) -> dict[str, float]:
        """What a row of the run's metrics says of it."""


class Curriculum(Protocol):
    """RCPA: what is given, asked and weighed at each step (METHODS 2.3)."""

    def lesson(self, step: int) -> Any:
        """The lesson of a step."""

    def prefix(self, encoder: Encoder, prompt: "Prompt", lesson: Any, rng: Random) -> tuple[int, ...]:
        """Tokens of the rationale that all of a prompt's completions are given."""

    def rewards(self, similarities: Sequence[float], lesson: Any) -> list[float]:
        """Rewards of a group's similarities under the lesson's threshold."""

    def weight(self, prompt: "Prompt", lesson: Any) -> float:
        """How much a prompt of this difficulty counts."""

    def saw(self, prompt: "Prompt", similarities: Sequence[float], prefixed: bool = False) -> None:
        """Take note of how well a prompt was answered, with or without a prefix."""

    def draw(self, prompts: "Sequence[Prompt]", count: int, rng: Random, lesson: Any) -> "list[Prompt]":
        """Prompts in place of those that taught nothing."""

    def state(self) -> Any:
        """What a resumed run must know, as JSON."""

    def resume(self, state: Any) -> None:
        """Go on from such a state."""


class Watch(Protocol):
    """Says when training has collapsed."""

    def see(self, row: Mapping[str, float]) -> object | None:
        """Look at a step's metrics; a diagnosis, in words as str(), where training has collapsed."""

    def state(self) -> Any:
        """What a resumed run must know, as JSON."""

    def resume(self, state: Any) -> None:
        """Go on from such a state."""


class Transform(Protocol):
    """A change of the image that changes the answer in a known way, or not at all (METHODS 3)."""

    @property
    def suffix(self) -> str:
        """Ends the id of an image that is to be shown changed."""

    def swap(self, ids: np.ndarray) -> np.ndarray:
        """Tokens that are right for the changed image."""

    def back(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) over the changed answer, read at each token's counterpart."""

    def applies(self, question: str, completion: str) -> bool:
        """Whether the constraint may be put on this completion."""
