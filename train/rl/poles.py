"""Opposite words of which a short answer means one, and what else they are called."""

SIDES = ("left", "right")
"""Never both where the reference has one, however long it is."""
ANSWERS = ("yes", "no")
"""What a yes-or-no question asks for."""
POLES = (
    ANSWERS,
    SIDES,
    ("present", "absent"),
    ("positive", "negative"),
    ("normal", "abnormal"),
    ("true", "false"),
    ("benign", "malignant"),
    ("anterior", "posterior"),
    ("superior", "inferior"),
    ("upper", "lower"),
    ("increased", "decreased"),
    ("hyperintense", "hypointense"),
    ("unilateral", "bilateral"),
    ("male", "female"),
)
"""Words of which a short answer means one."""
_SPELT = {
    "yes": ("yeah", "yep", "yup", "yea", "aye"),
    "no": ("nope", "nah", "nay"),
    "left": ("l", "lt", "lhs", "sinister", "sinistra", "sinistral", "os"),
    "right": ("r", "rt", "rhs", "dexter", "dextra", "dextral", "od"),
}
_ENDINGS = ("ward", "wards", "most", "sided", "hand", "handed")
_MEANT = {other: one for one, others in _SPELT.items() for other in others} | {
    side + ending: side for side in SIDES for ending in _ENDINGS
}


def poled(said: list[str]) -> set[str]:
    """The words, those that are another spelling of a pole as the pole: rt is right. No answer is right by it."""
    return {_MEANT.get(word, word) for word in said}
