"""The part of a rationale that may be shown: it ends before the first word of the answer, wherever that stands.

A rationale is read as words and numbers. One that says a word or a number of the reference ends what may be shown, and
no cut falls inside a word, which would show its beginning. Letters are compared without case, accents and invisible
marks; numbers by value, "two" and "2.0" as 2. Words of the answer without meaning of their own ("the", "of") are no
secret where it has others. What is simpler than it could be: synonyms are not known, and a word that stands in the
question, too, counts as secret all the same.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from audit.conversation import Turn

_UNIT = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
_FUNCTION = "a an the in on at of to and or with by from for as is are was it its this that"
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_EMPTY = frozenset(_FUNCTION.split())
_SPELLED = {word: str(value) for value, word in enumerate(_NUMBERS.split())}
_SHORT = 4
"""Latin words below this length are compared whole: "no" is not in "normal". Longer ones count inside others, too."""


def shown(encoder: Any, rationale: str, reference: str, share: float) -> tuple[int, ...]:
    """Tokens of the rationale's beginning, ready to stand behind an open answer's header.

    Args:
        encoder: the model's `train.data.encode.Encoder`.
        share: of the rationale's tokens, at most; rounded down, then to the end of a word before the answer.
    Returns: token ids; none where nothing may be shown: no reference, a control token in the rationale, or the answer
        at its beginning.
    """
    text = rationale.strip()
    if not text or share <= 0 or encoder.held(text):
        return ()
    lead = opening(encoder)
    limit, units = hidden_from(lead + text, reference)
    found = encoder.tokenizer(lead + text, add_special_tokens=False, return_offsets_mapping=True)
    ids, places = list(found["input_ids"]), [tuple(place) for place in found["offset_mapping"]]
    count = int(min(share, 1.0) * len(ids))
    while count and not _may_end(lead + text, places, count, limit, units):
        count -= 1
    told = tuple(int(token) for token in ids[:count])
    said = encoder.tokenizer.decode(told)
    return told if hidden_from(said, reference)[0] >= len(said) else ()  # whatever a tokenizer says of its offsets


def opening(encoder: Any) -> str:
    """The space that a chat template writes between the header of an answer and its first word; mostly none."""
    try:
        header = encoder.render([Turn("user", "probe")], 0, "assistant")
        whole = encoder.render([Turn("user", "probe"), Turn("assistant", "answer")], 0)
    except (ValueError, TypeError, TemplateError):
        return ""
    if not whole.startswith(header.rstrip(" ")):
        return ""
    between = whole[len(header.rstrip(" ")) :].partition("answer")[0]
    return " " if between == " " else ""


def hidden_from(text: str, reference: str) -> tuple[int, list[tuple[int, int]]]:
    """Where a text first says a word or number of a reference, and where its own words stand.

    Returns: the place of that word's first letter, the text's length where it never comes, 0 where the reference says
        nothing; (start, stop) of each word or number.
    """
    wanted = secrets(reference)
    first, units = len(text), []
    for gap in ("", " "):  # an invisible mark may stand in a word or between two
        folded, places = _folded(text, gap)
        for match in _UNIT.finditer(folded):
            start = places[match.start()]
            if not gap:
                units.append((start, places[match.end()] if match.end() < len(places) else len(text)))
            if start < first and any(_tells(match.group(), secret) for secret in wanted):
                first = start
    if not wanted:
        folded, places = _folded(text)
        sign = _folded(reference)[0].strip()
        at = folded.find(sign) if sign else 0
        first = places[at] if 0 <= at < len(places) else len(text)
    return first if reference.strip() else 0, units


def secrets(reference: str) -> list[str]:
    """Words and numbers of a reference that a prefix must not say, folded."""
    words = list(dict.fromkeys(w for gap in ("", " ") for w in _UNIT.findall(_folded(reference, gap)[0])))
    return [w for w in words if w not in _EMPTY] or words


def _tells(unit: str, secret: str) -> bool:
    if _values(unit) & _values(secret):
        return True
    if secret.isascii() and len(secret) < _SHORT:
        return unit == secret
    return secret in unit or (len(unit) >= _SHORT and secret.startswith(unit))


def _values(unit: str) -> set[str]:
    """The ways to read a number, as text; nothing for other words."""
    spelled = _SPELLED.get(unit, unit)
    if not spelled[0].isdecimal():
        return set()
    readings = {spelled.replace(",", "").replace(".", "")}
    if len(re.findall("[.,]", spelled)) == 1:
        readings.add(spelled.replace(",", "."))
    return {f"{float(r):.12g}" for r in readings}


def _folded(text: str, gap: str = "") -> tuple[str, list[int]]:
    """Letters without case and accents, and which letter of the text each comes from; invisible marks become ``gap``.

    Case is folded once more after the letters are taken apart: some only then have one.
    """
    folded, places = [], []
    for place, letter in enumerate(text):
        apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", letter).casefold())
        for one in apart.casefold():
            kind = unicodedata.category(one)
            kept = gap if kind == "Cf" else "" if kind[0] == "M" else one
            folded.append(kept)
            places += [place] * len(kept)
    return "".join(folded), places


def _may_end(
    text: str, places: Sequence[tuple[int, int]], count: int, limit: int, units: Sequence[tuple[int, int]]
) -> bool:
    """Whether a prefix of ``count`` tokens ends before the answer, behind a whole word, and between letters."""
    start, stop = places[count - 1]
    follows = places[count][0] if count < len(places) else len(text)
    within = any(a < stop < b for a, b in units)
    return stop <= min(limit, follows) and bool(text[start:stop].strip()) and not within
