"""Conversation to tokens: rendered by the model's own chat template, learned turns marked, image tokens expanded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError

from audit.conversation import Conversation, Turn
from audit.errors import BadInput
from train.models.family import Family, Grid

TEMPLATE_DATE = "26 Jul 2024"
"""What Llama-3's templates themselves fall back on where they are told no date."""
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
        special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self.control = tuple(dict.fromkeys((*special, self.slot)))
        self.in_parts = not self._takes_plain_text()
        opening = tokenizer("")["input_ids"]
        self.bos: str = tokenizer.bos_token if opening and opening[0] == tokenizer.bos_token_id else ""
        """What the tokenizer itself puts before a text; empty where it puts nothing."""
        written = self._written_stop()
        self.stop: str = written or tokenizer.eos_token or ""
        """The token that ends an answer."""
        self.added_stop: str = "" if written else self.stop
        """Written behind a learned answer; empty where the chat template writes the stop itself."""

    def _takes_plain_text(self) -> bool:
        """Whether the chat template writes a turn that is given as plain text; some take lists of parts only."""
        try:
            return "probe" in self.tokenizer.apply_chat_template([{"role": "user", "content": "probe"}], tokenize=False)
        except (ValueError, TypeError, TemplateError):
            return False

    def _written(self, messages: Sequence[dict[str, Any]], **more: Any) -> str:
        """What the chat template writes; templates that write a date always get the same one."""
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, date_string=TEMPLATE_DATE, **more
        )
        return text

    def _written_stop(self) -> str:
        """The control token that the chat template writes behind an answer; empty where there is none."""
        try:
            told = self.render([Turn("user", "probe"), Turn("assistant", "probe")], 0)
        except (ValueError, TypeError, TemplateError):
            return ""  # a template that cannot be used says so when it is
        return self.held(told.rpartition("probe")[2])

    def held(self, text: str) -> str:
        """The first control token that stands in a text; empty where there is none."""
        return next((token for token in self.control if token in text), "")

    def messages(self, turns: Sequence[Turn], images: int, where: str = "conversation") -> list[dict[str, Any]]:
        """The turns as chat-template messages, the images at the head of the first user turn.

        Args:
            where: names the conversation in an error.
        Raises:
            BadInput: a turn holds a control token: it could speak as the system, or stand for an image.
        """
        found: list[dict[str, Any]] = []
        waiting = images
        for number, turn in enumerate(turns, 1):
            if held := self.held(turn.text):
                raise BadInput(
                    f"turn {number} holds the control token {held}",
                    where=where,
                    hint="remove it from the text",
                )
            parts: list[dict[str, Any]] = []
            if turn.role == "user" and waiting:
                parts, waiting = [dict(IMAGE_PART) for _ in range(waiting)], 0
            whole = [*parts, {"type": "text", "text": turn.text}]
            found.append({"role": turn.role, "content": whole if parts or self.in_parts else turn.text})
        return found

    def render(self, turns: Sequence[Turn], images: int, open_turn: str = "", where: str = "conversation") -> str:
        """The text that the model reads, as its chat template writes it.

        Args:
            open_turn: ``assistant`` or ``user`` to end on an open header.
            where: names the conversation in an error.
        """
        messages = self.messages(turns, images, where)
        if not messages and not open_turn:
            return ""
        text = self._written(messages, add_generation_prompt=open_turn == "assistant")
        if open_turn == "user":
            marker = [{"type": "text", "text": "\x00"}] if self.in_parts else "\x00"
            marked = self._written([*messages, {"role": "user", "content": marker}])
            text = marked[: marked.rindex("\x00")].rstrip(" ")  # a space is the beginning of the word behind it
        return text

    def encode(self, conversation: Conversation, grids: Sequence[Grid], ends: bool = False) -> Encoded:
        """Tokens of a whole conversation.

        Args:
            conversation: its turns say which are learned. A learned answer counts from its first word to the token
                that ends the turn, which is added where the chat template writes none; a learned user turn counts
                whole, header included, and so does the answer to it: who writes the question writes on from there
                (METHODS 1.2). What stands up to the end of the last image is never learned.
            grids: (rows, columns) of visual tokens of each image.
            ends: append the end-of-text token, learned: the model learns to end the dialogue. It then writes on
                behind its answers, and nothing is added to them.

        Raises: BadInput where images and image tokens do not match, or where it begins with a learned answer.
        """
        turns, images = conversation.turns, len(conversation.images)
        where = f"record {conversation.record}, " * bool(conversation.record) + f"conversation {conversation.id}"
        text, spans, added = self.render(turns, images, where=where), [], 0
        _check_slots(images, len(grids), text.count(self.slot), where)
        for k, turn in enumerate(turns):
            if not turn.learned:
                continue
            if not k and turn.role == "assistant":
                raise BadInput("it begins with an answer", where=where, hint="put the user's question before it")
            header = turn.role == "user" or (k > 0 and turns[k - 1].role == "user" and turns[k - 1].learned)
            start = added + len(self.render(turns[:k], images if k else 0, "" if header else turn.role))
            stop = added + len(self.render(turns[: k + 1], images))
            start = len(text[:start].rstrip(" ")) if k else start  # a space is the beginning of the word behind it
            if turn.role == "user" or ends:
                spans.append((start, stop))
                continue
            last = start + len(text[start:stop].rstrip())
            text = text[:last] + self.added_stop + text[last:]
            added += len(self.added_stop)
            spans.append((start, last + len(self.added_stop)))
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
        """Tokens that a model is to continue. Raises BadInput as encode does."""
        text = self.render(turns, len(images), open_turn, "prompt")
        _check_slots(len(images), len(grids), text.count(self.slot), "prompt")
        return self._tokens(text, [], images, grids)

    def _tokens(self, text: str, spans: list[tuple[int, int]], images: Sequence[str], grids: Sequence[Grid]) -> Encoded:
        expansions = [self.family.expansion(grid, self.slot) for grid in grids]
        text, spans = _expanded(text, self.slot, [e.text for e in expansions], spans)
        opens = bool(self.bos) and not text.startswith(self.bos)  # as transformers' processors decide it
        found = self.tokenizer(text, add_special_tokens=opens, return_offsets_mapping=True)
        ids = np.asarray(found["input_ids"], np.int64)
        offsets = np.asarray(found["offset_mapping"], np.int64).reshape(-1, 2)
        learned = np.zeros(len(ids), bool)
        for start, stop in spans:
            learned |= (offsets[:, 0] >= start) & (offsets[:, 1] <= stop) & (offsets[:, 1] > offsets[:, 0])
        slots = np.flatnonzero(ids == self.family.image_token)
        counts = [n for e in expansions for n in e.counts]
        if len(slots) != len(counts):
            raise ValueError(f"the family states {len(counts)} runs of image tokens but its text has {len(slots)}")
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
        learned[:until] = False  # conversations share it, and an image's features are no tokens to be written
        return Encoded(
            ids,
            self.family.positions(len(ids), [(p[1], g) for p, g in zip(placed, grids, strict=True)]),
            learned,
            visual,
            tuple(placed),
            until,
        )


def _check_slots(images: int, grids: int, slots: int, where: str) -> None:
    """Raise BadInput where a conversation's images do not find their places in its text."""
    if grids != images:
        raise BadInput(
            f"the images do not match: {images} are named, {grids} were opened",
            where=where,
            hint="open every image that is named, and no other",
        )
    if slots == images:
        return
    raise BadInput(
        f"the images do not match the text: {images} are named, the text has {slots} image tokens",
        where=where,
        hint="give the images a user's turn to stand in, and the model a chat template that writes a token for each",
    )


def _expanded(
    text: str, slot: str, expansions: Sequence[str], spans: Sequence[tuple[int, int]]
) -> tuple[str, list[tuple[int, int]]]:
    """The text with each slot replaced in turn, and spans of characters moved along with it."""
    pieces = text.split(slot)
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
