"""More reasons to drop a triplet, each with its code: said twice, too long, one answer too often."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from synth.triplet import Triplet

MAX_WORDS = 60
"""Longest informative answer."""


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
        said = t.precise.strip().rstrip(".").lower()
        if t.kept and said in ("yes", "no"):
            wording = " ".join(t.instruction.lower().split())
            asked.setdefault(wording, {"yes": [], "no": []})[said].append(index)
    surplus: set[int] = set()
    rng = Random(seed)
    for answers in asked.values():
        more, fewer = sorted(answers.values(), key=len, reverse=True)
        surplus.update(rng.sample(more, len(more) - len(fewer)))
    return [replace(t, reason="balance") if i in surplus else t for i, t in enumerate(triplets)]
