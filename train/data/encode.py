"""Conversation to tokens: rendered by the model's own chat template, learned turns marked, image tokens expanded."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jinja2 import TemplateError

from audit.conversation import Conversation, Turn
from audit.errors import BadInput
from train.models.family import Family, Grid

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
    visual: np.ndarray
    """(T,) bool: places in which an image's feature stands."""
    images: tuple[tuple[str, int, int], ...]
    """(object id, first place, number of places) of each image; text between its features counts."""
    shared_until: int
    """Tokens up to and with the end of the last image: what conversations about these images have in common."""


class Encoder:
    """Turns conversations into tokens for one model.

    Args:
        tokenizer: the model's own fast tokenizer, chat template included.
        family: says how images become tokens.
    """

    def __init__(self, tokenizer: Any, family: Family) -> None:
        self.tokenizer, self.family = tokenizer, family
        self.slot: str = tokenizer.convert_ids_to_tokens(family.image_token)
        self.control = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self.in_parts = not self._takes_plain_text()
        opening = tokenizer("")["input_ids"]
        self.bos: str = tokenizer.bos_token if opening and opening[0] == tokenizer.bos_token_id else ""

    def _takes_plain_text(self) -> bool:
        """Whether the chat template writes a turn that is given as plain text; some take lists of parts only."""
        try:
            return "probe" in self.tokenizer.apply_chat_template([{"role": "user", "content": "probe"}], tokenize=False)
        except (ValueError, TypeError, TemplateError):
            return False

    @cached_property
    def turn_end(self) -> int | None:
        """The special token with which the chat template ends an answer; None where it has none."""
        text = self.render((Turn("user", "probe"), Turn("assistant", "\x00")), 0)
        _, found, rest = text.rpartition("\x00")
        ends = [token for token in self.control if found and rest.lstrip().startswith(token)]
        return int(self.tokenizer.convert_tokens_to_ids(max(ends, key=len))) if ends else None

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
            whole = [*parts, {"type": "text", "text": turn.text}]
            found.append({"role": turn.role, "content": whole if parts or self.in_parts else turn.text})
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
            marker = [{"type": "text", "text": "\x00"}] if self.in_parts else "\x00"
            marked = self.tokenizer.apply_chat_template(
                [*messages, {"role": "user", "content": marker}], tokenize=False
            )
            text = marked[: marked.rindex("\x00")].rstrip(" ")  # a word's token begins with the space before it
        return text if text.startswith(self.bos) else self.bos + text

    def encode(self, conversation: Conversation, grids: Sequence[Grid], ends: bool = False) -> Encoded:
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
            end = self.family.end_of_text(self.tokenizer)
            text += end
            spans.append((len(text) - len(end), len(text)))
        return self._tokens(text, spans, conversation.images, grids)

    def prompt(
        self,
        turns: Sequence[Turn],
        images: Sequence[str],
        grids: Sequence[Grid],
        open_turn: str = "assistant",
    ) -> Encoded:
        """Tokens that a model is to continue."""
        return self._tokens(self.render(turns, len(images), open_turn), [], images, grids)

    def _tokens(self, text: str, spans: list[tuple[int, int]], images: Sequence[str], grids: Sequence[Grid]) -> Encoded:
        expansions = [self.family.expansion(grid, self.slot) for grid in grids]
        text, spans = _expanded(text, self.slot, [e.text for e in expansions], spans)
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = np.asarray(found["input_ids"], np.int64)
        offsets = np.asarray(found["offset_mapping"], np.int64).reshape(-1, 2)
        learned = np.zeros(len(ids), bool)
        for start, stop in spans:
            learned |= (offsets[:, 0] >= start) & (offsets[:, 1] <= stop) & (offsets[:, 1] > offsets[:, 0])
        slots = np.flatnonzero(ids == self.family.image_token)
        counts = [n for e in expansions for n in e.counts]
        if len(slots) != len(counts) or len(images) != len(grids):
            raise ValueError(f"{len(images)} images but {len(slots)} image slots in the rendered conversation")
        repeats = np.ones(len(ids), np.int64)
        repeats[slots] = counts
        starts = np.cumsum(repeats) - repeats  # place of each token once all are repeated
        ids, learned, visual = (np.repeat(x, repeats) for x in (ids, learned, ids == self.family.image_token))
        placed, at = [], 0
        for image, expansion in zip(images, expansions, strict=True):
            first, last = slots[at], slots[at + len(expansion.counts) - 1]
            placed.append((image, int(starts[first]), int(starts[last] + repeats[last] - starts[first])))
            at += len(expansion.counts)
        until = placed[-1][1] + placed[-1][2] + self.family.closes_image if placed else 0
        return Encoded(
            ids,
            self.family.positions(len(ids), [(p[1], g) for p, g in zip(placed, grids, strict=True)]),
            learned,
            visual,
            tuple(placed),
            until,
        )


def _expanded(
    text: str, slot: str, expansions: Sequence[str], spans: Sequence[tuple[int, int]]
) -> tuple[str, list[tuple[int, int]]]:
    """The text with each slot replaced in turn, and spans of characters moved along with it."""
    pieces = text.split(slot)
    if len(pieces) != len(expansions) + 1:
        raise ValueError(f"{len(expansions)} images but {len(pieces) - 1} image slots in the rendered conversation")
    grown, ends, at = [pieces[0]], [], len(pieces[0])
    for expansion, piece in zip(expansions, pieces[1:], strict=True):
        at += len(slot)
        ends.append((at, len(expansion) - len(slot)))  # from here on, everything stands that much further
        grown += [expansion, piece]
        at += len(piece)

    def moved(place: int) -> int:
        return place + sum(by for end, by in ends if end <= place)

    return "".join(grown), [(moved(start), moved(stop)) for start, stop in spans]


def continued(prompt: Encoded, answer: Sequence[int], learned: bool = True) -> Encoded:
    """A prompt with a given answer behind it; the answer's tokens are the learned ones."""
    ids = np.asarray(answer, np.int64)
    after = np.broadcast_to(int(prompt.positions.max()) + 1 + np.arange(len(ids)), (3, len(ids)))
    return Encoded(
        np.concatenate((prompt.ids, ids)),
        np.concatenate((prompt.positions, after), 1),
        np.concatenate((np.zeros(len(prompt.ids), bool), np.full(len(ids), learned))),
        np.concatenate((prompt.visual, np.zeros(len(ids), bool))),
        prompt.images,
        len(prompt.ids),
    )
