"""Transformed pictures: their kinds, the ids that name them, and the position words that each kind moves.

An image id that ends in a kind's suffix means the transformed picture everywhere: where it is opened, in the feature
cache, in a row. Nothing heavy is imported, so that a table can be read and explained without torch or Pillow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

Pairs = tuple[tuple[str, str], ...]
_SIDE: Pairs = (
    ("left", "right"), ("leftward", "rightward"), ("leftwards", "rightwards"), ("leftmost", "rightmost"),
)  # fmt: skip
_HEIGHT: Pairs = (
    ("top", "bottom"), ("upper", "lower"), ("above", "below"), ("topmost", "bottommost"), ("uppermost", "lowermost"),
)  # fmt: skip
_ENDINGS = ("", "ern", "ward", "wards")
_EAST: Pairs = tuple((f"east{e}", f"west{e}") for e in _ENDINGS)
_NORTH: Pairs = tuple((f"north{e}", f"south{e}") for e in _ENDINGS)
_LINE: Pairs = (("horizontal", "vertical"), ("horizontally", "vertically"))
SORTS: Mapping[str, Pairs] = {"side": _SIDE, "height": _HEIGHT, "compass": _EAST + _NORTH, "direction": _LINE}
"""Position words by what they tell; a domain says which sorts its questions ask for."""
WIDER: Mapping[str, str] = {"side": "(?:left|right)[a-z]*", "compass": "(?:north|south|east|west)[a-z]*"}
"""Sorts whose longer words (leftsided, northeastern) move as well."""


@dataclass(frozen=True)
class Kind:
    """One way to transform a picture."""

    name: str
    """As a table writes it."""
    suffix: str
    """Ends the id of a picture that is to be shown so."""
    method: str = ""
    """Name of Pillow's transposition; empty leaves the picture as it is."""
    exchanged: Pairs = ()
    """Position words that the transform exchanges."""
    lost: Pairs = ()
    """Position words that it moves and that no exchange of two words makes right."""

    @property
    def turned(self) -> bool:
        """Whether width and height change places, and so the grid of visual tokens."""
        return self.method in ("ROTATE_90", "ROTATE_270")

    @property
    def moved(self) -> frozenset[str]:
        """All position words that mean another place afterwards."""
        return frozenset(word for pair in self.exchanged + self.lost for word in pair)

    def counterpart(self, word: str) -> str:
        """What a moved word must become; empty where nothing does."""
        both = dict(self.exchanged) | {other: one for one, other in self.exchanged}
        return both.get(word, "")

    def apply(self, image: "Image") -> "Image":
        """The picture, transformed."""
        from PIL.Image import Transpose

        return image.transpose(Transpose[self.method]) if self.method else image.copy()


_SQUARE: Pairs = _SIDE + _HEIGHT + _EAST + _NORTH + _LINE
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("mirror", "#mirrored", "FLIP_LEFT_RIGHT", _SIDE + _EAST),
        Kind("rotate-90", "#rotated-90", "ROTATE_270", lost=_SQUARE),  # Pillow turns the other way than the clock
        Kind("rotate-180", "#rotated-180", "ROTATE_180", _SIDE + _HEIGHT + _EAST + _NORTH),
        Kind("rotate-270", "#rotated-270", "ROTATE_90", lost=_SQUARE),
        Kind("flip-vertical", "#flipped", "FLIP_TOP_BOTTOM", _HEIGHT + _NORTH),
        Kind("identity", "#unchanged"),
    )
}
"""Every kind by name. Rotations go with the clock; the identity is for controls."""
MIRRORED = KINDS["mirror"].suffix
"""Ends the id of an image that is to be shown mirrored."""


def kind_of(image_id: str) -> Kind | None:
    """The transform that an id asks for; None where it asks for the picture itself."""
    return next((kind for kind in KINDS.values() if image_id.endswith(kind.suffix)), None)


def original(image_id: str) -> str:
    """The id of the picture itself."""
    kind = kind_of(image_id)
    return image_id.removesuffix(kind.suffix) if kind else image_id


def shown(image: "Image", image_id: str) -> "Image":
    """The picture as an id asks for it.

    Args:
        image: the picture that `original` names.
    """
    kind = kind_of(image_id)
    return kind.apply(image) if kind else image
