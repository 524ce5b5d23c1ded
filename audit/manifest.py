"""Manifests: what a data set holds, as one Merkle root, so that presence and absence of a patient can be proved.

A leaf is *patient mark | record commitment*, 32 bytes each: the mark a keyed digest of the pseudonym, the commitment
a salted digest of the record. Leaves are sorted; the first is all 00, the last all FF, so that every absent patient
lies between two neighbours. The whole leaf list is kept (encrypted) beside the root.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from audit.errors import BadInput
from audit.merkle import leaf_hash
from audit.merkle import root as merkle_root
from audit.rows import StoredObject

MARK_BYTES = 32
"""Bytes of a patient mark, and of a commitment."""
LEAF_BYTES = 2 * MARK_BYTES
"""Bytes of a leaf."""
FIRST, LAST = b"\x00" * LEAF_BYTES, b"\xff" * LEAF_BYTES
"""The sentinels."""


@dataclass(frozen=True)
class Item:
    """One member of a data set."""

    mark: bytes
    """Keyed digest of the patient's pseudonym (`Vault.patient_mark`), 32 bytes; zeros where it has no patient."""
    commitment: bytes
    """Salted digest of the record (`commit`), 32 bytes."""


def commit(salt: bytes, object_id: str, digest: str) -> bytes:
    """The commitment to one object: SHA-256(label | salt | id | ciphertext digest), 32 bytes.

    Without the salt nobody can tell from it which record it is.
    """
    return sha256(b"cloche/manifest/v1\x00" + salt + object_id.encode() + bytes.fromhex(digest)).digest()


def items(objects: Iterable[StoredObject], mark_of: Callable[[str], bytes]) -> list[Item]:
    """The members that objects are, in their order; `mark_of` gives the mark of a pseudonym, and is asked once each."""
    held = list(objects)
    marks = {patient: mark_of(patient) for patient in {one.patient for one in held}}
    return [Item(marks[one.patient], commit(one.salt, one.id, one.digest)) for one in held]


def leaves(items: Iterable[Item]) -> list[bytes]:
    """The sorted leaves with both sentinels. Raises BadInput where an item is malformed or stands twice."""
    found = sorted(item.mark + item.commitment for item in items)
    if any(len(leaf) != LEAF_BYTES for leaf in found):
        raise BadInput("a manifest item is not 32 and 32 bytes long")
    whole = [FIRST, *found, LAST]
    if not in_order(whole):
        raise BadInput("a record stands twice in the manifest")
    return whole


def root(items: Iterable[Item]) -> bytes:
    """Merkle root of the manifest of `items`, 32 bytes. Raises BadInput as `leaves`."""
    return root_of(leaves(items))


def root_of(whole: Iterable[bytes]) -> bytes:
    """Merkle root over a manifest's leaves as they stand, 32 bytes."""
    return merkle_root(leaf_hash(leaf) for leaf in whole)


def in_order(whole: Sequence[bytes]) -> bool:
    """Whether a leaf list is what `leaves` makes: sentinels at both ends, strictly ascending between."""
    if len(whole) < 2 or whole[0] != FIRST or whole[-1] != LAST or any(len(leaf) != LEAF_BYTES for leaf in whole):
        return False
    return all(one < next_ for one, next_ in zip(whole, whole[1:], strict=False))


def present(whole: Sequence[bytes], mark: bytes) -> bool:
    """Whether a patient has a leaf in an ordered list. Raises BadInput where the list is out of order."""
    if not in_order(whole):
        raise BadInput("the manifest's leaves are out of order: it proves nothing")
    at = bisect_left(whole, mark + b"\x00" * MARK_BYTES, 1, len(whole) - 1)
    return at < len(whole) - 1 and whole[at][:MARK_BYTES] == mark


def to_bytes(whole: Sequence[bytes]) -> bytes:
    """The leaf list as one string of bytes, to be stored."""
    return b"".join(whole)


def from_bytes(data: bytes) -> list[bytes]:
    """The leaf list of `to_bytes`. Raises BadInput where it is not whole leaves in order."""
    whole = [data[i : i + LEAF_BYTES] for i in range(0, len(data), LEAF_BYTES)]
    if not in_order(whole):
        raise BadInput("these bytes are no manifest")
    return whole
