"""Checkpoints: the log's promise about its tree, signed (C2SP tlog-checkpoint and signed-note, Ed25519).

A checkpoint is text that any tool of the transparency world can verify:

    cloche/log/6f0c...
    1234
    <base64 of the root>

    — cloche/log/6f0c... <base64 of key hash and signature>
"""

import base64
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar, Self

from audit.errors import BadInput, IntegrityFailure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ED25519 = 0x01
_NAME = re.compile(r"[!-*,-~]{1,80}")  # printable ASCII without blanks and plus: it must stand in a key line
_MOST_NOTE_BYTES = 4096


@dataclass(frozen=True)
class Checkpoint:
    """The size and root of a log at one moment."""

    origin: str
    """Name of the log; also the name of its key."""
    size: int
    """Number of entries."""
    root: bytes
    """Root of the Merkle tree over them, 32 bytes."""

    def body(self) -> bytes:
        """The text that is signed. Source: C2SP tlog-checkpoint."""
        return f"{self.origin}\n{self.size}\n{_b64(self.root)}\n".encode()

    @classmethod
    def from_body(cls, body: bytes) -> "Checkpoint":
        """The checkpoint of a signed text. Raises BadInput."""
        try:
            origin, size, root = body.decode().removesuffix("\n").split("\n")[:3]
            if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size):
                raise ValueError("size")
            return cls(origin, int(size), _unb64(root, 32))
        except ValueError as error:
            raise BadInput("this is no checkpoint of a log") from error


@dataclass(frozen=True)
class VerifierKey:
    """The public key of a log: what an officer pins."""

    name: str
    """Name of the key: the log's origin."""
    public: bytes
    """Ed25519 public key, 32 bytes."""
    type_byte: ClassVar[int] = _ED25519
    """What kind of signature it makes. Source: C2SP signed-note, signature types."""
    whose: ClassVar[str] = "a log"
    """Whose key it is, for messages."""
    found_in: ClassVar[str] = "keys/log.pub"
    """Where its line stands, for messages."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.public) != 32:
            raise BadInput(f"this is no public key of {self.whose}")

    @property
    def key_hash(self) -> bytes:
        """First 4 bytes of SHA-256(name | 0x0A | type byte | public key). Source: C2SP signed-note."""
        return sha256(self.name.encode() + b"\n" + bytes([self.type_byte]) + self.public).digest()[:4]

    @property
    def fingerprint(self) -> str:
        """32 hex digits of SHA-256 of the key line, to compare by eye or with a paper."""
        return sha256(self.to_text().encode()).hexdigest()[:32]

    def to_text(self) -> str:
        """One line, ``name+hash+key``. Source: C2SP signed-note, verifier keys."""
        return f"{self.name}+{self.key_hash.hex()}+{_b64(bytes([self.type_byte]) + self.public)}"

    @classmethod
    def from_text(cls, text: str, where: str = "") -> Self:
        """The key of such a line. Raises BadInput."""
        try:
            name, key_hash, key = text.strip().split("+", 2)
            data = _unb64(key, 33)
            found = cls(name, data[1:])
            if data[0] != cls.type_byte or found.key_hash.hex() != key_hash:
                raise ValueError("hash")
        except (ValueError, BadInput) as error:
            raise BadInput(
                f"this is no public key of {cls.whose}", where=where, hint=f"take the line in {cls.found_in}, whole"
            ) from error
        return found


class Signer:
    """The log's private key; in an appliance the custodian alone holds it."""

    def __init__(self, name: str, private: "Ed25519PrivateKey") -> None:
        self._private = private
        self.key = VerifierKey(name, private.public_key().public_bytes_raw())
        """Its public half."""

    @classmethod
    def generate(cls, name: str) -> "Signer":
        """A fresh key under the name of a log."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, name: str, private: bytes) -> "Signer":
        """The key of `to_bytes`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(name, Ed25519PrivateKey.from_private_bytes(private))

    def to_bytes(self) -> bytes:
        """The private key, 32 bytes; to be wrapped at once."""
        return self._private.private_bytes_raw()

    def sign(self, checkpoint: Checkpoint) -> bytes:
        """The signed note of a checkpoint."""
        return self.sign_text(checkpoint.body())

    def sign_text(self, text: bytes) -> bytes:
        """The signed note of a text that ends in a newline. Source: C2SP signed-note."""
        signature = _b64(self.key.key_hash + self._private.sign(text))
        return text + f"\n— {self.key.name} {signature}\n".encode()


def open_note(note: bytes, key: VerifierKey) -> Checkpoint:
    """The checkpoint of a signed note, once the key's signature under it is verified.

    Raises:
        IntegrityFailure: it is not a note, its origin is not the key's, or no good signature of the key is on it.
    """
    try:
        checkpoint = Checkpoint.from_body(open_text(note, key))
    except BadInput as error:
        raise IntegrityFailure("a signed note is no checkpoint") from error
    if checkpoint.origin != key.name:
        raise IntegrityFailure("a checkpoint belongs to another log")
    return checkpoint


def open_text(note: bytes, key: VerifierKey, most_bytes: int = _MOST_NOTE_BYTES) -> bytes:
    """The text of a signed note, once the key's signature under it is verified. Source: C2SP signed-note.

    Signatures of other keys (witnesses) may stand beside it and are passed over. A note longer than `most_bytes` is
    none.

    Raises:
        IntegrityFailure: it is not a note, or no good signature of the key is on it.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    head, blank, signatures = note.rpartition(b"\n\n")
    if not blank or len(note) > most_bytes or not signatures.endswith(b"\n"):
        raise IntegrityFailure("a checkpoint is no signed note")
    text = head + b"\n"
    marker = f"— {key.name} ".encode()
    for line in signatures.removesuffix(b"\n").split(b"\n"):
        if not line.startswith(marker):
            continue
        try:
            data = _unb64(line.removeprefix(marker).decode(), 4 + 64)
            if data[:4] != key.key_hash:
                continue
            Ed25519PublicKey.from_public_bytes(key.public).verify(data[4:], text)
        except (ValueError, InvalidSignature) as error:
            raise IntegrityFailure("a checkpoint is not signed by the log's key") from error
        return text
    raise IntegrityFailure("a checkpoint is not signed by the log's key")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: str, length: int) -> bytes:
    data = base64.b64decode(text, validate=True)
    if len(data) != length or _b64(data) != text:  # one spelling only
        raise ValueError("base64")
    return data
