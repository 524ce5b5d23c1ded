"""The Merkle tree of RFC 6962 and RFC 9162: one structure for the log and for data set manifests.

Hashes are 32 bytes of SHA-256; a leaf is SHA-256(0x00 | data), a node SHA-256(0x01 | left | right).
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

HASH_BYTES = 32
"""Bytes of a hash."""
EMPTY_ROOT = sha256().digest()
"""Root of the tree without leaves (RFC 9162, section 2.1.1)."""
TILE_LEVELS = 8
"""Roots of perfect subtrees are kept on every eighth level: of 256 leaves, of 65,536 ... (the tiles of C2SP)."""


class Subtree(NamedTuple):
    """A perfect subtree whose root is kept, so that a proof need not start from the leaves."""

    level: int
    """Its height: 2^level leaves; a multiple of `TILE_LEVELS`."""
    place: int
    """Its place among the subtrees of its level, from 0."""
    hash: bytes
    """Its root, 32 bytes."""


Subroot = Callable[[int, int], bytes]
"""Root over the leaves from the first index up to, not including, the second."""


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf. Source: RFC 9162, section 2.1.1."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node. Source: RFC 9162, section 2.1.1."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: the roots of its perfect subtrees, largest first.

    A tree of n leaves has one for each 1 bit of n, so that a million leaves are 640 bytes at most.
    """

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0 or size.bit_count() != len(hashes) or any(len(h) != HASH_BYTES for h in hashes):
            raise ValueError("a frontier has one hash for each bit of its size")
        self.size = size
        self.hashes = list(hashes)

    def add(self, leaf: bytes) -> Sequence[Subtree]:
        """Append the hash of one leaf; return the kept subtrees that it completes."""
        size, hashes = self.size, self.hashes
        complete: list[Subtree] | tuple[()] = ()
        level = 0
        while size & 1:
            leaf = sha256(b"\x01" + hashes.pop() + leaf).digest()
            size >>= 1
            level += 1
            if not level % TILE_LEVELS:
                complete = [*complete, Subtree(level, size, leaf)]
        hashes.append(leaf)
        self.size += 1
        return complete

    def root(self) -> bytes:
        """Root of the tree so far."""
        if not self.hashes:
            return EMPTY_ROOT
        right = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            right = node_hash(left, right)
        return right

    def to_bytes(self) -> bytes:
        """The hashes, one after the other; the size is kept elsewhere."""
        return b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> "Frontier":
        """The frontier of `to_bytes`. Raises ValueError where the bytes do not fit the size."""
        if len(data) % HASH_BYTES:
            raise ValueError("a frontier is whole hashes")
        return cls(size, [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)])

    def copy(self) -> "Frontier":
        """A second frontier that grows on its own."""
        return Frontier(self.size, self.hashes)


def root(leaves: Iterable[bytes]) -> bytes:
    """Root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(leaf)
    return frontier.root()


def inclusion_path(index: int, size: int, subroot: Subroot) -> list[bytes]:
    """The sibling hashes from leaf `index` to the root of the tree of `size`. Source: RFC 9162, section 2.1.3.1.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError("no such leaf")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(subroot(middle, high))
            high = middle
        else:
            path.append(subroot(low, middle))
            low = middle
    return path[::-1]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The sibling hashes from leaf `index` to the root over `leaves`. Raises ValueError: there is no such leaf."""
    return inclusion_path(index, len(leaves), lambda low, high: root(leaves[low:high]))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> bool:
    """Whether `proof` shows `leaf` at `index` in the tree of `size`. Source: RFC 9162, section 2.1.3.2."""
    if not 0 <= index < size or not _hashes(leaf, expected_root, *proof):
        return False
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == expected_root


def consistency_path(first: int, second: int, subroot: Subroot) -> list[bytes]:
    """Hashes that show the tree of `first` leaves to be a prefix of the larger. Source: RFC 9162, section 2.1.4.1.

    Raises:
        ValueError: `first` is not between 1 and `second`.
    """
    if not 0 < first <= second:
        raise ValueError("a consistency proof starts from a tree of 1 to n leaves")
    path: list[bytes] = []
    low, high = 0, second
    while first < high:
        middle = low + _split(high - low)
        if first <= middle:
            path.append(subroot(middle, high))
            high = middle
        else:
            path.append(subroot(low, middle))
            low = middle
    if low:  # the old tree's own root is known; any other subtree's must be told
        path.append(subroot(low, high))
    return path[::-1]


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """Hashes that show the first `first` leaves to be a prefix. Raises ValueError: `first` is not from 1 to n."""
    return consistency_path(first, len(leaves), lambda low, high: root(leaves[low:high]))


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows the tree (`first`, `first_root`) to be a prefix of (`second`, `second_root`).

    Source: RFC 9162, section 2.1.4.2.
    """
    if not 0 < first <= second or not _hashes(first_root, second_root, *proof):
        return False
    if first == second:
        return not proof and first_root == second_root
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == first_root and sr == second_root


def _split(n: int) -> int:
    """The largest power of two below n."""
    return 1 << ((n - 1).bit_length() - 1)


def _hashes(*found: bytes) -> bool:
    return all(len(h) == HASH_BYTES for h in found)
