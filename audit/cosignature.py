"""Cosignatures: a witness's word that a checkpoint continues the last one it saw (C2SP tlog-cosignature, Ed25519).

cloche/log/6f0c...
1234
<base64 of the root>

— cloche/log/6f0c... <base64 of key hash and signature>
— cloche/witness/91ab... <base64 of key hash, POSIX time in 8 bytes, and signature>
"""

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from audit.checkpoint import Checkpoint, Signer, VerifierKey
from audit.errors import BadInput, IntegrityFailure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LATEST = 2**63 - 1
"""The last POSIX time that a cosignature may bear."""
_MOST_NOTE_BYTES = 4096
_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class WitnessKey(VerifierKey):
    """The public key of a witness: what an appliance pins, and whoever wants to trust a cosignature."""

    type_byte: ClassVar[int] = 0x04
    whose: ClassVar[str] = "a witness"
    found_in: ClassVar[str] = "the output of cloche audit witness --show"

    @property
    def for_notes(self) -> VerifierKey:
        """The same key as the signer of plain notes (visit files); another type byte, so another key hash."""
        return VerifierKey(self.name, self.public)


@dataclass(frozen=True)
class NoteSignature:
    """One signature line of a note, not verified."""

    name: str
    """Name of the key that is said to have made it."""
    key_hash: bytes
    """4 bytes; with the name it says which key."""
    signature: bytes
    """What the key made, in the form of its type."""
    line: bytes
    """The line as it stands, with its newline."""


class Cosigner:
    """A witness's private key."""

    def __init__(self, name: str, private: "Ed25519PrivateKey") -> None:
        self._private = private
        self.key = WitnessKey(name, private.public_key().public_bytes_raw())
        """Its public half."""
        self.notes = Signer(name, private)
        """The same key for plain notes. Their texts never begin like a cosigned message: ``cosignature/v1``."""

    @classmethod
    def generate(cls, name: str) -> "Cosigner":
        """A fresh key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, name: str, private: bytes) -> "Cosigner":
        """The key of `to_bytes`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(name, Ed25519PrivateKey.from_private_bytes(private))

    def to_bytes(self) -> bytes:
        """The private key, 32 bytes; to be wrapped at once."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The bare signature of a message, 64 bytes; it must begin with a label of its own."""
        return self._private.sign(message)

    def cosign(self, text: bytes, time: int) -> bytes:
        """The cosignature line of a checkpoint's text, its newline included. Source: C2SP tlog-cosignature.

        Args:
            text: the note's text with its last newline.
            time: POSIX time, seconds.
        """
        data = self.key.key_hash + time.to_bytes(8, "big") + self.sign(_message(text, time))
        return f"— {self.key.name} {base64.b64encode(data).decode()}\n".encode()


def split_note(note: bytes, most_bytes: int = _MOST_NOTE_BYTES) -> tuple[bytes, tuple[NoteSignature, ...]]:
    """Text and signature lines of a note, by the letter of C2SP signed-note; nothing is verified.

    Raises:
        IntegrityFailure: it is no note: too long, control characters, a line that is no signature, none at all.
    """
    try:
        whole = note.decode()
        if len(note) > most_bytes or _CONTROL.search(whole) or not whole.endswith("\n"):
            raise ValueError("characters")
        head, blank, lines = whole.removesuffix("\n").rpartition("\n\n")
        if not blank:
            raise ValueError("no signature")
        return f"{head}\n".encode(), tuple(_signature(line) for line in lines.split("\n"))
    except ValueError as error:  # UnicodeDecodeError and binascii.Error, too
        raise IntegrityFailure("a checkpoint is no signed note") from error


def open_cosignature(note: bytes, key: WitnessKey) -> tuple[Checkpoint, int]:
    """The checkpoint of a cosigned note and the POSIX time of the cosignature, once it is verified.

    It says nothing about the log's own signature: `checkpoint.open_note` does.

    Raises:
        IntegrityFailure: it is no note or no checkpoint, or does not bear exactly one good cosignature of the key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    text, signatures = split_note(note)
    mine = [one.signature for one in signatures if (one.name, one.key_hash) == (key.name, key.key_hash)]
    if not mine:
        raise IntegrityFailure("a checkpoint is not cosigned by the witness", where=key.name)
    if len(mine) > 1:
        raise IntegrityFailure("a checkpoint is cosigned twice by the same witness", where=key.name)
    time = int.from_bytes(mine[0][:8], "big")
    try:
        if len(mine[0]) != 8 + 64 or time > LATEST:
            raise ValueError("length or time")
        Ed25519PublicKey.from_public_bytes(key.public).verify(mine[0][8:], _message(text, time))
        return Checkpoint.from_body(text), time
    except (ValueError, InvalidSignature) as error:
        raise IntegrityFailure("the witness's cosignature under a checkpoint is not good", where=key.name) from error
    except BadInput as error:
        raise IntegrityFailure("a cosigned note is no checkpoint", where=key.name) from error


def _signature(line: str) -> NoteSignature:
    """The signature of a line. Raises ValueError."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("signature line")
    data = base64.b64decode(found[2], validate=True)
    if len(data) < 5 or base64.b64encode(data).decode() != found[2]:  # one spelling only
        raise ValueError("base64")
    return NoteSignature(found[1], data[:4], data[4:], f"{line}\n".encode())


def _message(text: bytes, time: int) -> bytes:
    """What a cosigner signs. Source: C2SP tlog-cosignature, Ed25519 signed message."""
    return f"cosignature/v1\ntime {time}\n".encode() + text
