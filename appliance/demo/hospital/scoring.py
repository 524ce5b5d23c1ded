"""Is this answer right, by the atlas? For any yes/no or which-of question about what the slices are known for.

The question is read first: what does it ask (a yes or no, a plane, a side, a tone, a place, which structures), and
what does it presuppose? Then the answer is read as what the question asks for. Three results: True, False, or None
when the *question* cannot be scored (an unknown structure, an open question, a structure that is only faintly there,
a side on a sagittal slice). An answer that cannot be understood is False, not None: a model gains nothing by
mumbling.
"""

import re
from collections.abc import Sequence
from typing import Final

from appliance.demo.hospital.claims import ABSENCE, IMAGE_SIDE, Claim, agrees, all_of, normalise, other, read
from appliance.demo.hospital.structures import NAMES
from appliance.demo.hospital.truth import SliceTruth

_YES: Final = re.compile(r"\b(?:yes|yeah|true|correct)\b")
_NO: Final = re.compile(r"\b(?:no|not|cannot|false|incorrect|absent|none|neither|without)\b|n['’]t\b")
_CLOSED: Final = re.compile(
    r"^(?:is|are|does|do|can|could|has|have|was|were|would)\b"
    r"|[,;:] (?:is|are|does|do|can|has|have) (?:the|there|this|it|a|an|you|we)\b"
)
_ANSWERED: Final = re.compile(
    r"^\W*(?:(?:the )?(?:correct )?answer(?: is|:) )?\W*(yes|no)\b(?!\W+(?:(?:and|or)\W+)?(?:yes|no)\b)"
)
_ASKS_WHICH: Final = re.compile(r"\b(?:which|what|where|how|name|identify)\b")
_ASKS_PLANE: Final = re.compile(
    r"\b(?:plane|view|orientation|oriented|projection|type of slice|kind of slice|slice type|direction)\b"
)
_WHICH_PLANE: Final = re.compile(r"\b(?:which|what) (?:anatomical |imaging )?(?:plane|view|orientation)\b")
_ASKS_SIDE: Final = re.compile(
    r"\b(?:side|hemisphere)\b|\bleft or (?:the |on the )?right\b|\bright or (?:the |on the )?left\b"
)
_ASKS_TONE: Final = re.compile(
    r"\b(?:tone|signal|intensity|brightness|bright or dark|dark or bright|(?:kind|type|sort) of lesion)\b"
    r"|\b(?:look|appearance)\b"
)
_ASKS_PLACE: Final = re.compile(r"\b(?:where|structures?|regions?|areas?|parts?|located|location|lobe|gyrus)\b")
_ASKS_SEEN: Final = re.compile(r"\b(?:visible|seen|see|shown|shows?|appears?|present|depicted)\b")
_LISTED_YES_NO: Final = re.compile(r"[,:;]?\s*(?:answer )?(?:with )?['\"]?yes['\"]? or ['\"]?no['\"]?[.?]?")
_ASIDE: Final = re.compile(r"\([^()]*\)")
_LAST_QUESTION: Final = re.compile(r"[^.?!]*\?(?=[^?]*$)")
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
    asked = _core(question)
    claim = read(asked)
    if _CLOSED.search(asked) and not claim.lesion and len(claim.structures) > 1 and _ANSWERED.match(normalise(answer)):
        return _score_closed(asked, claim, answer, truth)
    if " or " in asked or (_ASKS_WHICH.search(asked) and not _CLOSED.search(asked)):
        return _score_which(asked, claim, answer, truth)
    if _CLOSED.search(asked):
        return _score_closed(asked, claim, answer, truth)
    return None


def _core(question: str) -> str:
    """The question itself: without asides in brackets, sentences before it (a stated convention), and "yes or no"."""
    words = _LISTED_YES_NO.sub("", _ASIDE.sub(" ", normalise(question)))
    last = _LAST_QUESTION.search(words)
    return (last[0] if last else words).strip(" :;,\"'")


def _score_closed(asked: str, claim: Claim, answer: str, truth: SliceTruth) -> bool | None:
    """A yes/no question: the claim it makes against the atlas, and the answer's polarity against that."""
    if _names_unknown(asked):
        return None
    if claim.negated and not ABSENCE.search(asked):
        return None  # "Is there no lesion?": yes and no mean different things to different people
    if " or " in asked and not claim.lesion and len(claim.structures) > 1:
        shown = [truth.shows(name) for name in claim.structures]
        verdict = True if True in shown else None if None in shown else False
    else:
        verdict = agrees(claim, truth)
    if verdict is None:
        return None
    if claim.negated:
        verdict = not verdict
    return polarity(claim, answer) is verdict


def polarity(claim: Claim, answer: str) -> bool | None:
    """Whether an answer affirms (True) or denies (False) its question's claim; None if it does neither, or both."""
    words = normalise(answer)
    said = read(words)
    contradicts = _contradicts(said, claim)
    answered = _ANSWERED.match(words)
    if answered:
        affirms = answered[1] == "yes"
        return None if affirms and contradicts else affirms
    yes, no = bool(_YES.search(words)), bool(_NO.search(words))
    if yes and no:
        return None
    if no:
        return claim.negated  # "it is not visible" affirms "is it absent?"
    if yes or contradicts:
        return yes and not contradicts
    restates = bool(said.structures or said.planes or said.lesion or said.tones or said.sides)
    covers = set(said.structures) >= set(claim.structures) or claim.lesion
    return not claim.negated if restates and covers else None


def _contradicts(said: Claim, claim: Claim) -> bool:
    """Whether an answer names another plane, side, tone or (of a lesion) structure than its question does."""
    pairs: list[tuple[Sequence[str], Sequence[str]]] = [
        (said.planes, claim.planes),
        (said.sides, claim.sides),
        (said.tones, claim.tones),
    ]
    if claim.lesion:
        pairs.append((said.structures, claim.structures))
    return any(mine and theirs and set(mine) != set(theirs) for mine, theirs in pairs)


def _score_which(asked: str, claim: Claim, answer: str, truth: SliceTruth) -> bool | None:
    """A question for one of several: what it asks for decides how the answer is read."""
    said = read(answer)
    if _WHICH_PLANE.search(asked):
        return said.planes == (truth.plane,) and not said.negated
    if claim.lesion:
        return _score_lesion(asked, claim, answer, truth)
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
    if _ASKS_PLACE.search(asked) and _ASKS_SEEN.search(asked) and not claim.structures:
        return _score_list(answer, said, claim, truth)
    return None


def _score_lesion(asked: str, claim: Claim, answer: str, truth: SliceTruth) -> bool | None:
    """Which side, tone or structure a lesion has. A lesion that is not there may only be denied."""
    said = read(answer)
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
    of_image = IMAGE_SIDE.search(asked) and not IMAGE_SIDE.search(normalise(answer))
    side = other(ill.side) if of_image else ill.side
    sides_fit = not said.sides or said.sides == (side,) or truth.plane == "sagittal"
    place_fits = not said.structures or said.structures == (ill.structure,)
    if asks_tone:
        return said.tones == (ill.tone,)
    if asks_side:
        return said.sides == (side,) and place_fits
    if chosen and ill.structure not in claim.structures:
        return None
    if not said.structures and said.sides and "where" in asked:
        return said.sides == (ill.side,) if truth.plane != "sagittal" else None
    return said.structures == (ill.structure,) and sides_fit


def _score_structure_side(name: str, said: Claim, truth: SliceTruth) -> bool | None:
    """On which side a structure is visible."""
    on = [truth.shows(name, "left"), truth.shows(name, "right")]
    if truth.plane == "sagittal" or None in on or not any(on):
        return None
    right = {side for side, shown in zip(("left", "right"), on, strict=True) if shown}
    return set(said.sides) == right and not said.negated


def _score_list(answer: str, said: Claim, claim: Claim, truth: SliceTruth) -> bool | None:
    """Which structures are (not) visible: all that are named must be so, and none may be unknown to the atlas."""
    if claim.sides or _names_unknown(normalise(answer)) or (said.negated and not claim.negated):
        return None
    if not said.structures:
        return False
    shown = [truth.shows(name) for name in said.structures]
    return all_of([None if one is None else one is not claim.negated for one in shown])


def _names_unknown(words: str) -> bool:
    """Whether anatomy is named that is not in the table, such as "ventricle"."""
    for name in sorted(NAMES, key=len, reverse=True):
        words = re.sub(rf"\b{name}\b", "", words)
    return bool(_UNKNOWN.search(words))
