"""Transformed pictures: what each id shows."""

import numpy as np
import pytest

from tests.train.conftest import picture
from train.rl.views import KINDS, kind_of, original, shown

WANTED = {
    "mirror": lambda a: a[:, ::-1],
    "rotate-90": lambda a: np.rot90(a, -1),  # numpy turns against the clock
    "rotate-180": lambda a: np.rot90(a, 2),
    "rotate-270": lambda a: np.rot90(a, 1),
    "flip-vertical": lambda a: a[::-1],
    "identity": lambda a: a,
}
BACK = {"rotate-90": "rotate-270", "rotate-270": "rotate-90"}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_moves_pixels_as_it_says_and_back(name: str) -> None:
    image, kind = picture(1, 48, 32), KINDS[name]
    found = shown(image, "v1:ab" + kind.suffix)
    assert np.array_equal(np.asarray(found), WANTED[name](np.asarray(image)))
    assert (found.size == (32, 48)) == kind.turned
    assert np.array_equal(np.asarray(KINDS[BACK.get(name, name)].apply(found)), np.asarray(image))


def test_ids_and_their_suffixes() -> None:
    suffixes = [kind.suffix for kind in KINDS.values()]
    assert len(set(suffixes)) == len(suffixes)
    for kind in KINDS.values():
        assert kind_of("v1:ab" + kind.suffix) is kind and original("v1:ab" + kind.suffix) == "v1:ab"
        for one, other in kind.exchanged:
            assert (kind.counterpart(one), kind.counterpart(other)) == (other, one)
        assert all(kind.counterpart(word) == "" for pair in kind.lost for word in pair)
    for plain in ("v1:ab", "v1:ab#else", "#mirrored-not", ""):
        assert kind_of(plain) is None and original(plain) == plain
    image = picture(2, 16, 16)
    assert shown(image, "v1:ab") is image
