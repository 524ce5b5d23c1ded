"""Wrapped keys, one row each: a patient's, or a shared object's own.

A shared object (a packed data set, a checkpoint, a model) has a key of its own rather than a common one, so that one of
them can be destroyed without sealing all the others again.
"""

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

PATIENTS_FILE = "patients.sqlite"
"""Name inside home/keys."""
_PATIENT = b"cloche/vault/v1/patient\x00"
_OBJECT = "object/"


def _first(tables: "Database") -> None:
    """Wrapped keys by patient."""
    tables.table("patients").create({"patient": str, "wrapped": bytes}, pk="patient", not_null=["patient", "wrapped"])


MIGRATIONS = (_first,)
"""Of the database, see `database.connect`."""


def key_name(patient: str, object_id: str, version: int) -> str:
    """Under which name the key stands that an object's is derived from; version 1 had one for all shared objects."""
    return patient if patient or version < 2 else _OBJECT + object_id


def object_of(name: str) -> str:
    """The shared object whose key has this name; empty where it is a patient's."""
    return name.removeprefix(_OBJECT) if name.startswith(_OBJECT) else ""


def seal_key(vault_key: bytes, name: str, key: bytes) -> bytes:
    """A key, wrapped."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(12)
    return nonce + AESGCM(vault_key).encrypt(nonce, key, _PATIENT + name.encode())


def open_key(vault_key: bytes, name: str, wrapped: bytes) -> bytes | None:
    """The key, unwrapped; None where vault key, name or bytes are others."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(vault_key).decrypt(wrapped[:12], wrapped[12:], _PATIENT + name.encode())
    except (InvalidTag, ValueError):
        return None
