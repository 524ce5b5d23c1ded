"""Invented words and names: syllables at random, so that the only way to use one is to copy it."""

import random
from collections.abc import Callable

ONSETS = (
    *("b", "bl", "br", "c", "ch", "cl", "cr", "d", "dr", "f", "fl", "fr", "g", "gl", "gr"),
    *("h", "j", "k", "l", "m", "n", "p", "ph", "pl", "pr", "qu", "r", "s", "sc", "sh", "sl"),
    *("sp", "st", "str", "t", "th", "tr", "v", "w", "x", "y", "z"),
)
VOWELS = ("a", "a", "a", "e", "e", "e", "e", "i", "i", "i", "o", "o", "o", "u", "u", "ae", "ea", "io", "ou", "ia")
CODAS = (
    *("",) * 8,
    *("l", "m", "n", "r", "s", "t", "x", "nt", "rs", "ct", "mp", "ns", "st", "d", "p", "b", "c"),
)
ENDINGS = (
    *("",) * 6,
    *("us", "um", "al", "ic", "ar", "is", "ate", "ium", "oid"),
    *("ex", "ine", "ory", "ral", "eal", "ous", "en", "ion", "ula"),
)
QUALIFIERS = (
    *("upper", "lower", "inner", "outer", "front", "rear"),
    *("middle", "great", "small", "first", "second", "main"),
)


CONSONANTS = "bcdfghjklmnpqrstvwxz"

Word = Callable[[random.Random], str]
"""Invents a word."""


def word(rng: random.Random) -> str:
    """An invented word of one to four syllables, of a consonant first."""
    body = "".join(
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choices((1, 2, 3), (5, 6, 2))[0])
    )
    return body + rng.choice(ENDINGS)


def any_word(rng: random.Random) -> str:
    """An invented word of syllables or, as often, of letters: a vowel may begin it, a consonant may be doubled."""
    if rng.random() < 0.5:
        return word(rng)
    letters, vowel = "", rng.random() < 0.4
    for _ in range(rng.randint(3, 9)):
        letter = rng.choice("aeiouaeiouy" if vowel else CONSONANTS)
        letters += letter * 2 if letters and not vowel and rng.random() < 0.15 else letter
        vowel = not vowel if rng.random() < 0.8 else vowel
    return letters


def name(rng: random.Random, word: Word = word) -> str:
    """An invented name of one to three words, sometimes qualified."""
    words = [word(rng) for _ in range(rng.choices((1, 2, 3), (5, 5, 2))[0])]
    return " ".join([rng.choice(QUALIFIERS), *words] if rng.random() < 0.2 else words)
