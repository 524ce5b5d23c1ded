"""Keys of people: the auditor's and the recovery holder's key pairs, and secrets under a passphrase.

The private key of a recipient is made on the officer's laptop and never enters the appliance; the appliance gets the
public file. A passphrase becomes a key by Argon2id (RFC 9106).
"""

import base64
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import BadInput, Refused, storage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey

SUITES = {"MLKEM768-X25519": 1, "X25519": 2}
"""Name of a suite -> its byte in the log. Both with HKDF-SHA256 and AES-256-GCM (RFC 9180)."""
DEFAULT_SUITE = "MLKEM768-X25519"
"""Medical secrets outlive today's curves: the hybrid resists a later quantum computer, too."""
_PUBLIC_BYTES = {"MLKEM768-X25519": 1184 + 32, "X25519": 32}
_PRIVATE_BYTES = {"MLKEM768-X25519": 64 + 32, "X25519": 32}
_PUBLIC_KIND, _PRIVATE_KIND = "cloche recipient", "cloche recipient, private"
_MOST_MEMORY_KIB = 4 * 1024 * 1024


@dataclass(frozen=True)
class Cost:
    """What a passphrase costs to try: the parameters of Argon2id."""

    memory_kib: int = 64 * 1024
    """Memory in KiB."""
    iterations: int = 3
    """Passes over it."""
    lanes: int = 4
    """Degree of parallelism."""

    def __post_init__(self) -> None:
        sane = 1 <= self.lanes <= 64 and 1 <= self.iterations <= 1000
        if not sane or not 8 * self.lanes <= self.memory_kib <= _MOST_MEMORY_KIB:
            raise BadInput("the Argon2id parameters of the file are out of range", hint="take an undamaged copy of it")


COST = Cost()
"""RFC 9106's second recommended option: 64 MiB, 3 passes, 4 lanes (0.15 s on the machine it was written on)."""


@dataclass(frozen=True)
class Recipient:
    """Somebody who can read the log: a name and a public key."""

    name: str
    """Who it is: ``auditor``, ``recovery`` ..."""
    suite: str
    """A key of `SUITES`."""
    public: bytes
    """X25519: 32 bytes. MLKEM768-X25519: ML-KEM-768 key of 1,184 bytes, then 32 bytes of X25519."""
    label: str = ""
    """A remark that every tool shows, such as ``DEMO - not for real data``."""

    def __post_init__(self) -> None:
        if self.suite not in SUITES or len(self.public) != _PUBLIC_BYTES[self.suite]:
            raise BadInput("this is no public key that Cloche knows", where=self.name, hint="cloche audit keygen")

    @property
    def key_id(self) -> bytes:
        """16 bytes that name the key in a segment opening: SHA-256(suite byte | public key), its first half."""
        return sha256(bytes([SUITES[self.suite]]) + self.public).digest()[:16]

    def key(self) -> "X25519PublicKey | MLKEM768X25519PublicKey":
        """The public key for HPKE. Raises BadInput where the bytes are not a key."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        try:
            curve = X25519PublicKey.from_public_bytes(self.public[-32:])
            if self.suite == "X25519":
                return curve
            from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
            from cryptography.hazmat.primitives.hpke import MLKEM768X25519PublicKey

            return MLKEM768X25519PublicKey(MLKEM768PublicKey.from_public_bytes(self.public[:-32]), curve)
        except ValueError as error:
            raise BadInput("the public key is damaged", where=self.name, hint="take an undamaged copy of it") from error

    def to_dict(self) -> dict[str, str]:
        """The recipient as a JSON object, for its file."""
        return {
            "kind": _PUBLIC_KIND,
            "name": self.name,
            "label": self.label,
            "suite": self.suite,
            "key_id": self.key_id.hex(),
            "public": _b64(self.public),
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any], where: str) -> "Recipient":
        """The recipient of `to_dict`. Raises BadInput where it is not one."""
        try:
            recipient = cls(str(found["name"]), found["suite"], _unb64(found["public"]), str(found["label"]))
            intact = found["key_id"] == recipient.key_id.hex()
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("this is no public key of a recipient", where=where, hint="cloche audit keygen") from error
        if not intact:
            raise BadInput("the public key does not fit its own id", where=where, hint="take an undamaged copy of it")
        return recipient

    def to_bytes(self) -> bytes:
        """The public file's content."""
        return json.dumps(self.to_dict(), indent=2).encode() + b"\n"

    def save(self, path: Path) -> None:
        """Write the public file."""
        write_new(path, self.to_bytes(), mode=0o644)

    @classmethod
    def load(cls, path: Path) -> "Recipient":
        """Read the public file. Raises BadInput."""
        return cls.from_dict(_read(path, _PUBLIC_KIND), str(path))


@dataclass(frozen=True)
class KeyPair:
    """A recipient together with its private key; on the officer's machine only."""

    recipient: Recipient
    """The public half."""
    private: bytes
    """X25519: 32 bytes. MLKEM768-X25519: ML-KEM seed of 64 bytes, then 32 bytes of X25519."""

    def __repr__(self) -> str:  # a private key must not reach a traceback or a log
        return f"KeyPair({self.recipient.name}, {self.recipient.key_id.hex()})"

    def key(self) -> "X25519PrivateKey | MLKEM768X25519PrivateKey":
        """The private key for HPKE."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        curve = X25519PrivateKey.from_private_bytes(self.private[-32:])
        if self.recipient.suite == "X25519":
            return curve
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
        from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

        return MLKEM768X25519PrivateKey(MLKEM768PrivateKey.from_seed_bytes(self.private[:-32]), curve)

    def save(self, path: Path, passphrase: bytes, cost: Cost = COST) -> None:
        """Write the private file, mode 0600. Raises Refused where the file exists or the passphrase is empty."""
        sealed = wrap(self.private, passphrase, _private_context(self.recipient), cost)
        found = {**self.recipient.to_dict(), "kind": _PRIVATE_KIND, "private": sealed}
        write_new(path, json.dumps(found, indent=2).encode() + b"\n", mode=0o600)

    @classmethod
    def load(cls, path: Path, passphrase: bytes) -> "KeyPair":
        """Read the private file. Raises BadInput where it is none, Refused where the passphrase is wrong."""
        found = _read(path, _PRIVATE_KIND)
        recipient = Recipient.from_dict(found, str(path))
        sealed = found.get("private")
        private = unwrap(sealed, passphrase, _private_context(recipient), str(path))
        if len(private) != _PRIVATE_BYTES[recipient.suite]:
            raise BadInput("the private key has the wrong length", where=str(path))
        return cls(recipient, private)


def generate(name: str, suite: str = DEFAULT_SUITE, label: str = "") -> KeyPair:
    """Make a key pair. Raises BadInput where the suite is unknown."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    if suite not in SUITES:
        raise BadInput(f"there is no suite called {suite!r}", hint=f"name one of {', '.join(SUITES)}")
    curve = X25519PrivateKey.generate()
    private, public = curve.private_bytes_raw(), curve.public_key().public_bytes_raw()
    if suite != "X25519":
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

        lattice = MLKEM768PrivateKey.generate()
        private = lattice.private_bytes_raw() + private
        public = lattice.public_key().public_bytes_raw() + public
    return KeyPair(Recipient(name, suite, public, label), private)


class Wrapping:
    """A passphrase that was stretched once: it seals again without being asked for again."""

    def __init__(self, passphrase: bytes, cost: Cost = COST, salt: bytes = b"") -> None:
        """Stretch a passphrase; under a fresh salt, if none is given. Raises Refused where it is empty."""
        if not passphrase:
            raise Refused("the passphrase is empty", hint="type the same command and give one")
        self.cost = cost
        """What a guess of the passphrase costs."""
        self._salt = salt or secrets.token_bytes(16)
        self._key = _stretch(passphrase, self._salt, cost)

    def seal(self, secret: bytes, context: bytes) -> dict[str, Any]:
        """The secret, sealed (AES-256-GCM) and bound to `context`, as JSON values."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(12)
        return {
            "kdf": "argon2id",
            "memory_kib": self.cost.memory_kib,
            "iterations": self.cost.iterations,
            "lanes": self.cost.lanes,
            "salt": _b64(self._salt),
            "nonce": _b64(nonce),
            "sealed": _b64(AESGCM(self._key).encrypt(nonce, secret, context)),
        }

    @classmethod
    def open(cls, found: Any, passphrase: bytes, context: bytes, where: str) -> "tuple[bytes, Wrapping]":
        """The secret of `seal`, and what seals it again. Raises BadInput, or Refused for a wrong passphrase."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            cost = Cost(int(found["memory_kib"]), int(found["iterations"]), int(found["lanes"]))
            salt, nonce, sealed = (_unb64(found[name]) for name in ("salt", "nonce", "sealed"))
            wrapping = cls(passphrase, cost, salt)
            return AESGCM(wrapping._key).decrypt(nonce, sealed, context), wrapping
        except InvalidTag as error:
            raise Refused(
                "the passphrase is wrong, or the key file was changed", where=where, hint="type the same command again"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("this key file is damaged", where=where, hint="take an undamaged copy of it") from error


def wrap(secret: bytes, passphrase: bytes, context: bytes, cost: Cost = COST) -> dict[str, Any]:
    """Seal a secret under a passphrase (Argon2id, AES-256-GCM), bound to `context`. Raises Refused for an empty one."""
    return Wrapping(passphrase, cost).seal(secret, context)


def unwrap(found: Any, passphrase: bytes, context: bytes, where: str) -> bytes:
    """The secret of `wrap`. Raises BadInput where it is none, Refused where the passphrase is wrong."""
    return Wrapping.open(found, passphrase, context, where)[0]


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist yet, durably. Raises Refused where it exists."""
    with storage(path):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError as error:
            raise Refused("the file exists already", where=str(path), hint="name another, or move it away") from error
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _read(path: Path, kind: str) -> dict[str, Any]:
    """A key file's JSON, once its kind is the expected one."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BadInput("there is no such key file", where=str(path), hint="cloche audit keygen makes one") from error
    except (OSError, ValueError) as error:
        raise BadInput("this key file cannot be read", where=str(path), hint="take an undamaged copy of it") from error
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise BadInput(f"this is no file of the kind {kind!r}", where=str(path), hint="cloche audit keygen --help")
    return found


def _private_context(recipient: Recipient) -> bytes:
    return b"cloche/keys/v1/private\x00" + recipient.key_id


def _stretch(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    """32 bytes of key from a passphrase."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf: Callable[..., Any] = Argon2id
    argon = kdf(salt=salt, length=32, iterations=cost.iterations, lanes=cost.lanes, memory_cost=cost.memory_kib)
    return bytes(argon.derive(passphrase))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
