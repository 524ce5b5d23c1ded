"""Conversation to tokens: rendered by the model's own chat template, learned turns marked, image tokens expanded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from audit.conversation import Conversation, Turn
from audit.errors import BadInput

IMAGE_PART = {"type": "image"}


@dataclass(frozen=True)
class Encoded:
    """One conversation as tokens."""

    ids: np.ndarray
    """(T,) int64 token ids, image tokens expanded."""
    positions: np.ndarray
    """(3, T) int64."""
    learned: np.ndarray
    """(T,) bool: tokens that the loss counts."""
    images: tuple[tuple[str, int, int], ...]
    """(object id, first place, number of tokens) of each image."""
    shared_until: int
    """Tokens up to and with the end of the last image: what conversations about these images have in common."""


class Encoder:
    """Turns conversations into tokens for one model.

    Args:
        tokenizer: the model's own fast tokenizer, chat template included.
        family: says how images become tokens (``image_token``, ``closes_image``, ``positions``).
    """

    def __init__(self, tokenizer: Any, family: Any) -> None:
        self.tokenizer, self.family = tokenizer, family
        self.control = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)

    def held(self, text: str) -> str:
        """The first control token that stands in a text; empty where there is none."""
        return next((token for token in self.control if token in text), "")

    def messages(self, turns: Sequence[Turn], images: int) -> list[dict[str, Any]]:
        """The turns as chat-template messages, the images at the head of the first user turn.

        Raises:
            BadInput: a turn holds a control token: it could speak as the system, or stand for an image.
        """
        found: list[dict[str, Any]] = []
        waiting = images
        for number, turn in enumerate(turns, 1):
            if held := self.held(turn.text):
                raise BadInput(
                    f"turn {number} holds the control token {held}",
                    where="conversation",
                    hint="remove it from the text",
                )
            parts: list[dict[str, Any]] = []
            if turn.role == "user" and waiting:
                parts, waiting = [dict(IMAGE_PART) for _ in range(waiting)], 0
            found.append(
                {"role": turn.role, "content": [*parts, {"type": "text", "text": turn.text}] if parts else turn.text}
            )
        return found

    def render(self, turns: Sequence[Turn], images: int, open_turn: str = "") -> str:
        """The text that the model reads; ``open_turn`` is ``assistant`` or ``user`` to end on an open header."""
        messages = self.messages(turns, images)
        if not messages and not open_turn:
            return ""
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=open_turn == "assistant"
        )
        if open_turn == "user":
            marked = self.tokenizer.apply_chat_template(
                [*messages, {"role": "user", "content": "\x00"}], tokenize=False
            )
            text = marked[: marked.rindex("\x00")]
        return text

    def encode(self, conversation: Conversation, grids: Sequence[tuple[int, int]], ends: bool = False) -> Encoded:
        """Tokens of a whole conversation.

        Args:
            conversation: its turns say which are learned. A learned answer counts from its first word to the token
                that ends the turn; a learned user turn counts whole, header included, and so does the answer to it:
                who writes the question writes on from there (METHODS 1.2).
            grids: (rows, columns) of visual tokens of each image.
            ends: append the end-of-text token, learned: the model learns to end the dialogue.
        """
        turns, images = conversation.turns, len(conversation.images)
        text, spans = self.render(turns, images), []
        for k, turn in enumerate(turns):
            if not turn.learned:
                continue
            header = turn.role == "user" or (k > 0 and turns[k - 1].role == "user" and turns[k - 1].learned)
            start = len(self.render(turns[:k], images if k else 0, "" if header else turn.role))
            stop = len(self.render(turns[: k + 1], images))
            whole = turn.role == "user" or ends
            spans.append((start, stop if whole else start + len(text[start:stop].rstrip())))
        if ends:
            text += self.tokenizer.pad_token
            spans.append((len(text) - len(self.tokenizer.pad_token), len(text)))
        return self._tokens(text, spans, conversation.images, grids)

    def prompt(
        self,
        turns: Sequence[Turn],
        images: Sequence[str],
        grids: Sequence[tuple[int, int]],
        open_turn: str = "assistant",
    ) -> Encoded:
        """Tokens that a model is to continue."""
        return self._tokens(self.render(turns, len(images), open_turn), [], images, grids)

    def _tokens(
        self, text: str, spans: list[tuple[int, int]], images: Sequence[str], grids: Sequence[tuple[int, int]]
    ) -> Encoded:
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = np.asarray(found["input_ids"], np.int64)
        offsets = np.asarray(found["offset_mapping"], np.int64).reshape(-1, 2)
        learned = np.zeros(len(ids), bool)
        for start, stop in spans:
            learned |= (offsets[:, 0] >= start) & (offsets[:, 1] <= stop) & (offsets[:, 1] > offsets[:, 0])
        slots = np.flatnonzero(ids == self.family.image_token)
        if len(slots) != len(images):
            raise ValueError(f"{len(images)} images but {len(slots)} image slots in the rendered conversation")
        counts = [rows * columns for rows, columns in grids]
        repeats = np.ones(len(ids), np.int64)
        repeats[slots] = counts
        starts = np.cumsum(repeats) - repeats
        ids, learned = np.repeat(ids, repeats), np.repeat(learned, repeats)
        placed = tuple((image, int(starts[s]), n) for image, s, n in zip(images, slots, counts, strict=True))
        until = placed[-1][1] + placed[-1][2] + self.family.closes_image if placed else 0
        return Encoded(
            ids,
            self.family.positions(len(ids), [(p[1], g) for p, g in zip(placed, grids, strict=True)]),
            learned,
            placed,
            until,
        )


def continued(prompt: Encoded, answer: Sequence[int], learned: bool = True) -> Encoded:
    """A prompt with a given answer behind it; the answer's tokens are the learned ones."""
    ids = np.asarray(answer, np.int64)
    after = np.broadcast_to(int(prompt.positions.max()) + 1 + np.arange(len(ids)), (3, len(ids)))
    return Encoded(
        np.concatenate((prompt.ids, ids)),
        np.concatenate((prompt.positions, after), 1),
        np.concatenate((np.zeros(len(prompt.ids), bool), np.full(len(ids), learned))),
        prompt.images,
        len(prompt.ids),
    )
