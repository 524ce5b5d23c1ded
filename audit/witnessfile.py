"""The file of a witness's state: who may read it, who has signed it, and who may change it at a time."""

import base64
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audit.cosignature import Cosigner, WitnessKey
from audit.errors import BadInput, IntegrityFailure, Refused, storage
from audit.watched import Watched

KIND = "cloche witness state"
"""What the file says it is."""
FORMAT = 1
"""Version of its JSON."""
_SEAL = b"cloche/witness-state/v1\n"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file meanwhile; the lock is on its folder, so that nothing is left over."""
    with storage(path):
        lock = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def read(path: Path) -> dict[str, Any]:
    """The JSON of a state whose signature is good.

    Raises:
        BadInput: there is none, or it is damaged.
        Refused: others may read it, or a newer version made it.
        IntegrityFailure: it was changed without the witness's key.
    """
    hint = "take the copy of your last backup"
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except OSError as error:
        raise BadInput(
            f"the witness state cannot be read: {error.strerror}",
            where=str(path),
            hint="cloche audit witness --state FILE --pin log.pub makes one",
        ) from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise Refused("the witness state can be read by others, or is no plain file", where=str(path),
                      hint=f"chmod 600 {path}")  # fmt: skip
    try:
        found: dict[str, Any] = json.loads(data)
        if found["kind"] != KIND:
            raise ValueError("kind")
        if found["format"] > FORMAT:
            raise Refused("a newer version of Cloche made this witness state", where=str(path), hint="install that one")
        key = WitnessKey.from_text(found["public"])
        signature = base64.b64decode(found["signature"], validate=True)
        sealed = _sealed_bytes(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadInput) as error:
        raise BadInput("this is no witness state, or it is damaged", where=str(path), hint=hint) from error
    if not _good(key, signature, sealed):
        raise IntegrityFailure("the witness state was changed by somebody else", where=str(path), hint=hint)
    return found


def _good(key: WitnessKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (ValueError, InvalidSignature):
        return False
    return True


def signed(found: Mapping[str, Any], cosigner: Cosigner) -> dict[str, Any]:
    """The state with a fresh signature."""
    return {**found, "signature": base64.b64encode(cosigner.sign(_sealed_bytes(found))).decode()}


def _sealed_bytes(found: Mapping[str, Any]) -> bytes:
    """What the signature of the state covers: all but the readings, as canonical JSON under a label."""
    logs = {origin: Watched.from_dict(one).sealed() for origin, one in found["logs"].items()}
    if any(origin != one["key"].partition("+")[0] for origin, one in logs.items()):
        raise BadInput("a log stands under another name")
    covered = {"format": found["format"], "public": found["public"], "private": found["private"], "logs": logs}
    return _SEAL + json.dumps(covered, sort_keys=True, separators=(",", ":")).encode()


def encode(found: Mapping[str, Any]) -> bytes:
    """The bytes of the file."""
    return json.dumps(found, indent=1).encode() + b"\n"
