"""Manifests: one root for a set, presence and absence out of the ordered leaves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import manifest
from audit.errors import BadInput

words = st.binary(min_size=32, max_size=32)
items = st.builds(manifest.Item, words, words)
sets = st.lists(items, max_size=12, unique=True).filter(
    lambda found: not {i.mark + i.commitment for i in found} & {manifest.FIRST, manifest.LAST}
)


@given(sets, st.randoms(use_true_random=False))
def test_the_root_does_not_depend_on_the_order(found, chance):
    shuffled = list(found)
    chance.shuffle(shuffled)
    assert manifest.root(found) == manifest.root(shuffled)
    leaves = manifest.leaves(found)
    assert leaves[0] == b"\x00" * 64 and leaves[-1] == b"\xff" * 64 and len(leaves) == len(found) + 2
    assert manifest.from_bytes(manifest.to_bytes(leaves)) == leaves
    assert manifest.root_of(leaves) == manifest.root(found)


@given(sets, items)
def test_one_more_item_changes_the_root(found, extra):
    if extra not in found and extra.mark + extra.commitment not in (manifest.FIRST, manifest.LAST):
        assert manifest.root([*found, extra]) != manifest.root(found)


@given(sets, words)
def test_presence_is_what_a_plain_search_says(found, mark):
    leaves = manifest.leaves(found)
    assert manifest.present(leaves, mark) == any(item.mark == mark for item in found)
    for item in found:
        assert manifest.present(leaves, item.mark)


def test_the_sentinels_are_nobodys():
    empty = manifest.leaves([])
    assert not manifest.present(empty, b"\x00" * 32) and not manifest.present(empty, b"\xff" * 32)


@pytest.mark.parametrize("bad", [[], [1], [1, 0], [0, 2, 1, 3], [0, 1, 1, 3], [1, 2, 3], [0, 1, 2]])
def test_leaves_out_of_order_prove_nothing(bad):
    names = {0: manifest.FIRST, 1: b"\x01" * 64, 2: b"\x02" * 64, 3: manifest.LAST}
    leaves = [names[i] for i in bad]
    assert not manifest.in_order(leaves)
    with pytest.raises(BadInput):
        manifest.present(leaves, b"\x05" * 32)
    with pytest.raises(BadInput):
        manifest.from_bytes(manifest.to_bytes(leaves))


def test_doubles_and_malformed_items_are_bad_input():
    item = manifest.Item(b"\1" * 32, b"\2" * 32)
    with pytest.raises(BadInput, match="twice"):
        manifest.root([item, item])
    with pytest.raises(BadInput, match="32"):
        manifest.root([manifest.Item(b"\1" * 31, b"\2" * 32)])


def test_a_commitment_is_salted():
    digest = "ab" * 32
    one = manifest.commit(b"\1" * 32, "object", digest)
    assert one == manifest.commit(b"\1" * 32, "object", digest)
    assert len({one, manifest.commit(b"\2" * 32, "object", digest), manifest.commit(b"\1" * 32, "other", digest)}) == 3
