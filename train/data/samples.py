"""Conversations to rows: which of them share one, and what is left out; the same for a run and for its plan."""

from collections.abc import Callable, Sequence
from typing import Any

from audit.conversation import Conversation
from train.data.encode import Encoded, Encoder
from train.data.limits import check_lengths
from train.data.rows import Row, packed_row, shared_row
from train.models.family import Grid

Sample = tuple[Row, tuple[str, ...]]
"""A row and the records in it."""


def samples_of(
    encoder: Encoder,
    conversations: Sequence[Conversation],
    grid: Callable[[str], Grid],
    config: Any,
    tell: Callable[[str], None] = lambda what: None,
) -> list[Sample]:
    """One row an image set, with the records in it; conversations without images are packed into rows of their own.

    Conversations about the same images share a row where all is the same up to the last image's end, as it is unless
    one of them has a system's turn of its own.

    Args:
        grid: what an image is cut into, by its id.
        config: transformers' config of the model.
        tell: told how many conversations have nothing to learn.
    Raises: BadInput where conversations are longer than the model's context.
    """
    groups: dict[tuple[object, ...], list[tuple[Conversation, Encoded]]] = {}
    for talk in conversations:
        one = encoder.encode(talk, [grid(i) for i in talk.images], talk.kind == "synthesizer")
        key = (talk.images, one.ids[: one.shared_until].tobytes()) if talk.images else (talk.id,)
        groups.setdefault(key, []).append((talk, one))
    check_lengths([(talk, len(one.ids)) for group in groups.values() for talk, one in group], config)
    rows, empty = [], 0
    for group in groups.values():
        kept = [one for _, one in group if one.learned[1:].any()]
        empty += len(group) - len(kept)
        if kept:
            records = tuple(sorted({talk.record for talk, _ in group if talk.record}))
            rows.append((shared_row(kept) if kept[0].images else packed_row(kept), records))
    if empty:
        tell(f"{empty} of {len(conversations)} conversations have nothing to learn and are left out")
    return rows
