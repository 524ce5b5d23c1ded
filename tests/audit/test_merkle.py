"""The tree against RFC 6962's own test vectors, and its proofs against every way of being wrong that we know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import merkle

# The certificate-transparency test data: leaves, and the root after each of them.
INPUTS = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                                     "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

sizes = st.integers(min_value=1, max_value=70)


def tree(size: int) -> list[bytes]:
    return [merkle.leaf_hash(bytes([i])) for i in range(size)]


def test_the_empty_tree_and_the_published_roots():
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    leaves = [merkle.leaf_hash(data) for data in INPUTS]
    assert [merkle.root(leaves[: n + 1]).hex() for n in range(8)] == ROOTS


def recursive_root(leaves: list[bytes]) -> bytes:
    """RFC 9162's definition, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return merkle.node_hash(recursive_root(leaves[:k]), recursive_root(leaves[k:]))


@given(sizes)
def test_the_frontier_gives_the_recursive_root_and_survives_storage(size):
    frontier = merkle.Frontier()
    for leaf in tree(size):
        frontier.add(leaf)
        frontier = merkle.Frontier.from_bytes(frontier.size, frontier.to_bytes())
    assert frontier.root() == recursive_root(tree(size))


@pytest.mark.parametrize(("size", "data"), [(1, b""), (2, b"\0" * 64), (1, b"\0" * 31), (0, b"\0" * 32), (-1, b"")])
def test_a_frontier_that_cannot_be_is_refused(size, data):
    with pytest.raises(ValueError):
        merkle.Frontier.from_bytes(size, data)


@given(st.data(), sizes)
def test_inclusion_is_proved_and_nothing_else_is(data, size):
    leaves = tree(size)
    index = data.draw(st.integers(0, size - 1))
    root, proof = merkle.root(leaves), merkle.inclusion_proof(leaves, index)
    assert merkle.verify_inclusion(leaves[index], index, size, proof, root)
    assert len(proof) <= 7
    wrong = [
        (leaves[index], index ^ 1, size, proof, root),
        (leaves[index], index + size, size, proof, root),
        (leaves[index], -1, size, proof, root),
        (leaves[index], index, 0, proof, root),
        (leaves[index], index, size, [*proof, root], root),
        (leaves[index], index, size, [root, *proof], root),
        (leaves[index], index, size, proof, merkle.leaf_hash(root)),
        (merkle.leaf_hash(b"another"), index, size, proof, root),
        (leaves[index], index, size, proof, root[:-1]),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong.append((leaves[index], index, size, proof[:at] + proof[at + 1 :], root))
        bad = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        wrong.append((leaves[index], index, size, [*proof[:at], bad, *proof[at + 1 :]], root))
    for arguments in wrong:
        assert not merkle.verify_inclusion(*arguments), arguments[1:3]


@given(st.data(), sizes)
def test_consistency_is_proved_and_nothing_else_is(data, second):
    first = data.draw(st.integers(1, second))
    leaves = tree(second)
    old, new = merkle.root(leaves[:first]), merkle.root(leaves)
    proof = merkle.consistency_proof(leaves, first)
    assert merkle.verify_consistency(first, second, old, new, proof)
    other = merkle.leaf_hash(b"another history")
    wrong = [
        (first, second, other, new, proof),
        (first, second, old, other, proof),
        (first, second, old, new, [*proof, other]),
        (first, second, old, new, [other, *proof]),
        (0, second, old, new, proof),
        (second + 1, second, old, new, proof),
        (first, second, old[:-1], new, proof),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong.append((first, second, old, new, proof[:at] + proof[at + 1 :]))
        wrong.append((first, second, old, new, [*proof[:at], other, *proof[at + 1 :]]))
    for arguments in wrong:
        assert not merkle.verify_consistency(*arguments), arguments[:2]


def test_a_proof_that_stops_halfway_proves_nothing():
    """Even where somebody signed the hash at which it stops as the root of a tree of another size."""
    leaves = tree(4)
    pair = merkle.root(leaves[:2])
    assert merkle.verify_inclusion(leaves[0], 0, 2, [leaves[1]], pair)
    assert not merkle.verify_inclusion(leaves[0], 0, 4, [leaves[1]], pair)
    assert not merkle.verify_inclusion(leaves[0], 0, 2, [], leaves[0])
    assert merkle.verify_consistency(2, 4, pair, merkle.root(leaves), [merkle.root(leaves[2:])])
    assert not merkle.verify_consistency(2, 8, pair, merkle.root(leaves), [merkle.root(leaves[2:])])
    proof = merkle.consistency_proof(leaves[:3], 2)
    assert not merkle.verify_consistency(3, 2, pair, pair, proof)
    assert not merkle.verify_consistency(4, 3, merkle.root(leaves), merkle.root(leaves), [])
    assert not merkle.verify_consistency(2, 1, pair, pair, [])


def test_a_node_cannot_pass_for_a_leaf():
    """Second pre-images: the two-leaf tree's inner node is not the root of a one-leaf tree of the joined leaves."""
    a, b = tree(2)
    assert merkle.leaf_hash(a + b) != merkle.root([a, b])


@pytest.mark.parametrize("index", [-1, 3])
def test_no_proof_of_a_leaf_that_is_not_there(index):
    with pytest.raises(ValueError):
        merkle.inclusion_proof(tree(3), index)
    with pytest.raises(ValueError):
        merkle.consistency_proof(tree(3), 4 if index > 0 else 0)
