"""Pictures of planes through a patient, with their ground truth.

Only the planes that are wanted are computed: the coordinates of one plane are carried through the patient's warp into
the template, where the image is read linearly and the labels by the nearest neighbour. Pictures are 128 by 128 pixels
of 1.5 mm.

Radiological convention: on axial and coronal slices the patient's left is on the image's right. Axial slices have the
front of the head up, coronal and sagittal ones the top of the head; sagittal ones look to the image's left.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from appliance.demo.hospital.patients import WHITE_MATTER, Anatomy, Floats, Patient, slab_of, slab_split
from appliance.demo.hospital.structures import PLANES, Plane, Side
from appliance.demo.hospital.truth import LesionTruth, SliceTruth

SIDE_PX: Final = 128
PIXEL_MM: Final = 1.5
CENTRE_MM: Final = (0.0, -17.0, 5.0)
"""RAS position at the middle of every field of view: the middle of the head, not of the coordinates."""
RANGE_MM: Final[dict[Plane, tuple[int, int]]] = {"axial": (-46, 66), "coronal": (-90, 54), "sagittal": (-58, 58)}
"""Positions along each plane's normal at which a slice may be taken."""
VISIBLE_MM2: Final = 300.0
"""Area from which a structure counts as visible; five to thirteen do on most slices, and captions name them all."""
ABSENT_MM2: Final = 8.0
"""Area below which a structure counts as absent."""
VISIBLE_LESION_MM2: Final = 45.0
"""Area from which a lesion counts as visible: 20 pixels."""
SITE_MM2: Final = 60.0
"""Area of a structure from which it counts as the place of a lesion."""
TRACE: Final = 0.1
"""Cover below which there is no trace of a lesion in a pixel."""
TISSUE: Final = 0.66
"""Grey value of white matter before bias and noise, as a share of full scale: a bright lesion needs room above it."""
BIAS: Final = 0.2
"""Bound of the bias field, as a logarithm: the brightest healthy tissue stays below a bright lesion."""
LESION_GREY: Final = {"bright": 1.0, "dark": 0.1}


@dataclass(frozen=True, eq=False)
class Slice:
    """One picture and what it shows."""

    pixels: Image.Image
    """128 by 128, 8-bit grey."""
    truth: SliceTruth
    """Its ground truth."""


@dataclass(frozen=True, eq=False)
class _Cut:
    """One plane through a patient, as arrays (128, 128) in picture order."""

    grey: Floats
    lesion: Floats
    labels: np.ndarray
    bias: Floats


def take(anatomy: Anatomy, patient: Patient, per_plane: int, seed: int, first: int) -> Iterator[Slice]:
    """The slices of one patient: per plane, half of them through the lesion where there is one.

    Args:
        anatomy: what the patient is made from.
        patient: whose slices.
        per_plane: how many slices of each plane.
        seed: the hospital's seed.
        first: number of the first picture; names say nothing about plane or position.
    """
    rng = random.Random(f"slices/{seed}/{patient.number}")
    chosen = [(plane, at) for plane in PLANES for at in _positions(patient, plane, per_plane, rng)]
    rng.shuffle(chosen)
    for offset, (plane, at) in enumerate(chosen):
        yield render(anatomy, patient, plane, at, f"img{first + offset:05d}", seed)


def render(anatomy: Anatomy, patient: Patient, plane: Plane, at: int, name: str, seed: int) -> Slice:
    """One slice of one patient.

    Args:
        anatomy: what the patient is made from.
        patient: whose slice.
        plane: its plane.
        at: position along the plane's normal, RAS millimetres.
        name: becomes the truth's slice_id.
        seed: the hospital's seed; drives the noise.
    """
    cut = _cut(anatomy, patient, plane, at)
    grey = TISSUE * np.clip(cut.grey / WHITE_MATTER, 0.0, 1.1) ** patient.gamma * np.exp(np.clip(cut.bias, -BIAS, BIAS))
    if patient.lesion is not None:
        grey = grey * (1.0 - cut.lesion) + LESION_GREY[patient.lesion.tone] * cut.lesion
    rng = np.random.default_rng([seed, int(patient.number[2:]), PLANES.index(plane), at + 1000])
    real, imaginary = rng.normal(0.0, patient.noise, (2, SIDE_PX, SIDE_PX))
    magnitude = np.hypot(grey + real, imaginary)  # Rician, as magnitude images are
    pixels = Image.fromarray((np.clip(magnitude, 0.0, 1.0) * 255).round().astype(np.uint8))
    return Slice(pixels, _truth(anatomy, patient, plane, at, name, cut))


def _positions(patient: Patient, plane: Plane, count: int, rng: random.Random) -> list[int]:
    """Where to cut: positions of the patient's own slabs, half of them through the lesion if it has one."""
    low, high = RANGE_MM[plane]
    allowed = [at for at in range(low, high + 1) if slab_split(at) == patient.split]
    if patient.lesion is None:
        return rng.sample(allowed, count)
    covers = {at: patient.lesion.cover(*_axes(plane, at)) for at in allowed}
    through = [at for at, cover in covers.items() if _lesion_mm2(cover) >= VISIBLE_LESION_MM2]
    clear = [at for at, cover in covers.items() if cover.max() < TRACE]
    ill = rng.sample(through, min(len(through), count // 2))
    return ill + rng.sample(clear, count - len(ill))


def _axes(plane: Plane, at: float) -> tuple[Floats, Floats, Floats]:
    """RAS positions of a plane's pixels along x, y and z, in picture order: all three run downwards."""
    run = (SIDE_PX / 2 - 0.5 - np.arange(SIDE_PX)) * PIXEL_MM
    x, y, z = (np.asarray(middle + run, dtype=np.float32) for middle in CENTRE_MM)
    here = np.array([at], dtype=np.float32)
    return {"axial": (x, y, here), "coronal": (x, here, z), "sagittal": (here, y, z)}[plane]


def _to_picture(grid: np.ndarray) -> np.ndarray:
    """(X, Y, Z) with one axis of length one, to (rows, columns): rows are z, or y on an axial slice."""
    return np.ascontiguousarray(grid.squeeze().T)


def _cut(anatomy: Anatomy, patient: Patient, plane: Plane, at: int) -> _Cut:
    x, y, z = _axes(plane, at)
    there = patient.to_template(x, y, z)  # (3, X, Y, Z) template millimetres
    index = there - np.array(anatomy.origin, dtype=np.float32).reshape(3, 1, 1, 1)
    grey = map_coordinates(anatomy.image, index, output=np.float32, order=1)
    labels = map_coordinates(anatomy.labels, index, order=0)
    lesion = np.zeros_like(grey)
    if patient.lesion is not None:
        own_side = there[0] < 0 if patient.lesion.side == "left" else there[0] > 0
        tissue = grey > 0.25 * WHITE_MATTER
        lesion = patient.lesion.cover(x, y, z) * own_side * tissue
    bias = patient.bias.on_grid(x, y, z)[0]
    return _Cut(_to_picture(grey), _to_picture(lesion), _to_picture(labels), _to_picture(bias))


def _lesion_mm2(cover: np.ndarray) -> float:
    """Area that a lesion covers for the most part; its soft rim does not count."""
    return float((cover > 0.7).sum()) * PIXEL_MM**2


def _truth(anatomy: Anatomy, patient: Patient, plane: Plane, at: int, name: str, cut: _Cut) -> SliceTruth:
    pixels = np.bincount(cut.labels.ravel(), minlength=256)
    areas: dict[str, dict[Side | None, float]] = {}
    for label in anatomy.table:
        sides = areas.setdefault(label.name, {"left": 0.0, "right": 0.0, None: 0.0})
        sides[label.side] += float(pixels[label.number]) * PIXEL_MM**2
    total = {structure: sum(sides.values()) for structure, sides in areas.items()}
    visible = sorted((s for s, area in total.items() if area >= VISIBLE_MM2), key=lambda s: (-total[s], s))

    def on(side: Side) -> tuple[str, ...]:
        return tuple(structure for structure in visible if areas[structure][side] >= VISIBLE_MM2 / 2)

    lesion_mm2 = _lesion_mm2(cut.lesion)
    shown = None
    ill = patient.lesion
    if ill is not None and lesion_mm2 >= VISIBLE_LESION_MM2 and total[ill.structure] >= SITE_MM2:
        shown = LesionTruth(ill.side, ill.structure, ill.tone, round(lesion_mm2))
    return SliceTruth(
        slice_id=name,
        patient=patient.number,
        plane=plane,
        coordinate_mm=at,
        slab=slab_of(at),
        split=patient.split,
        visible=tuple(visible),
        faint=tuple(sorted(s for s, area in total.items() if ABSENT_MM2 <= area < VISIBLE_MM2)),
        left=on("left"),
        right=on("right"),
        lesion=shown,
        lesion_faint=shown is None and bool((cut.lesion >= TRACE).any()),
    )
