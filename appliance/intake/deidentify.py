"""Taking a patient's number out of a text, and out of what we say about a file.

Found in any spelling: upper or lower case, with blanks, hyphens, dots, slashes or underscores between its signs, and
with its digits alone (``HN811721`` in "no. 811-721"). A number of fewer than four signs would match measures ("7
mm"), so it is looked for only behind a word that announces a number. This is the floor, not the whole of
de-identification: names, dates and addresses in free text are not looked for here.
"""

import re
from typing import Final

MARK: Final = "[patient]"
"""Stands where a number stood."""
SHORT: Final = 4
"""Signs below which a number is looked for only behind an announcing word."""

_GAP: Final = r"[\s\-./_]*"
_ANNOUNCED: Final = r"(?:patient|pat|mrn|pid|id|number|no|nr)\b[\s.:#]*"


def without_number(text: str, number: str) -> tuple[str, int]:
    """The text with each mention of the patient's number replaced, and how many there were.

    Args:
        text: any text.
        number: the hospital's number of the patient.
    """
    found = 0
    for signs in _spellings(number):
        body = _GAP.join(map(re.escape, signs))
        if len(signs) < SHORT:
            pattern = rf"(\b{_ANNOUNCED})0*{body}(?![^\W_])"
            text, times = re.subn(pattern, rf"\g<1>{MARK}", text, flags=re.IGNORECASE)
        else:
            pattern = rf"(?<![^\W_])0*{body}(?![^\W_])"
            text, times = re.subn(pattern, MARK, text, flags=re.IGNORECASE)
        found += times
    return text, found


def _spellings(number: str) -> list[str]:
    """The number's letters and digits, and its digits alone; without leading zeros, which the patterns allow for."""
    signs = "".join(sign for sign in number if sign.isalnum())
    digits = "".join(sign for sign in signs if sign.isdigit())
    return list(dict.fromkeys(part for part in (signs.lstrip("0"), digits.lstrip("0")) if part))
