"""Numbers with their units in a text, and what a unit is in the unit of its kind."""

import re
import unicodedata
from dataclasses import dataclass

_KINDS: dict[str, dict[str, float]] = {
    "length": {"m": 1000, "cm": 10, "mm": 1, "um": 1e-3, "µm": 1e-3, "nm": 1e-6, "km": 1e6}
    | {"millimeter": 1, "millimetre": 1, "centimeter": 10, "centimetre": 10, "meter": 1000, "metre": 1000},
    "area": {"mm2": 1, "cm2": 100, "m2": 1e6, "km2": 1e12, "ha": 1e10},
    "volume": {"l": 1000, "dl": 100, "cl": 10, "ml": 1, "ul": 1e-3, "µl": 1e-3, "cc": 1, "cm3": 1, "mm3": 1e-3}
    | {"liter": 1000, "litre": 1000, "milliliter": 1, "millilitre": 1},
    "mass": {"kg": 1e6, "g": 1000, "mg": 1, "ug": 1e-3, "µg": 1e-3, "mcg": 1e-3, "ng": 1e-6}
    | {"gram": 1000, "kilogram": 1e6, "milligram": 1},
    "substance": {"mol": 1000, "mmol": 1, "umol": 1e-3, "µmol": 1e-3, "nmol": 1e-6},
    "time": {"ms": 1e-3, "s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
    | {"day": 86400, "week": 604800, "month": 2629800, "year": 31557600},
    "share": {"%": 1, "percent": 1, "‰": 0.1},
    "temperature": {"°c": 1, "celsius": 1},
    "angle": {"°": 1, "degree": 1},
    "pressure": {"mmhg": 1, "kpa": 7.50062, "cmh2o": 0.735559},
    "dose": {"gy": 1000, "mgy": 1, "cgy": 10},
    "effective dose": {"sv": 1000, "msv": 1, "usv": 1e-3, "µsv": 1e-3},
    "activity": {"mbq": 1, "gbq": 1000, "kbq": 1e-3},
    "density": {"hu": 1},
    "rate": {"bpm": 1},
    "energy": {"kcal": 1, "kj": 0.239006},
}
UNITS: dict[str, tuple[str, float]] = {
    spelt: (kind, size)
    for kind, units in _KINDS.items()
    for unit, size in units.items()
    for spelt in ({unit, unit + "s"} if len(unit) > 2 and unit.isascii() and unit.isalpha() else {unit})
}
"""Each spelling: its kind, and how many of the kind's unit it is."""
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBER = re.compile(
    r"(?<![\w.,])([-+]?)(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?)(?:e([-+]?\d{1,2}))?"
    r"(?:[\s-]*(%|‰|°\s?c\b|°|[a-zµ]+[23]?)(?![\w])(?:\s*/\s*([a-zµ]+[23]?)(?!\w))?)?"
)


@dataclass(frozen=True)
class Quantity:
    """A number of something."""

    value: float
    """In the kind's unit; as it stands where there is no unit."""
    kind: str = ""
    """Such as ``length``; empty where no unit is known."""


def spelt(text: str) -> str:
    """Letters and signs in one spelling: mm² is mm2, a decimal comma stays."""
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2212", "-").replace("\u03bc", "µ")
    text = re.sub(r"(?<=\d)\s*[x×]\s*(?=\d)", " x ", re.sub(r"\s+per\s+", "/", text))
    text = re.sub(r"\b(square|cubic) (mm|cm|m)\b", lambda m: m[2] + ("2" if m[1] == "square" else "3"), text)
    return re.sub(rf"\b({'|'.join(_WORDS)})\b", lambda m: str(_WORDS.index(m[1])), text)


def unit_of(name: str) -> tuple[str, float] | None:
    """Kind and size of a unit such as mm or mg/dl; None where it is not known."""
    above, slash, below = spelt(name).replace(" ", "").partition("/")
    if above not in UNITS or (slash and below not in UNITS):
        return None
    kind, size = UNITS[above]
    return (f"{kind} per {UNITS[below][0]}", size / UNITS[below][1]) if slash else (kind, size)


def quantities(text: str) -> list[Quantity]:
    """Each number of a text with its unit; of "2 x 3 cm" both are lengths. A number inside a word (T1, L4) is none."""
    told = spelt(text)
    found: list[Quantity] = []
    after, unit = len(told), unit_of("")  # none; where the next number starts, and its unit
    for match in reversed(list(_NUMBER.finditer(told))):
        sign, digits, power, above, below = match.groups()
        own = unit_of(f"{above}/{below}" if below else above) if above else None
        if own or not _JOINT.fullmatch(told[match.end(3 if power else 2) : after]):
            unit = own
        thousands = re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", digits)
        plain = digits.replace(",", "" if thousands else ".")
        kind, size = unit or ("", 1.0)
        found.append(Quantity(float(f"{sign}{plain[:40]}e{power or 0}") * size, kind))
        after = match.start()
    return found[::-1]


_JOINT = re.compile(r"\s*(?:x|×|by|to|-|and|or|/)\s*")
