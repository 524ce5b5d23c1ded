"""What a demo slice really shows, from the atlas: the answer key of the demo hospital.

The truth stands apart from the pairs that are ingested. Nothing that trains reads it; it scores what was synthesised
and what a model answers. A structure counts as visible from VISIBLE_MM2 of its area on, and as absent below
ABSENT_MM2; what lies between is *faint*, and nothing true or false is said about it.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from appliance.demo.hospital.structures import Plane, Side

Split = Literal["train", "held-out"]
Tone = Literal["bright", "dark"]


@dataclass(frozen=True)
class LesionTruth:
    """A simulated lesion as one slice shows it."""

    side: Side
    """The patient's side."""
    structure: str
    """Readable name of the structure that the lesion was placed in."""
    tone: Tone
    """Brighter or darker than the tissue around it."""
    area_mm2: int
    """Area of the lesion in this slice."""


@dataclass(frozen=True)
class SliceTruth:
    """The ground truth of one slice."""

    slice_id: str
    """Name of the image file without its ending."""
    patient: str
    """The hospital's number of the patient."""
    plane: Plane
    """Plane of the slice."""
    coordinate_mm: int
    """Signed position along the plane's normal (RAS: right, anterior, superior are positive), in millimetres."""
    slab: int
    """Number of the slab of |coordinate| that the slice lies in; mirror twins share it."""
    split: Split
    """train: a training patient, in a training slab. held-out: a held-out patient, in a held-out slab."""
    visible: tuple[str, ...]
    """Readable names of the structures with enough area, largest first."""
    faint: tuple[str, ...]
    """Names with some area, too little to call visible or absent."""
    left: tuple[str, ...]
    """Those of visible that are visible on the patient's left."""
    right: tuple[str, ...]
    """Those of visible that are visible on the patient's right."""
    lesion: LesionTruth | None
    """The lesion, if this slice really shows it."""
    lesion_faint: bool
    """Some of a lesion lies in the slice, too little to call it visible or absent."""

    def shows(self, name: str, side: Side | None = None) -> bool | None:
        """Whether the structure is visible (on one side, where a side is given); None where it is faint."""
        if name in self.visible:
            return side is None or name in (self.left if side == "left" else self.right)
        return None if name in self.faint else False

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what to_json wrote.

        Raises:
            ValueError: not a truth line.
        """
        fields: dict[str, Any] = json.loads(line)
        lesion = fields.pop("lesion")
        for name in ("visible", "faint", "left", "right"):
            fields[name] = tuple(fields[name])
        return cls(**fields, lesion=None if lesion is None else LesionTruth(**lesion))
