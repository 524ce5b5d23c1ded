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
    """Drop kept yes/no triplets at random until neither answer is more frequent than the other (``balance``)."""
    answers: dict[str, list[int]] = {"yes": [], "no": []}
    for index, t in enumerate(triplets):
        said = t.precise.strip().rstrip(".").lower()
        if t.kept and said in answers:
            answers[said].append(index)
    yes, no = answers["yes"], answers["no"]
    more = yes if len(yes) > len(no) else no
    surplus = set(Random(seed).sample(more, abs(len(yes) - len(no)))) if yes and no else set()
    return [replace(t, reason="balance") if i in surplus else t for i, t in enumerate(triplets)]
