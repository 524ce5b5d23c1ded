"""More reasons to drop a triplet, each with its code: said twice, too long, misspelt, one answer too often."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random

from synth.triplet import Triplet

MAX_WORDS = 60
"""Longest informative answer."""

_WORD = re.compile(r"[^\W\d_]{4,}")
"""Words long enough to be misspelt."""


def known_words(captions: Iterable[str], triplets: Iterable[Triplet], share: float) -> set[str]:
    """Words of the captions, and those that triplets of at least this share of the images (and of three) ask with."""
    users: dict[str, set[str]] = defaultdict(set)
    images: set[str] = set()
    for t in triplets:
        images.add(t.image)
        for word in _words(t):
            users[word].add(t.image)
    often = max(3.0, share * len(images))
    written = {word for caption in captions for word in _WORD.findall(caption.lower())}
    return written | {word for word, by in users.items() if len(by) >= often}


def drop_misspelt(triplets: Sequence[Triplet], known: set[str]) -> list[Triplet]:
    """Drop what holds a word that nobody uses (``unknown-word``): a small synthesizer misspells what it copies."""
    return [replace(t, reason="unknown-word") if t.kept and not known.issuperset(_words(t)) else t for t in triplets]


def _words(triplet: Triplet) -> set[str]:
    return set(_WORD.findall(f"{triplet.instruction} {triplet.precise} {triplet.informative}".lower()))


def _plain(answer: str) -> str:
    """A precise answer in lower case, without its full stop."""
    return answer.strip().rstrip(".").lower()


def is_closed(answer: str) -> bool:
    """Whether a precise answer is yes or no."""
    return _plain(answer) in ("yes", "no")


def is_quoted(answer: str, caption: str) -> bool:
    """Whether a precise answer stands in the caption, word for word."""
    return re.search(rf"\b{re.escape(_plain(answer))}\b", caption.lower()) is not None


def drop_unquoted(triplets: Sequence[Triplet], captions: Mapping[str, str]) -> list[Triplet]:
    """Drop answers to borrowed questions that are neither yes or no nor words of the caption (``not-in-caption``).

    A borrowed "On which side is the lesion?" supposes a lesion, and a synthesizer answers it even where there is none.
    """
    return [
        t if not t.kept or is_closed(t.precise) or is_quoted(t.precise, captions[t.record])
        else replace(t, reason="not-in-caption")
        for t in triplets
    ]  # fmt: skip


def drop_repeats(triplets: Sequence[Triplet]) -> list[Triplet]:
    """Drop what asks the same of the same image again (``repeated``) and what is too long (``long``)."""
    seen: set[tuple[str, str]] = set()
    found = []
    for t in triplets:
        key = (t.record, " ".join(t.instruction.lower().split()))
        if t.kept and len(t.informative.split()) > MAX_WORDS:
            t = replace(t, reason="long")
        elif t.kept and key in seen:
            t = replace(t, reason="repeated")
        elif t.kept:
            seen.add(key)
        found.append(t)
    return found


def balance(triplets: Sequence[Triplet], seed: int = 0) -> list[Triplet]:
    """Drop kept yes/no triplets until each question has as many of one answer as of the other (``balance``).

    A question is its wording: "Is there a lesion?" must be as often right to deny as to affirm, so that only the image
    can tell. A wording with one answer only teaches to ignore the image, and goes whole.
    """
    asked: dict[str, dict[str, list[int]]] = {}
    for index, t in enumerate(triplets):
        if t.kept and is_closed(t.precise):
            wording = " ".join(t.instruction.lower().split())
            asked.setdefault(wording, {"yes": [], "no": []})[_plain(t.precise)].append(index)
    surplus: set[int] = set()
    rng = Random(seed)
    for answers in asked.values():
        more, fewer = sorted(answers.values(), key=len, reverse=True)
        surplus.update(rng.sample(more, len(more) - len(fewer)))
    return [replace(t, reason="balance") if i in surplus else t for i, t in enumerate(triplets)]
