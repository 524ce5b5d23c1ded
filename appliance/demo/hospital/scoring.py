"""Is this answer to this question right, by the atlas? Any yes/no or which-of question about what the slices are known for.

The question is read first: what does it ask (a yes or no, a plane, a side, a tone, a place, which structures), and what does
it presuppose? Then the answer is read as what the question asks for. Three results: True, False, or None when the *question*
cannot be scored (an unknown structure, an open question, a structure that is only faintly there, a side on a sagittal slice).
An answer that cannot be understood is False, not None: a model gains nothing by mumbling.
"""

import re
from typing import Final

from appliance.demo.hospital.claims import ABSENCE, Claim, agrees, all_of, normalise, other, read
from appliance.demo.hospital.claims import IMAGE_SIDE as _IMAGE_SIDE
from appliance.demo.hospital.structures import NAMES
from appliance.demo.hospital.truth import SliceTruth

_YES: Final = re.compile(r"\b(?:yes|yeah|true|correct)\b")
_NO: Final = re.compile(r"\b(?:no|not|cannot|false|incorrect|absent|none|neither|without)\b|n['’]t\b")
_CLOSED: Final = re.compile(
    r"^(?:is|are|does|do|can|could|has|have|was|were|would)\b|[,;:] (?:is|are|does|do|can|has|have) (?:the|there|this|it|a|an|you|we)\b"
)
_ASKS_WHICH: Final = re.compile(r"\b(?:which|what|where|name|identify)\b")
_ASKS_PLANE: Final = re.compile(r"\b(?:plane|view|orientation|projection|type of slice|kind of slice|slice type|direction)\b")
_ASKS_SIDE: Final = re.compile(r"\b(?:side|hemisphere)\b|\bleft or (?:the |on the )?right\b|\bright or (?:the |on the )?left\b")
_ASKS_TONE: Final = re.compile(r"\b(?:tone|signal|intensity|brightness|bright or dark|dark or bright)\b")
_ASKS_PLACE: Final = re.compile(r"\b(?:where|structures?|regions?|areas?|parts?|located|location|lobe|gyrus)\b")
_ASKS_SEEN: Final = re.compile(r"\b(?:visible|seen|see|shown|shows?|appears?|present|depicted)\b")
_LISTED_YES_NO: Final = re.compile(r"[,:;(]?\s*(?:answer )?(?:with )?\(?['\"]?yes['\"]? or ['\"]?no['\"]?\)?")
_UNKNOWN: Final = re.compile(
    r"\b(?:gyri|sulci|sulcus|gyrus|ventricles?|cerebellum|lobes?|cortex|nucleus|nuclei|fissure|corpus callosum|"
    r"tonsils?|pons|medulla|midbrain|hypothalamus|skull|eyes?|orbits?|vermis|fornix|chiasm|capsule|lobule|pole)\b"
)


def score(question: str, answer: str, truth: SliceTruth) -> bool | None:
    """Whether the answer to the question is right for the slice.

    Args:
        question: any wording, with or without its choices.
        answer: short text: "Yes", "axial", "in the left putamen", "The answer is left."
        truth: the slice's ground truth.

    Returns:
        True or False; None if the question cannot be scored for this slice.
    """
    asked = _LISTED_YES_NO.sub("", normalise(question))
    claim = read(asked)
    if " or " in asked or (_ASKS_WHICH.search(asked) and not _CLOSED.search(asked)):
        return _score_which(asked, claim, answer, truth)
    if _CLOSED.search(asked):
        return _score_closed(asked, claim, answer, truth)
    return None


def _score_closed(asked: str, claim: Claim, answer: str, truth: SliceTruth) -> bool | None:
    """A yes/no question: the claim it makes against the atlas, and the answer's polarity against that."""
    if _names_unknown(asked):
        return None
    if claim.negated and not ABSENCE.search(asked):
        return None  # "Is there no lesion?": yes and no mean different things to different people
    verdict = agrees(claim, truth)
    if verdict is None:
        return None
    if claim.negated:
        verdict = not verdict
    return polarity(claim, answer) is verdict


def polarity(claim: Claim, answer: str) -> bool | None:
    """Whether an answer affirms (True) or denies (False) the claim of its question; None if it does neither, or both."""
    words = normalise(answer)
    said = read(words)
    contradicts = bool(said.planes and claim.planes and said.planes != claim.planes)
    first = re.match(r"\W*(yes|no)\b", words)
    if first:
        affirms = first[1] == "yes"
        return None if affirms and contradicts else affirms
    yes, no = bool(_YES.search(words)), bool(_NO.search(words))
    if yes != no:
        return yes and not contradicts
    if yes:
        return None
    if contradicts or (said.sides and claim.sides and said.sides != claim.sides):
        return False
    restates = set(said.structures) >= set(claim.structures) if claim.structures else said.planes or said.lesion
    return True if restates and (said.structures or said.planes or said.lesion) else None


def _score_which(asked: str, claim: Claim, answer: str, truth: SliceTruth) -> bool | None:
    """A question for one of several: what it asks for decides how the answer is read."""
    said = read(answer)
    if claim.lesion:
        return _score_lesion(asked, claim, said, truth)
    if len(claim.planes) > 1 or (_ASKS_PLANE.search(asked) and not claim.structures):
        return said.planes == (truth.plane,) and not said.negated
    if claim.planes and claim.planes != (truth.plane,):
        return None
    if len(claim.structures) == 1 and _ASKS_SIDE.search(asked):
        return _score_structure_side(claim.structures[0], said, truth)
    if len(claim.structures) > 1 and " or " in asked:
        shown = [name for name in claim.structures if truth.shows(name)]
        if len(shown) != 1 or None in map(truth.shows, claim.structures):
            return None
        return said.structures == (shown[0],) and not said.negated
    if _ASKS_PLACE.search(asked) and _ASKS_SEEN.search(asked) and not claim.structures and not claim.negated:
        return _score_list(answer, said, claim, truth)
    return None


def _score_lesion(asked: str, claim: Claim, said: Claim, truth: SliceTruth) -> bool | None:
    """Which side, tone or structure a lesion has."""
    if truth.lesion_faint or (claim.planes and claim.planes != (truth.plane,)):
        return None
    asks_side, asks_tone = bool(_ASKS_SIDE.search(asked)), bool(_ASKS_TONE.search(asked))
    if asks_side and truth.plane == "sagittal":
        return None
    chosen = len(claim.structures) > 1 and " or " in asked
    if not (asks_side or asks_tone or chosen or _ASKS_PLACE.search(asked)):
        return None
    if truth.lesion is None:
        return said.negated and not (said.sides or said.tones or said.structures)
    if said.negated:
        return False
    ill = truth.lesion
    side = other(ill.side) if _IMAGE_SIDE.search(asked) else ill.side
    sides_fit = not said.sides or said.sides == (side,) or truth.plane == "sagittal"
    place_fits = not said.structures or said.structures == (ill.structure,)
    if asks_tone:
        return said.tones == (ill.tone,)
    if asks_side:
        return said.sides == (side,) and place_fits
    if chosen and ill.structure not in claim.structures:
        return None
    return said.structures == (ill.structure,) and sides_fit


def _score_structure_side(name: str, said: Claim, truth: SliceTruth) -> bool | None:
    """On which side a structure is visible."""
    on = [truth.shows(name, "left"), truth.shows(name, "right")]
    if truth.plane == "sagittal" or None in on or not any(on):
        return None
    right = {side for side, shown in zip(("left", "right"), on, strict=True) if shown}
    return set(said.sides) == right and not said.negated


def _score_list(answer: str, said: Claim, claim: Claim, truth: SliceTruth) -> bool | None:
    """Which structures are visible: all that are named must be, and nothing may be named that the atlas does not know."""
    if claim.sides or _names_unknown(normalise(answer)) or said.negated:
        return None
    if not said.structures:
        return False
    return all_of([truth.shows(name) for name in said.structures])


def _names_unknown(words: str) -> bool:
    """Whether anatomy is named that is not in the table, such as "ventricle"."""
    for name in sorted(NAMES, key=len, reverse=True):
        words = re.sub(rf"\b{name}\b", "", words)
    return bool(_UNKNOWN.search(words))
