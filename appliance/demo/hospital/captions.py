"""Captions of the demo slices: short, simple sentences, each of them true of the slice's ground truth.

A caption is a plane sentence, a sentence that lists the visible structures (all of them, so that what it does not name
is not visible; largest first, sometimes shuffled), sometimes a pertinent negative, and a sentence about the lesion:
always when one is visible, mostly when none is.

    Axial slice of a brain MRI. The thalamus, putamen and caudate nucleus are visible. No lesion is seen.

The side of a lesion is named on axial and coronal slices only: on a sagittal slice nothing in the picture shows it.
The tables below are all the sentence forms there are. ``{a_plane}`` is "an axial", ``{Plane}`` is "Axial", ``{list}``
is "thalamus, putamen and caudate nucleus", ``{is}`` agrees with it, ``{place}`` is "left putamen" ("putamen" on a
sagittal slice), ``{tone}`` is "bright" or "dark".
"""

import random
from collections.abc import Sequence
from typing import Final

from appliance.demo.hospital.structures import NAMES
from appliance.demo.hospital.truth import SliceTruth
from appliance.starter.language import article, capital, listed

PLANE_FORMS: Final[tuple[str, ...]] = (
    "{Plane} slice of a brain MRI.",
    "This is {a_plane} slice of a brain MRI.",
    "Brain MRI, {plane} view.",
    "{A_plane} view of the brain is shown.",
    "MRI of the brain in the {plane} plane.",
    "The image shows {a_plane} slice of the brain.",
    "The plane of this slice is {plane}.",
)
STRUCTURE_FORMS: Final[tuple[str, ...]] = (
    "The {list} {is} visible.",
    "The {list} can be seen.",
    "It shows the {list}.",
    "The slice passes through the {list}.",
    "We see the {list}.",
    "The {list} {is} seen.",
)
LESION_FORMS: Final[tuple[str, ...]] = (
    "A {tone} lesion lies in the {place}.",
    "There is a {tone} lesion in the {place}.",
    "A {tone} lesion is seen in the {place}.",
    "The {place} contains a {tone} lesion.",
    "The image shows a {tone} lesion in the {place}.",
    "In the {place} there is a {tone} lesion.",
)
ABSENT_FORMS: Final[tuple[str, ...]] = (
    "The {name} is not seen.",
    "The {name} is not visible.",
    "The {name} cannot be seen.",
    "It does not show the {name}.",
)
NO_LESION_FORMS: Final[tuple[str, ...]] = (
    "No lesion is seen.",
    "There is no lesion.",
    "No lesion is visible.",
    "The slice shows no lesion.",
)

SHUFFLED: Final = 0.3
"""Share of captions whose structures are named in random order instead of largest first."""
WITH_ABSENT: Final = 0.5
"""Share of captions that name one structure that is not in the slice."""
WITH_NO_LESION: Final = 0.8
"""Share of lesion-free slices whose caption says so."""


def caption(truth: SliceTruth, seed: int) -> str:
    """The caption of one slice; the same truth and seed give the same words.

    Args:
        truth: what the slice shows.
        seed: the hospital's seed. Captions of different slices differ under one seed.
    """
    return " ".join(sentences(truth, random.Random(f"caption/{seed}/{truth.slice_id}")))


def sentences(truth: SliceTruth, rng: random.Random) -> list[str]:
    """The caption, sentence by sentence: plane, structures, a pertinent negative, lesion."""
    said = [plane_sentence(truth, rng.choice(PLANE_FORMS))]
    if truth.visible:
        named = list(truth.visible)
        if rng.random() < SHUFFLED:
            rng.shuffle(named)
        said.append(structure_sentence(named, rng.choice(STRUCTURE_FORMS)))
    absent = [name for name in NAMES if truth.shows(name) is False]
    if absent and rng.random() < WITH_ABSENT:
        said.append(rng.choice(ABSENT_FORMS).format(name=rng.choice(absent)))
    if truth.lesion is not None:
        said.append(lesion_sentence(truth, rng.choice(LESION_FORMS)))
    elif not truth.lesion_faint and rng.random() < WITH_NO_LESION:
        said.append(rng.choice(NO_LESION_FORMS))
    return said


def plane_sentence(truth: SliceTruth, form: str) -> str:
    """One of PLANE_FORMS, filled in."""
    plane, a_plane = truth.plane, article(truth.plane)
    return form.format(plane=plane, Plane=capital(plane), a_plane=a_plane, A_plane=capital(a_plane))


def structure_sentence(names: Sequence[str], form: str) -> str:
    """One of STRUCTURE_FORMS over one or more names."""
    return form.format(**{"list": listed(names), "is": "is" if len(names) == 1 else "are"})


def lesion_sentence(truth: SliceTruth, form: str) -> str:
    """One of LESION_FORMS for the slice's lesion, with its side where the picture shows it.

    Raises:
        ValueError: the slice shows no lesion.
    """
    if truth.lesion is None:
        raise ValueError(f"slice {truth.slice_id} shows no lesion")
    place = truth.lesion.structure if truth.plane == "sagittal" else f"{truth.lesion.side} {truth.lesion.structure}"
    return form.format(tone=truth.lesion.tone, place=place)
