"""What goes with an exported model: a signed account of its files, where it comes from and what was measured.

The account is JSON. Its signature is a detached minisign file beside it, so that ``minisign -Vm model.json -P KEY``
verifies it on any machine, without Cloche. Source: jedisct1.github.io/minisign, "Signature format", prehashed form.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import BadInput, IntegrityFailure, Refused
from train.gguf.files import digest_of_file, replaced

FORMAT = 1
"""Version of the account."""
SUFFIX = ".minisig"
"""Ending of the signature beside a file."""
_KEY_ALGORITHM, _PREHASHED = b"Ed", b"ED"


@dataclass(frozen=True)
class FileEntry:
    """One file of the model."""

    name: str
    """Its name, beside the account."""
    sha256: str
    """Digest of its bytes, in hex."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Manifest:
    """The account of an exported model."""

    name: str
    """The model's name."""
    files: tuple[FileEntry, ...]
    """Its files."""
    base_digest: str
    """``digest_of`` the base directory."""
    adapter_digest: str | None
    """SHA-256 of the adapter; None where the base itself is exported."""
    data_root: str
    """Merkle root of the records it learned from, in hex; empty for none."""
    quantisation: str
    """Kind of the language model's matrices, such as ``Q8_0``."""
    parity: Mapping[str, Any]
    """How alike the GGUF and the merged model are: ``Parity.numbers``."""
    gates: Mapping[str, Any]
    """What each gate measured, its bound, and whether it was passed."""
    checkpoint: str
    """The log's signed checkpoint under which the model was exported."""
    licence: str
    """Licence of the base, and so of this model."""
    made_by: str
    """Cloche's version."""
    created: str
    """When, ISO 8601 in UTC."""

    def to_json(self) -> str:
        """The text that is signed."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "") -> "Manifest":
        """Read an account.

        Raises:
            BadInput: it is none.
            Refused: a newer version made it.
        """
        try:
            found = json.loads(text)
            version = found.pop("format")
            if isinstance(version, int) and version > FORMAT:
                raise Refused(f"a newer Cloche made this account: format {version}", where=where, hint="cloche doctor")
            files = tuple(FileEntry(str(f["name"]), str(f["sha256"]), int(f["size"])) for f in found.pop("files"))
            return cls(files=files, **found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput("this is no account of a model", where=where) from error


def entries(files: Sequence[Path]) -> tuple[FileEntry, ...]:
    """Digest and size of each file, by name."""
    return tuple(
        FileEntry(path.name, digest_of_file(path), path.stat().st_size) for path in sorted(files, key=lambda p: p.name)
    )


def sign(manifest: Manifest, out: Path, key: Ed25519PrivateKey) -> None:
    """Write the account to ``out`` and its signature beside it, the signature last."""
    text = manifest.to_json().encode()
    with replaced(out) as partial:
        partial.write_bytes(text)
    comment = f"timestamp:{manifest.created}\tfile:{out.name}\thashed"
    with replaced(out.with_name(out.name + SUFFIX)) as partial:
        partial.write_bytes(signature_of(text, key, comment))


def verify_file(path: Path, key: Ed25519PublicKey) -> Manifest:
    """Check an account's signature and every file that it names.

    Args:
        path: the account; its signature and the model's files lie beside it.
        key: whom to trust, taken from the officer's state and never from what is verified.

    Raises:
        BadInput: no account, or no signature beside it.
        IntegrityFailure: not signed by ``key``, or a file is missing or has changed.
    """
    try:
        text, signature = path.read_bytes(), path.with_name(path.name + SUFFIX).read_bytes()
    except OSError as error:
        raise BadInput(f"the account or its signature cannot be read: {error.strerror}", where=str(path)) from error
    check_signature(text, signature, key, where=str(path))
    manifest = Manifest.from_json(text.decode("utf-8", "replace"), str(path))
    for entry in manifest.files:
        file = path.parent / entry.name
        if Path(entry.name).name != entry.name:
            raise IntegrityFailure(f"the account names a file elsewhere: {entry.name}", where=str(path))
        if not file.is_file():
            raise IntegrityFailure(f"{entry.name} is missing", where=str(path.parent), hint="copy the model again")
        if file.stat().st_size != entry.size or digest_of_file(file) != entry.sha256:
            raise IntegrityFailure(f"{entry.name} is not the file that was signed", where=str(path.parent))
    return manifest


def key_id(key: Ed25519PublicKey) -> bytes:
    """Eight bytes that name a key in minisign's files: the head of its SHA-256, so that nothing more need be kept."""
    return hashlib.sha256(key.public_bytes_raw()).digest()[:8]


def public_key_text(key: Ed25519PublicKey) -> str:
    """The public key as minisign's ``-P`` takes it."""
    return base64.b64encode(_KEY_ALGORITHM + key_id(key) + key.public_bytes_raw()).decode()


def signature_of(data: bytes, key: Ed25519PrivateKey, comment: str) -> bytes:
    """A minisign signature file, prehashed with BLAKE2b; ``comment`` is signed too and is one line."""
    if "\n" in comment or "\r" in comment:
        raise ValueError("a trusted comment is one line")
    signature = key.sign(hashlib.blake2b(data).digest())
    both = key.sign(signature + comment.encode())
    lines = (
        "untrusted comment: signature of a model by Cloche",
        base64.b64encode(_PREHASHED + key_id(key.public_key()) + signature).decode(),
        f"trusted comment: {comment}",
        base64.b64encode(both).decode(),
    )
    return ("\n".join(lines) + "\n").encode()


def check_signature(data: bytes, signature: bytes, key: Ed25519PublicKey, where: str = "") -> str:
    """Verify a minisign signature file; gives its trusted comment.

    Raises:
        BadInput: it is no minisign signature.
        IntegrityFailure: another key, other data or another comment was signed.
    """
    try:
        _, first, comment, second = signature.decode().rstrip("\n").split("\n")
        packed, both = _unb64(first), _unb64(second)
        trusted = comment.removeprefix("trusted comment: ")
        if trusted == comment or len(packed) != 74 or packed[:2] != _PREHASHED or len(both) != 64:
            raise ValueError("not the prehashed form")
    except ValueError as error:
        raise BadInput("this is no minisign signature of the prehashed form", where=where) from error
    if packed[2:10] != key_id(key):
        raise IntegrityFailure("another key signed this", where=where, hint="compare the key with the one on paper")
    try:
        key.verify(packed[10:], hashlib.blake2b(data).digest())
        key.verify(both, packed[10:] + trusted.encode())
    except InvalidSignature as error:
        raise IntegrityFailure("the signature does not fit: the account was changed", where=where) from error
    return trusted


def _unb64(text: str) -> bytes:
    """Bytes of base64 text; only the one way to write them is taken. Raises ValueError."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the canonical base64")
    return data
