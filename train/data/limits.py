"""What a model cannot read: conversations longer than its context, found before the first step."""

from collections.abc import Iterable
from typing import Any

from audit.conversation import Conversation
from audit.errors import BadInput

NAMED = 5
"""Records that a message names at most."""


def check_lengths(lengths: Iterable[tuple[Conversation, int]], config: Any) -> None:
    """Refuse conversations that are longer than the language model's context.

    Args:
        lengths: conversations, each with its tokens, images expanded.
        config: transformers' config of the model; one that names no ``max_position_embeddings`` has no limit.
    Raises: BadInput with the records of the longest, the longest first; never with what they say.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    long = sorted(((n, talk) for talk, n in lengths if limit and n > limit), key=lambda one: (-one[0], one[1].id))
    if not long:
        return
    names = [f"{talk.record or talk.id}: {n} tokens" for n, talk in long[:NAMED]]
    more = f", and {len(long) - NAMED} more" if len(long) > NAMED else ""
    what = "a conversation is" if len(long) == 1 else f"{len(long)} conversations are"
    raise BadInput(
        f"{what} longer than the model's context of {limit} tokens",
        where="; ".join(names) + more,
        hint="lower --max-visual-tokens, or leave the records out",
    )
