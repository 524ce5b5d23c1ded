"""The held-out question set: closed questions whose answers the atlas knows, balanced so that guessing earns nothing.

Within each template yes and no are equally frequent, and each name a question speaks of (a plane, a structure) is
asked as often where it is true as where it is false, so that neither the wording nor the name gives the answer away.
The planes of a which-plane template and the sides of a which-side template are equally frequent. Side is asked only
on axial and coronal slices, by radiological convention: the patient's left is on the image's right. The wordings are
ordinary ones, and the starter's synthesizer has several of them: a model of its size does not see through paraphrases.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

from appliance.demo.hospital.structures import NAMES, PLANES, SIDES
from appliance.demo.hospital.truth import SliceTruth
from appliance.starter.language import article

Kind = Literal["plane_which", "plane_yesno", "structure_yesno", "lesion_yesno", "side_which"]

TEMPLATES: Final[dict[Kind, tuple[str, ...]]] = {
    "plane_which": ("Which plane is shown?", "What plane is this?", "What view is this?"),
    "plane_yesno": ("Is this {a_plane} slice?", "Is the plane {plane}?", "Is the image {plane}?"),
    "structure_yesno": ("Is the {name} visible?", "Can you see the {name}?", "Is the {name} seen?"),
    "lesion_yesno": ("Is there a lesion?", "Is a lesion seen?", "Can you see a lesion?"),
    "side_which": ("On which side is the lesion?", "Which side is the lesion on?"),
}
"""Wordings by kind. ``{a_plane}`` is "an axial"."""

PER_TEMPLATE: Final[dict[Kind, int]] = {
    "plane_which": 24, "plane_yesno": 24, "structure_yesno": 48, "lesion_yesno": 30, "side_which": 32,
}  # fmt: skip
"""Questions aimed at for each template; fewer where the slices do not allow them, always balanced."""
PER_SLICE: Final = 4
"""With few slices, about this many questions a slice instead."""


@dataclass(frozen=True)
class Question:
    """One closed question about one slice."""

    id: str
    """Unique within the set."""
    slice_id: str
    """The slice it is asked about."""
    text: str
    """The question as it is put."""
    choices: tuple[str, ...]
    """The answers it allows."""
    answer: str
    """The right one of them."""
    template: str
    """Kind and number of the wording, such as ``plane_yesno/1``."""
    kind: Kind
    """What is asked."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what to_json wrote."""
        fields: dict[str, Any] = json.loads(line)
        fields["choices"] = tuple(fields["choices"])
        return cls(**fields)


@dataclass(frozen=True)
class _Draft:
    slice_id: str
    words: dict[str, str]
    answer: str


class _Spread:
    """Picks slices at random, the least asked first, so that questions spread over slices."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._asked: Counter[str] = Counter()

    def pick(self, pool: Sequence[SliceTruth], count: int) -> list[SliceTruth]:
        """Up to `count` different slices of the pool."""
        shuffled = self._rng.sample(pool, len(pool))
        chosen = sorted(shuffled, key=lambda truth: self._asked[truth.slice_id])[:count]
        self._asked.update(truth.slice_id for truth in chosen)
        return chosen

    def pairs(
        self, true: Sequence[SliceTruth], false: Sequence[SliceTruth], count: int
    ) -> list[tuple[SliceTruth, bool]]:
        """Up to `count` slices of each pool, equally many, with whether they came from the first."""
        count = min(count, len(true), len(false))
        return [(one, True) for one in self.pick(true, count)] + [(one, False) for one in self.pick(false, count)]


def questions(truths: Sequence[SliceTruth], seed: int) -> list[Question]:
    """The balanced question set over slices.

    Args:
        truths: the slices to ask about: the held-out ones, for an evaluation.
        seed: same truths and seed, same questions.
    """
    rng = random.Random(f"questions/{seed}")
    spread = _Spread(rng)
    asked: list[Question] = []
    aimed = sum(PER_TEMPLATE[kind] * len(templates) for kind, templates in TEMPLATES.items())
    share = min(1.0, PER_SLICE * len(truths) / aimed)
    for kind, templates in TEMPLATES.items():
        count = max(6, round(PER_TEMPLATE[kind] * share))  # 6: one yes and one no for each plane
        choices = {"plane_which": PLANES, "side_which": SIDES}.get(kind, ("Yes", "No"))
        for number, template in enumerate(templates):
            for draft in _drafts(kind, truths, count, spread, rng):
                text = template.format(**draft.words)
                identity = f"q{len(asked):04d}"
                asked.append(Question(identity, draft.slice_id, text, choices, draft.answer, f"{kind}/{number}", kind))
    return asked


def _drafts(kind: Kind, truths: Sequence[SliceTruth], count: int, spread: _Spread, rng: random.Random) -> list[_Draft]:
    """The questions of one template, before they are put into words."""
    match kind:
        case "plane_which":
            pools = [[truth for truth in truths if truth.plane == plane] for plane in PLANES]
            each = min(count // len(PLANES), *map(len, pools))
            return [_Draft(one.slice_id, {}, one.plane) for pool in pools for one in spread.pick(pool, each)]
        case "side_which":
            ill = [truth for truth in truths if truth.lesion and truth.plane != "sagittal"]
            pools = [[truth for truth in ill if truth.lesion and truth.lesion.side == side] for side in SIDES]
            each = min(count // len(SIDES), *map(len, pools))
            sided = zip(SIDES, pools, strict=True)
            return [_Draft(one.slice_id, {}, side) for side, pool in sided for one in spread.pick(pool, each)]
        case "plane_yesno":
            return [draft for plane in PLANES for draft in _plane_yesno(plane, truths, count // len(PLANES), spread)]
        case "structure_yesno":
            names = rng.sample(NAMES, len(NAMES))
            return [draft for name in names[: count // 2] for draft in _structure_yesno(name, truths, spread)]
        case "lesion_yesno":
            return _lesion_yesno(truths, count, spread)


def _plane_yesno(plane: str, truths: Sequence[SliceTruth], count: int, spread: _Spread) -> list[_Draft]:
    words = {"plane": plane, "a_plane": article(plane)}
    true = [truth for truth in truths if truth.plane == plane]
    false = [truth for truth in truths if truth.plane != plane]
    return [_Draft(one.slice_id, words, _yes(right)) for one, right in spread.pairs(true, false, count // 2)]


def _structure_yesno(name: str, truths: Sequence[SliceTruth], spread: _Spread) -> list[_Draft]:
    """One yes and one no about a structure, where possible both on the same plane: the plane alone must not tell."""
    absent = [truth for truth in truths if truth.shows(name) is False]
    shown = [truth for truth in truths if truth.shows(name) is True]
    drafts = []
    for one in spread.pick(shown, 1 if absent else 0):
        alike = [truth for truth in absent if truth.plane == one.plane]
        twin = spread.pick(alike or absent, 1)[0]
        drafts = [_Draft(one.slice_id, {"name": name}, "Yes"), _Draft(twin.slice_id, {"name": name}, "No")]
    return drafts


def _lesion_yesno(truths: Sequence[SliceTruth], count: int, spread: _Spread) -> list[_Draft]:
    """As many with a lesion as without, plane by plane."""
    drafts = []
    for plane in PLANES:
        clear = [truth for truth in truths if truth.plane == plane and truth.lesion is None and not truth.lesion_faint]
        ill = [truth for truth in truths if truth.plane == plane and truth.lesion is not None]
        pairs = spread.pairs(ill, clear, count // (2 * len(PLANES)))
        drafts += [_Draft(one.slice_id, {}, _yes(right)) for one, right in pairs]
    return drafts


def _yes(right: bool) -> str:
    return "Yes" if right else "No"
