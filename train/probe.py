"""A VQA probe: held-out questions with short answers, answered greedily, compared word for word."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from audit.conversation import Conversation, Turn
from train.models.features import Features
from train.models.generation import Sampling, generate, text_of
from train.models.loading import Loaded
from train.rl.rewards import exact, words

SHORT = 5
"""Words of an answer at most that is compared."""
MAX_NEW_TOKENS = 16
"""Tokens of an answer at most."""


@dataclass(frozen=True)
class Asked:
    """A question of the probe."""

    turns: tuple[Turn, ...]
    """What is asked."""
    images: tuple[str, ...]
    """About what."""
    answer: str
    """The right answer."""


def questions_of(conversations: Sequence[Conversation], most: int) -> list[Asked]:
    """Those that end in a short learned answer, evenly out of all of them."""
    found = [
        Asked(talk.turns[:-1], talk.images, talk.turns[-1].text)
        for talk in conversations
        if len(talk.turns) > 1
        and (talk.turns[-1].role, talk.turns[-1].learned) == ("assistant", True)
        and 0 < len(words(talk.turns[-1].text)) <= SHORT
    ]
    return [found[k * len(found) // most] for k in range(most)] if len(found) > most else found


def exact_matches(loaded: Loaded, model: Any, features: Features, questions: Sequence[Asked]) -> float:
    """Share of the questions whose greedy answer is the right one, in normalised words."""
    prompts = [
        loaded.encoder.prompt(asked.turns, asked.images, [features.grid(i) for i in asked.images])
        for asked in questions
    ]
    model.eval()
    answers = generate(loaded, prompts, features, Sampling(MAX_NEW_TOKENS, batch=16), model)
    said = [text_of(loaded, found[0]) for found in answers]
    right = [exact(text, asked.answer) for text, asked in zip(said, questions, strict=True)]
    return sum(right) / len(right)
