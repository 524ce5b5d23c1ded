"""Which conversations are learned, held out, and in which stage."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from audit.conversation import Conversation
from audit.errors import BadInput

CAPTION = "caption"
"""Kind of the conversations that describe an image."""


def divided(
    conversations: Sequence[Conversation], share: float, seed: int = 0, groups: Mapping[str, str] | None = None
) -> tuple[list[Conversation], list[Conversation]]:
    """What is learned, and what is held out: at least that share of the images, drawn by patient.

    Conversations that share an image, a record or a group are never on both sides.

    Args:
        share: of the images; 0 holds nothing out.
        groups: record to patient; a record without one is a group of its own.
    Raises:
        BadInput: all conversations hang together, so that no part of them can be held out.
    """
    if not share:
        return list(conversations), []
    parts = _parts(conversations, groups or {})
    Random(f"{seed} held out").shuffle(parts)
    images = len({i for talk in conversations for i in talk.images or (talk.id,)})
    held: list[int] = []
    seen: set[str] = set()
    for part in parts[:-1]:
        if len(seen) >= share * images:
            break
        held += part
        seen |= {i for number in part for i in conversations[number].images or (conversations[number].id,)}
    if not held:
        raise BadInput(
            "--held-out finds no second patient: all conversations share images, records or a patient",
            where="train",
            hint="give --held-out 0, or more records",
        )
    chosen = set(held)
    return (
        [talk for number, talk in enumerate(conversations) if number not in chosen],
        [conversations[number] for number in sorted(chosen)],
    )


def _parts(conversations: Sequence[Conversation], groups: Mapping[str, str]) -> list[list[int]]:
    """Numbers of the conversations that hang together."""
    above = list(range(len(conversations)))

    def top(number: int) -> int:
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, talk in enumerate(conversations):
        keys = [("image", image) for image in talk.images]
        if talk.record:
            keys.append(("group", groups[talk.record]) if talk.record in groups else ("record", talk.record))
        for key in keys:
            above[top(number)] = top(first.setdefault(key, number))
    parts: dict[int, list[int]] = {}
    for number in range(len(conversations)):
        parts.setdefault(top(number), []).append(number)
    return list(parts.values())


def staged(conversations: Sequence[Conversation], stages: Literal["single", "two"]) -> list[list[Conversation]]:
    """The conversations of each stage: all at once, or captions first and then tasks (METHODS 1.6).

    Raises:
        BadInput: two stages are asked for, and one would be empty.
    """
    if stages == "single":
        return [list(conversations)]
    captions = [talk for talk in conversations if talk.kind == CAPTION]
    tasks = [talk for talk in conversations if talk.kind != CAPTION]
    if not captions or not tasks:
        raise BadInput(
            f"--stages two finds no {'tasks' if captions else 'captions'}",
            where="train",
            hint="train in a single stage, or run `cloche synth` first",
        )
    return [captions, tasks]


def as_turns(conversations: Sequence[Conversation], seed: int = 0) -> list[Conversation]:
    """One conversation an image, as published: its caption first or last, 50/50 (METHODS 1.6).

    What is about no image stays as it is, and so does a synthesizer's, which ends in a token of its own.
    """
    found: list[Conversation] = []
    groups: dict[tuple[str, ...], list[Conversation]] = {}
    for talk in conversations:
        if talk.images and talk.kind != "synthesizer":
            groups.setdefault(talk.images, []).append(talk)
        else:
            found.append(talk)
    for talks in groups.values():
        captions = [t for t in talks if t.kind == CAPTION]
        tasks = [t for t in talks if t.kind != CAPTION]
        first = Random(f"{seed} {talks[0].id}").random() < 0.5
        turns = [turn for t in ([*captions, *tasks] if first else [*tasks, *captions]) for turn in t.turns]
        found.append(replace(talks[0], turns=tuple(turns), kind="mixed"))
    return found
