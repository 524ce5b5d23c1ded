"""Words of an answer, and which part of a completion is the answer."""

import re
import unicodedata

_TOKEN = re.compile(r"(?<![\w.,])-?\d+(?:\.\d+)?|[^\W_]+(?:'t\b)?")
_FILLER = {"the", "a", "an", "in", "on", "at"}
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_MARKER = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*:)\s*", re.IGNORECASE)


def normalised(text: str) -> str:
    """One spelling of letters, signs and apostrophes, in lower case; ER+ is ER positive."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").replace("\u2212", "-")
    return re.sub(r"(?<=\w)\+(?!\w)", " positive", text)


def tokens(text: str) -> list[str]:
    """Lower-case words and numbers, each number with its sign and decimals as one."""
    return _TOKEN.findall(normalised(text))


def words(text: str) -> list[str]:
    """The tokens without articles and bare prepositions of place."""
    return [w for w in tokens(text) if w not in _FILLER]


def answers_of(completion: str) -> list[str]:
    """Each final answer that a completion gives: in <answer> tags, after "answer is" or "answer:", else all of it."""
    if tagged := _TAGGED.findall(completion):
        return [one.strip() for one in tagged]
    return [one.strip() for one in _MARKER.split(completion)[1:]] or [completion.strip()]


def answer_of(completion: str) -> str:
    """The last final answer of a completion."""
    return answers_of(completion)[-1]


def starts_of(phrase: list[str], among: list[str]) -> list[int]:
    """Where the words of a phrase stand next to one another."""
    return [i for i in range(len(among) - len(phrase) + 1) if phrase and among[i : i + len(phrase)] == phrase]
