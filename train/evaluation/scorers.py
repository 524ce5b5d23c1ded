"""Two scorers, always side by side: ``published`` with its known flaws, ``strict`` without (DESIGN §7, METHODS 1.7)."""

import re
from collections.abc import Sequence

_ANSWER_IS = re.compile(r".*\banswer is:?\s+(.+)$", re.IGNORECASE | re.DOTALL)
_WORD = re.compile(r"[a-z0-9]+")


def final_answer(text: str) -> str:
    """What follows the last "answer is", or the whole text."""
    found = _ANSWER_IS.match(text.strip())
    return (found.group(1) if found else text).strip()


def published_closed(prediction: str, answer: str) -> bool:
    """The published rule, a substring rule: "normal" counts as "no" (METHODS 1.7). Kept for comparison only."""
    said, gold = prediction.lower(), answer.lower()
    if gold in ("yes", "no"):
        return ("yes" in said or "no" in said) and gold in said
    return gold in said


def strict_closed(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """Right where exactly one of the choices stands, on word boundaries, in the final answer, and it is the answer.

    Nothing that can be parsed counts as wrong.
    """
    said = _WORD.findall(final_answer(prediction).lower())
    named = {c for c in choices if _stands(_WORD.findall(c.lower()), said)}
    return named == {answer}


def parsed(prediction: str, choices: Sequence[str]) -> bool:
    """Whether exactly one of the choices stands in the final answer."""
    said = _WORD.findall(final_answer(prediction).lower())
    return sum(_stands(_WORD.findall(c.lower()), said) for c in choices) == 1


def _stands(wanted: list[str], said: list[str]) -> bool:
    return any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))
