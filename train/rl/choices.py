"""Questions that offer choices: which, which of them an answer names, and with what words it evades the choice."""

import re

from train.rl.poles import POLES
from train.rl.text import answer_of, starts_of, tokens, words

HEDGES = {
    *("maybe", "perhaps", "possibly", "probably", "either", "or", "both", "unsure", "unclear", "uncertain", "unknown"),
    *("idea", "clue", "comment", "cannot", "neither", "depends", "doubt", "guess", "any", "all"),
    *("wrong", "false", "incorrect", "untrue", "mistaken"),
}
"""Words with which an answer is not one choice."""
AFTER_NO = {"there", "it", "this", "that", "they", "he", "she", "i"}
"""Words with which a sentence goes on behind "no" as an answer, as in "no there is not"."""
_LETTERED = re.compile(r"(?<!\w)\(?([A-H])[).:]\s*(.+?)(?=[,;]?\s*(?<!\w)\(?[A-H][).:]\s|[?\n]|$)")
_LETTER = re.compile(r"^\W*([A-H])\W*$|\(([A-H])\)|(?<!\w)([A-H])[).:](?=\s|$)")
_BARE = re.compile(r"(?<![\w'])(?:[B-H]|A(?!\s+(?!and\b|or\b)[a-z]))(?![\w'])")
_LISTED = re.compile(
    r"(?:[:,]|\b(?:is|are|it|this|that|the)\b)?\s*((?:[^\s,:?]+,\s*)*[^\s,:?]+,?\s+or\s+[^\s,:?]+)\s*\??", re.I
)


def lettered_in(question: str) -> dict[str, str]:
    """The choices that a question marks with letters."""
    return {letter: text.strip() for letter, text in _LETTERED.findall(question)}


def listed_in(question: str) -> list[tuple[str, ...]]:
    """Each list of choices with "or" that a question has."""
    return [
        tuple(
            one
            for one in re.split(r",\s*(?:or\s+)?|\s+or\s+", listed.strip())
            if words(one) and one.lower() not in AFTER_NO
        )
        for listed in _LISTED.findall(question)
    ]


def choices_in(question: str, reference: str) -> tuple[str, ...]:
    """The choices that a question offers or its reference implies; none where the question is open."""
    if lettered := lettered_in(question):
        return tuple(lettered.values())
    wanted = words(answer_of(reference))
    for offered in listed_in(question):
        if wanted in [words(one) for one in offered]:
            return offered
    return next((pair for pair in POLES if wanted in ([pair[0]], [pair[1]])), ())


def letters_of(said: str, known: dict[str, list[str]]) -> list[list[str]]:
    """The choices whose letters an answer gives: (B), B. or nothing but B."""
    return [known[key] for found in _LETTER.findall(said) if (key := "".join(found)) in known]


def named(spoken: list[str], offered: list[list[str]]) -> list[list[str]]:
    """The choices among the words, the longest first, so that a choice inside another is not named by it."""
    rest, found = list(spoken), []
    for one in sorted(offered, key=len, reverse=True):
        while places := starts_of(one, rest):
            found.append(one)
            rest[places[0] : places[0] + len(one)] = [""]
    return found


def undecided(question: str, reference: str, completion: str) -> str:
    """Why an answer leaves open which of the offered choices it means; empty where it names one or none is offered."""
    said, wanted = answer_of(completion), words(answer_of(reference))
    for offered in [*listed_in(question), choices_in(question, reference)]:
        known = [words(one) for one in offered]
        right, given = ({tuple(one) for one in named(some, known)} for some in (wanted, words(said)))
        if len(right) == 1 and len(given) > 1:
            return f"the answer names {len(given)} of the choices"
    given, right = ({*_BARE.findall(text)} & {*lettered_in(question)} for text in (said, answer_of(reference)))
    if len(given) > 1 and given != right:
        return "the answer gives the letters of several choices"
    if choices_in(question, reference) and (hedge := next((w for w in tokens(said) if w in HEDGES - {*wanted}), "")):
        return f"the answer says {hedge}: that is no choice"
    return ""
