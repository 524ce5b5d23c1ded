"""The shape of one entry: its header to the byte, its size classes, its leaf in the tree.

Nothing here needs a key. The header says nothing about a patient: it counts.
"""

import struct
from hashlib import sha256
from typing import NamedTuple, Self

from audit.errors import BadInput, IntegrityFailure

VERSION = 1
"""Version of the format; in every header, so that the tree vouches for it."""
OPENING, EVENT, KEYS, HEARTBEAT = 0, 1, 2, 3
"""Classes of entries. An opening starts a segment; the others carry a sealed event."""
CLASS_NAMES = {OPENING: "opening", EVENT: "event", KEYS: "keys", HEARTBEAT: "heartbeat"}
"""Names of the classes, for tables."""
SIZES = tuple(1024 << i for i in range(7))
"""Bytes of plaintext in size class 0 .. 6: 1 KiB to 64 KiB."""
NONCE_BYTES, TAG_BYTES = 12, 16
"""Nonce and tag of AES-256-GCM."""
SEGMENT_EVENTS = 4096
"""Events of a segment at most."""

_LAYOUT = struct.Struct(">BBBB32sQQI")
HEADER_BYTES = _LAYOUT.size
"""Bytes of a header: 56."""


class Header(NamedTuple):
    """What stands in clear before every entry. A tuple, as verification makes a million of them."""

    version: int
    """Version of the format."""
    suite: int
    """HPKE suite of the segment's opening: 1 MLKEM768-X25519, 2 X25519."""
    class_: int
    """`OPENING`, `EVENT`, `KEYS` or `HEARTBEAT`."""
    size_class: int
    """Index into `SIZES`."""
    origin: bytes
    """SHA-256 of the log's origin, 32 bytes."""
    sequence: int
    """Place in the log, from 0."""
    segment: int
    """Sequence of the opening of its segment."""
    ordinal: int
    """Its index in the segment: 0 for the opening, then 1, 2 ..."""

    def to_bytes(self) -> bytes:
        """The header's 56 bytes, big-endian."""
        return _LAYOUT.pack(*self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The header of 56 bytes. Raises IntegrityFailure where they cannot be one."""
        if len(data) != HEADER_BYTES:
            raise IntegrityFailure(f"the header has {len(data)} bytes, not {HEADER_BYTES}")
        return cls._make(_LAYOUT.unpack(data))

    @property
    def body_bytes(self) -> int:
        """How long the body must be."""
        return SIZES[self.size_class] + (0 if self.class_ == OPENING else NONCE_BYTES + TAG_BYTES)

    def fault(self, origin: bytes, sequence: int, body_bytes: int) -> str:
        """Why the entry cannot stand at `sequence` in the log of `origin`; empty if it can."""
        if self.version != VERSION:
            return f"its format is version {self.version}, this program knows version {VERSION}"
        if self.origin != origin:
            return "it belongs to another log"
        if self.sequence != sequence:
            return f"it was written as entry {self.sequence}"
        if self.class_ not in CLASS_NAMES or self.size_class >= len(SIZES) or self.suite not in (1, 2):
            return "its header has values that no version has written"
        opening = self.class_ == OPENING
        if opening != (self.ordinal == 0) or opening != (self.segment == sequence) or self.segment > sequence:
            return "its segment and its index contradict each other"
        if self.ordinal > SEGMENT_EVENTS:
            return "its segment is longer than a segment may be"
        if body_bytes != self.body_bytes:
            return f"its body has {body_bytes} bytes, its size class says {self.body_bytes}"
        return ""


class Entry(NamedTuple):
    """One row of the log."""

    header: bytes
    """The 56 bytes of the header."""
    body: bytes
    """Opening: recipients and sealed secrets. Else: nonce, ciphertext and tag."""

    @property
    def leaf(self) -> bytes:
        """Its leaf hash: SHA-256(0x00 | header | SHA-256(body)), 32 bytes."""
        return leaf(self.header, self.body)


def leaf(header: bytes, body: bytes) -> bytes:
    """Leaf hash of an entry, 32 bytes. Source: RFC 9162, section 2.1.1, over header | SHA-256(body)."""
    return sha256(b"\x00" + header + sha256(body).digest()).digest()


def size_class_of(payload_bytes: int) -> int:
    """The smallest size class that holds a payload and its 4 bytes of length.

    Raises:
        BadInput: it fits into none; longer lists belong into a manifest.
    """
    for class_, size in enumerate(SIZES):
        if payload_bytes + 4 <= size:
            return class_
    raise BadInput(
        f"an event of {payload_bytes} bytes is longer than an entry may be ({SIZES[-1] - 4})",
        hint="put long lists into a manifest and log its root",
    )


def pad(payload: bytes, size_class: int) -> bytes:
    """Length (4 bytes, big-endian), payload, zeros up to the size class."""
    return (struct.pack(">I", len(payload)) + payload).ljust(SIZES[size_class], b"\x00")


def unpad(data: bytes) -> bytes:
    """The payload of `pad`. Raises IntegrityFailure where the length or the zeros are wrong."""
    length = int.from_bytes(data[:4], "big")
    if length > len(data) - 4 or data.count(0, 4 + length) != len(data) - 4 - length:
        raise IntegrityFailure("the padding of an entry is not what the format says")
    return data[4 : 4 + length]
