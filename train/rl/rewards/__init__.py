"""Rewards of a completion against its reference. Substrings earn nothing: they are gamed (METHODS 3.4)."""

import re
from collections import Counter

_WORD = re.compile(r"[a-z0-9]+")
_FILLER = {"the", "a", "an", "in", "on", "at"}


def words(text: str) -> list[str]:
    """Lower-case words without articles and bare prepositions of place."""
    return [w for w in _WORD.findall(text.lower()) if w not in _FILLER]


def exact(completion: str, reference: str) -> float:
    """1 where the normalised words are the same and there is at least one."""
    said = words(completion)
    return float(bool(said) and said == words(reference))


def token_f1(completion: str, reference: str) -> float:
    """Harmonic mean of the precision and recall of words, counts clipped."""
    said, wanted = Counter(words(completion)), Counter(words(reference))
    both = sum((said & wanted).values())
    return 2 * both / (said.total() + wanted.total()) if both else 0.0
