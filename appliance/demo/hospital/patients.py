"""The simulated patients: seeded asymmetric warps of one real template, some with a simulated lesion.

The template is exactly mirror-symmetric, so mirrored slices of it would be copies of each other. Each patient
therefore gets a small affine change and a smooth random displacement of a few millimetres that differs between left
and right, applied to the image and the labels alike; further a smooth bias field, a contrast curve and a noise level.
Every other patient carries one lesion: a T1-bright (every fourth time dark) irregular blob that starts in one
labelled structure of one side.

Split: a third of the patients is held out. Position leaks too (the slice at 20 mm of one patient looks like the slice
at 20 mm of another, and the label of one is nearly the label of the other), so the axes are also cut into slabs of
|coordinate|, which puts mirror twins into one slab: training patients show only training slabs, held-out patients
only held-out slabs. A warp moves anatomy by a few millimetres, so the slabs keep positions apart, not every fold of
the brain.

Coordinates are RAS millimetres: +x is the patient's right, +y anterior, +z superior.
"""

import gzip
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from appliance.demo.hospital.structures import SIDES, AtlasLabel, Side, parse_atlas_table
from appliance.demo.hospital.truth import Split, Tone
from appliance.demo.hospital.wheels import Material
from audit.errors import EnvironmentProblem

Floats = NDArray[np.float32]

SLAB_MM: Final = 6
"""Thickness of a slab of |coordinate|."""
HELD_OUT_SLAB: Final = 2
"""Of each three slabs, counted from the middle, the one that is held out."""
GUARD_MM: Final = 1
"""Positions left out at both faces of a held-out slab."""
HELD_OUT_SHARE: Final = 1 / 3
"""Share of the patients that is held out."""
WARP_MM: Final = 6.0
"""Standard deviation of the displacement's control points."""
KNOT_MM: Final = 36.0
"""Distance of the displacement's control points: the scale on which patients differ."""
WHITE_MATTER: Final = 225.0
"""Template value of white matter."""

LESION_SITES: Final[tuple[str, ...]] = (
    "putamen", "thalamus", "insula", "hippocampus", "precentral gyrus", "postcentral gyrus", "superior temporal gyrus",
    "middle temporal gyrus", "middle frontal gyrus", "inferior frontal gyrus", "supramarginal gyrus",
    "inferior parietal lobule", "lateral occipital cortex", "fusiform gyrus",
)  # fmt: skip
"""Structures that lesions are placed in: wide enough, and away from the midline, so that the side can be seen."""
DARK_SITES: Final = ("putamen", "thalamus")
"""Where every fourth lesion is put, a dark one: deep structures, with no dark fluid close by."""
MIDLINE_MM: Final = 14
"""A lesion's centre is at least this far from the midline."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The template and its labels on one 1 mm grid."""

    image: NDArray[np.uint8]
    """(197, 233, 189) T1 intensities."""
    labels: NDArray[np.uint8]
    """(197, 233, 189) atlas labels, 0 outside every structure."""
    origin: tuple[float, float, float]
    """RAS millimetres of voxel (0, 0, 0)."""
    table: tuple[AtlasLabel, ...]
    """What each label number means."""

    @classmethod
    def read(cls, material: Material) -> Self:
        """Put the atlas's labels on the template's grid.

        Raises:
            EnvironmentProblem: the grids do not fit (other files than the pinned ones).
        """
        template = nibabel.Nifti1Image.from_bytes(gzip.decompress(material.template))
        atlas = nibabel.Nifti1Image.from_bytes(gzip.decompress(material.atlas))
        shift = np.linalg.inv(template.affine) @ atlas.affine
        offset = shift[:3, 3].round().astype(int)
        if not np.allclose(shift[:3, :3], np.eye(3)) or not np.allclose(offset, shift[:3, 3]) or offset.min() < 0:
            raise EnvironmentProblem("The atlas and the template do not share a grid", hint="run `cloche doctor`")
        image = np.asarray(template.dataobj, dtype=np.uint8)
        labels = np.zeros_like(image)
        x, y, z = offset
        width, depth, height = atlas.shape
        labels[x : x + width, y : y + depth, z : z + height] = np.asarray(atlas.dataobj)
        table = parse_atlas_table(material.atlas_table.splitlines())
        first, second, third = (float(value) for value in template.affine[:3, 3])
        return cls(image, labels, (first, second, third), table)


@dataclass(frozen=True, eq=False)
class SmoothField:
    """A smooth function of position: a cubic B-spline over a coarse grid of random control points."""

    control: Floats
    """(components, a, b, c) control values."""
    start_mm: tuple[float, float, float]
    """Position of the first knot interval on each axis."""
    knot_mm: float
    """Distance of the control points."""

    @classmethod
    def draw(cls, rng: np.random.Generator, components: int, scale: float, knot_mm: float) -> Self:
        """Random control points over the whole head."""
        start, end = np.array([-100.0, -136.0, -74.0]), np.array([100.0, 102.0, 120.0])
        counts = np.ceil((end - start) / knot_mm).astype(int) + 4
        control = rng.normal(0.0, scale, (components, *counts)).astype(np.float32)
        return cls(control, (float(start[0]), float(start[1]), float(start[2])), knot_mm)

    def on_grid(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Values on the product grid of three axes, (components, len(x), len(y), len(z)).

        A grid needs one weight matrix an axis and three small products, not one spline evaluation a point.
        """
        weights = [self._weights(axis, index) for index, axis in enumerate((x, y, z))]
        return np.einsum("nabc,xa,yb,zc->nxyz", self.control, *weights, optimize=True).astype(np.float32)

    def _weights(self, positions: Floats, axis: int) -> Floats:
        count = self.control.shape[axis + 1]
        knots = (np.arange(count + 4) - 3.0) * self.knot_mm + self.start_mm[axis]
        inside = np.clip(positions, knots[3], knots[count] - 1e-3)
        return BSpline.design_matrix(inside.astype(np.float64), knots, 3).toarray().astype(np.float32)


@dataclass(frozen=True, eq=False)
class Lesion:
    """A simulated lesion, in the patient's space."""

    centre_mm: tuple[float, float, float]
    """RAS position."""
    radius_mm: float
    """Mean radius; the outline waves around it by about a quarter."""
    side: Side
    """The patient's side."""
    structure: str
    """Readable name of the structure that holds its centre."""
    tone: Tone
    """Brighter or darker than the tissue."""
    waves: Floats
    """(4, 4): direction x, y, z and phase of the waves of the outline."""

    def cover(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """How much of each grid point it covers, (len(x), len(y), len(z)): 0 to 1, with a soft rim of a millimetre."""
        axes = [axis - centre for axis, centre in zip((x, y, z), self.centre_mm, strict=True)]
        away = np.stack(np.meshgrid(*axes, indexing="ij"))  # (3, X, Y, Z)
        phase = (
            np.einsum("wn,nxyz->wxyz", self.waves[:, :3], away) / self.radius_mm + self.waves[:, 3, None, None, None]
        )
        rim = self.radius_mm * (1.0 + 0.12 * np.sin(phase).sum(axis=0))
        inside = np.clip((rim - np.linalg.norm(away, axis=0)) / 0.7, -30.0, 30.0)
        return (1.0 / (1.0 + np.exp(-inside))).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Patient:
    """One simulated patient."""

    number: str
    """The hospital's number."""
    study: str
    """The hospital's number of the examination."""
    split: Split
    """Whether the patient may be trained on."""
    turn: Floats
    """(3, 3) small rotation and scale."""
    warp: SmoothField
    """Displacement from the patient's space to the template's, millimetres."""
    bias: SmoothField
    """Logarithm of the coil's sensitivity."""
    gamma: float
    """Exponent of the contrast curve."""
    noise: float
    """Standard deviation of the noise, as a share of the full scale."""
    lesion: Lesion | None
    """The lesion, for about half of the patients."""

    def to_template(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Template positions of a grid in the patient's space, (3, len(x), len(y), len(z)) millimetres."""
        here = np.stack(np.meshgrid(x, y, z, indexing="ij"))
        return np.einsum("mn,nxyz->mxyz", self.turn, here) + self.warp.on_grid(x, y, z)


def slab_of(coordinate_mm: int) -> int:
    """The slab of |coordinate| that a position lies in."""
    return abs(coordinate_mm) // SLAB_MM


def slab_split(coordinate_mm: int) -> Split | None:
    """Which patients may show this position; None for the guard positions at a held-out slab's faces."""
    if slab_of(coordinate_mm) % 3 != HELD_OUT_SLAB:
        return "train"
    offset = abs(coordinate_mm) % SLAB_MM
    return "held-out" if GUARD_MM <= offset < SLAB_MM - GUARD_MM else None


def admit(anatomy: Anatomy, count: int, seed: int) -> list[Patient]:
    """The hospital's patients; training and held-out ones each have lesions in half, on both sides alike.

    Args:
        anatomy: what they are all made from.
        count: how many, at least 4.
        seed: same seed, same patients.
    """
    order = random.Random(f"patients/{seed}")
    numbers = order.sample(range(100_000, 1_000_000), count)
    held_out = max(2, round(count * HELD_OUT_SHARE))
    parts: dict[Split, int] = {"held-out": held_out, "train": count - held_out}
    patients: list[Patient] = []
    for split, size in parts.items():
        sites = order.sample(LESION_SITES, len(LESION_SITES))
        for place in range(size):
            plan = _plan(place // 2, sites) if place % 2 == 0 else None
            patients.append(_admit_one(anatomy, numbers[len(patients)], split, plan, seed))
    order.shuffle(patients)
    return patients


def _plan(lesion: int, sites: Sequence[str]) -> tuple[Side, str, Tone]:
    """Side, structure and tone of a split's n-th lesion: sides alternate, also among the dark ones."""
    block, step = divmod(lesion, 4)
    side = SIDES[(step + block) % 2]
    return (side, DARK_SITES[block % 2], "dark") if step == 3 else (side, sites[lesion % len(sites)], "bright")


def _admit_one(anatomy: Anatomy, number: int, split: Split, plan: tuple[Side, str, Tone] | None, seed: int) -> Patient:
    rng = np.random.default_rng([seed, number])
    angles = np.radians(rng.normal(0.0, 2.5, 3))
    scales = np.diag(rng.uniform(0.95, 1.05, 3))
    healthy = Patient(
        number=f"HN{number}",
        study=f"MR{rng.integers(10**7):07d}",
        split=split,
        turn=(_rotation(angles) @ scales).astype(np.float32),
        warp=SmoothField.draw(rng, 3, WARP_MM, KNOT_MM),
        bias=SmoothField.draw(rng, 1, 0.12, 2 * KNOT_MM),
        gamma=float(rng.uniform(0.85, 1.5)),
        noise=float(rng.uniform(0.008, 0.03)),
        lesion=None,
    )
    if plan is None:
        return healthy
    return Patient(**{**vars(healthy), "lesion": _grow(anatomy, healthy, *plan, rng)})


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """First-order rotation by three small angles (radians)."""
    a, b, c = angles
    return np.array([[1.0, -c, b], [c, 1.0, -a], [-b, a, 1.0]])


def _grow(
    anatomy: Anatomy, patient: Patient, side: Side, structure: str, tone: Tone, rng: np.random.Generator
) -> Lesion:
    """Place a lesion in one structure of one side, where the patient's own slabs pass through it most."""
    labels = [label.number for label in anatomy.table if label.name == structure and label.side == side]
    voxels = np.argwhere(np.isin(anatomy.labels, labels)) + np.array(anatomy.origin)  # (N, 3) template millimetres
    voxels = voxels[np.abs(voxels[:, 0]) >= MIDLINE_MM]
    radius_mm = float(rng.uniform(5.0, 9.0))
    spots = [_to_patient(patient, voxels[row]) for row in rng.integers(len(voxels), size=80)]

    def passes(spot: tuple[float, float, float]) -> int:
        """How many of the patient's own positions pass well through a lesion here, at most 5 an axis."""
        near = [range(math.ceil(axis - 0.6 * radius_mm), math.floor(axis + 0.6 * radius_mm) + 1) for axis in spot]
        return sum(min(5, sum(slab_split(at) == patient.split for at in axis)) for axis in near)

    centre = max(spots, key=passes)
    waves = np.concatenate([rng.normal(0.0, 1.6, (4, 3)), rng.uniform(0.0, 2 * np.pi, (4, 1))], axis=1)
    return Lesion(centre, radius_mm, side, structure, tone, waves.astype(np.float32))


def _to_patient(patient: Patient, target_mm: Sequence[float]) -> tuple[float, float, float]:
    """Invert the warp at one point by fixed-point iteration; the warp is smooth and small, so six steps are plenty."""
    target = np.asarray(target_mm, dtype=np.float32)
    here = target.copy()
    for _ in range(6):
        here = here + target - patient.to_template(here[:1], here[1:2], here[2:3]).reshape(3)
    return float(here[0]), float(here[1]), float(here[2])
