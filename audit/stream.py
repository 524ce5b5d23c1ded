"""Objects at rest: AES-256-GCM in chunks of 1 MiB, in the STREAM construction.

File: 8 bytes of magic, then chunks of ciphertext and tag. The nonce is an 11-byte counter and a final byte, 1 for the
last chunk: chunks cannot be dropped, doubled, swapped or cut off unnoticed. Every file has a key of its own.

Source: Hoang, Reyhanitabar, Rogaway, Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance",
CRYPTO 2015, section 7; laid out as in the age file format (C2SP age.md).
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from audit.errors import IntegrityFailure

MAGIC = b"CLOCHEB1"
"""First bytes of an object file; they name the format."""
CHUNK_BYTES = 1 << 20
"""Plaintext of a chunk; the last one may be shorter, and is empty only where all is empty."""
_TAG_BYTES = 16


def seal(key: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The file's bytes, piece by piece, of plaintext that comes in pieces of any length.

    Args:
        key: 32 bytes that no other file is sealed with.
        pieces: the plaintext.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(key)
    yield MAGIC
    counter, held = 0, bytearray()
    for piece in pieces:
        held += piece
        while len(held) > CHUNK_BYTES:  # strictly: a full chunk may be the last one
            yield cipher.encrypt(_nonce(counter, False), bytes(held[:CHUNK_BYTES]), MAGIC)
            del held[:CHUNK_BYTES]
            counter += 1
    yield cipher.encrypt(_nonce(counter, True), bytes(held), MAGIC)


class Readable(Protocol):
    """What can be read from, such as a file."""

    def read(self, count: int, /) -> bytes:
        """The next bytes, fewer only at the end."""


def open_chunks(key: bytes, file: Readable, where: str) -> Iterator[bytes]:
    """The plaintext of a sealed file, chunk by chunk; each is authentic when it comes, the end only at the end.

    Raises:
        IntegrityFailure: a byte was changed, chunks were moved, or the file was cut short or continued.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(key)
    if file.read(len(MAGIC)) != MAGIC:
        raise IntegrityFailure("this is no object file of the vault", where=where)
    chunk, counter, last = file.read(CHUNK_BYTES + _TAG_BYTES), 0, False
    while not last:
        following = file.read(CHUNK_BYTES + _TAG_BYTES)
        last = not following
        try:
            plain = cipher.decrypt(_nonce(counter, last), chunk, MAGIC)
        except (InvalidTag, ValueError) as error:
            raise IntegrityFailure(
                "an object of the vault was changed or cut short", where=where, hint="restore it from a backup"
            ) from error
        if last and counter and not plain:
            raise IntegrityFailure("an object of the vault ends in an empty chunk", where=where)
        yield plain
        chunk, counter = following, counter + 1


def sealed_size(size: int) -> int:
    """Bytes of the file that holds so many bytes of plaintext."""
    chunks = max(1, -(-size // CHUNK_BYTES))
    return len(MAGIC) + size + chunks * _TAG_BYTES


def _nonce(counter: int, last: bool) -> bytes:
    return counter.to_bytes(11, "big") + bytes([last])
