"""What a sentence or a question claims about a slice, and whether the atlas agrees.

Words are looked for by word boundaries, the longest names first, so that "precuneus" is no "cuneus" and "not" is not
in "noted". The grammar is small on purpose: planes, structures, sides, lesions and their tone, and a negation.
"""

import re
from dataclasses import dataclass
from typing import Final

from appliance.demo.hospital.structures import ALIASES, NAMES, PLANES, SIDES, Plane, Side
from appliance.demo.hospital.truth import SliceTruth, Tone

NEGATION: Final = re.compile(r"\b(?:no|not|cannot|neither|nor|none|never|without|nothing|free of)\b|n['’]t\b")
ABSENCE: Final = re.compile(r"\b(?:absent|missing|lacking|lacks?|without|free of)\b")
LESION: Final = re.compile(r"\b(?:lesions?|abnormalit(?:y|ies)|focus|mass|spot|tumou?r)\b")
TONES: Final[dict[str, Tone]] = {"bright": "bright", "hyperintense": "bright", "dark": "dark", "hypointense": "dark"}
IMAGE_SIDE: Final = re.compile(
    r"\b(?:left|right|side|half)(?:[ -]hand)?(?: side| half)? of the (?:image|picture|slice|scan|view)\b"
    r"|\b(?:image|picture)['’]s\b"
)

_SPOKEN: Final = {name: name for name in NAMES} | ALIASES
_STRUCTURE: Final = re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, _SPOKEN), key=len, reverse=True)) + r")\b")
_PLANE: Final = re.compile(r"\b(?:" + "|".join(PLANES) + r")(?:ly)?\b")
_SIDE: Final = re.compile(r"\b(?:" + "|".join(SIDES) + r")\b")
_TONE: Final = re.compile(r"\b(?:" + "|".join(TONES) + r")\b")


@dataclass(frozen=True)
class Claim:
    """What a text speaks of; every part may be empty."""

    planes: tuple[Plane, ...]
    """Planes named, in order."""
    structures: tuple[str, ...]
    """Readable names of the structures named, in order."""
    sides: tuple[Side, ...]
    """The patient's sides named, in order."""
    tones: tuple[Tone, ...]
    """Tones of a lesion named, in order."""
    lesion: bool
    """A lesion is spoken of."""
    negated: bool
    """It says that something is *not* there."""


def normalise(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.lower().split())


def read(text: str) -> Claim:
    """What a text speaks of. Sides of the *image* are turned into sides of the patient (radiological convention)."""
    words = normalise(text)
    spoken = _STRUCTURE.findall(words)
    sides: list[Side] = [side for word in _SIDE.findall(words) for side in SIDES if side == word]
    if IMAGE_SIDE.search(words):
        sides = [other(side) for side in sides]
    return Claim(
        planes=tuple(
            dict.fromkeys(plane for word in _PLANE.findall(words) for plane in PLANES if word.startswith(plane))
        ),
        structures=tuple(dict.fromkeys(_SPOKEN[word] for word in spoken)),
        sides=tuple(dict.fromkeys(sides)),
        tones=tuple(dict.fromkeys(TONES[word] for word in _TONE.findall(words))),
        lesion=bool(LESION.search(words)),
        negated=bool(NEGATION.search(words) or ABSENCE.search(words)),
    )


def other(side: Side) -> Side:
    """The opposite side."""
    return "right" if side == "left" else "left"


def agrees(claim: Claim, truth: SliceTruth) -> bool | None:
    """Whether all that the claim says, its negation left aside, is so; None where the atlas cannot tell.

    A side on a sagittal slice cannot be told from the picture, so it is not scored.
    """
    if claim.sides and truth.plane == "sagittal":
        return None
    if claim.lesion:
        return _lesion_agrees(claim, truth)
    if claim.structures:
        if claim.planes and claim.planes != (truth.plane,):
            return None  # "in this axial slice", said of another one: the question itself is wrong
        sides: tuple[Side | None, ...] = claim.sides or (None,)
        return all_of([truth.shows(name, side) for name in claim.structures for side in sides])
    if claim.planes:
        return claim.planes == (truth.plane,)
    return None


def _lesion_agrees(claim: Claim, truth: SliceTruth) -> bool | None:
    """A lesion is there, and lies and looks as claimed."""
    if truth.lesion_faint or (claim.planes and claim.planes != (truth.plane,)):
        return None
    if truth.lesion is None:
        return False
    fits_place = not claim.structures or claim.structures == (truth.lesion.structure,)
    fits_side = not claim.sides or claim.sides == (truth.lesion.side,)
    fits_tone = not claim.tones or claim.tones == (truth.lesion.tone,)
    return fits_place and fits_side and fits_tone


def all_of(parts: list[bool | None]) -> bool | None:
    """Three-valued and: False if one is, else None if one is, else True."""
    if False in parts:
        return False
    return None if None in parts else True


def holds(sentence: str, truth: SliceTruth) -> bool | None:
    """Whether one declarative sentence, as the captions have them, is true of a slice; None if it cannot be scored."""
    claim = read(sentence)
    if not claim.negated:
        return agrees(claim, truth)
    if not claim.lesion and len(claim.structures) > 1:
        shown = [truth.shows(name) for name in claim.structures]  # "the insula and putamen are not seen": neither is
        return all_of([None if one is None else not one for one in shown])
    verdict = agrees(claim, truth)
    return None if verdict is None else not verdict
