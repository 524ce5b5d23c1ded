"""Words of an answer, and which part of a completion is the answer."""

import re
import unicodedata

_TOKEN = re.compile(r"(?<![\w.,])-?\d+(?:\.\d+)?|[^\W_]+(?:'t\b)?")
FILLERS = {"the", "a", "an", "in", "on", "at"}
"""Articles and bare prepositions of place: they count as no words."""
_CHOICE_A = re.compile(r"[\s(]*A[\s).:]*")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?(?:answer|think)>", re.IGNORECASE)
_MARKER = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*:)\s*", re.IGNORECASE)


def normalised(text: str) -> str:
    """One spelling of letters, signs and apostrophes, in lower case; ER+ is ER positive."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").replace("\u2212", "-")
    return re.sub(r"(?<=\w)\+(?!\w)", " positive", text)


def tokens(text: str) -> list[str]:
    """Lower-case words and numbers, each number with its sign and decimals as one."""
    return _TOKEN.findall(normalised(text))


def words(text: str) -> list[str]:
    """The tokens without articles and bare prepositions of place; "A" alone is the choice of that letter."""
    return [w for w in tokens(text) if w not in FILLERS] or (["a"] if _CHOICE_A.fullmatch(text) else [])


def untagged(completion: str) -> str:
    """All of a completion but its <think> and <answer> tags, which are no words of it."""
    return _TAG.sub(" ", completion)


def answers_of(completion: str) -> list[str]:
    """Each final answer that a completion gives: after "answer is" or "answer:", in <answer> tags, else all of it."""
    tagged = [one.strip() for one in _TAGGED.findall(completion)]
    marked = [one.strip() for one in _MARKER.split(_TAGGED.sub(" ", completion))[1:]]
    if tagged:
        return [one for one in marked if tokens(one)] + tagged  # "The answer is <answer>left</answer>" gives one
    return marked or [completion.strip()]


def before_answer(completion: str) -> str:
    """What a completion says before its first final answer; empty where all of it is the answer."""
    if tag := _TAGGED.search(completion):
        return completion[: tag.start()]
    marker = _MARKER.search(completion)
    return completion[: marker.start()] if marker else ""


def after_answer(completion: str) -> str:
    """What a completion says behind its first <answer> tag and in no other; empty where it has none."""
    tag = _TAGGED.search(completion)
    return _TAGGED.sub(" ", completion[tag.end() :]) if tag else ""


def answer_of(completion: str) -> str:
    """The last final answer of a completion."""
    return answers_of(completion)[-1]


def starts_of(phrase: list[str], among: list[str]) -> list[int]:
    """Where the words of a phrase stand next to one another."""
    return [i for i in range(len(among) - len(phrase) + 1) if phrase and among[i : i + len(phrase)] == phrase]
