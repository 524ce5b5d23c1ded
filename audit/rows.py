"""Rows of the catalogue, as values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Data = bytes | Path | Iterable[bytes]
"""What an object is made of: its bytes, a file to read them from, or pieces as they come."""
Note = Mapping[str, str | int | float]
"""Metadata that is kept plain: counts and digests, nothing about a patient."""


@dataclass(frozen=True)
class StoredObject:
    """One encrypted object."""

    id: str
    """26 letters and digits, random."""
    kind: str
    """``image``, ``report``, ``features``, ``manifest``, ``adapter`` ..."""
    patient: str
    """Pseudonym, or empty where the object belongs to no single patient."""
    size: int
    """Bytes of plaintext."""
    digest: str
    """SHA-256 of the object's file (ciphertext), hex."""
    salt: bytes
    """32 random bytes; key and commitment of the object derive from it."""
    version: int
    """Version of the object's format and key."""
    created: str
    """UTC, RFC 3339."""
    note: Note = field(default_factory=dict)
    """Plain metadata."""
    deleted: str = ""
    """When its file was deleted, UTC; empty while it is there. The row stays: lineage outlives the data."""


@dataclass(frozen=True)
class Record:
    """One image with its report, as it came in."""

    id: str
    """Random, unless the caller names it."""
    patient: str
    """Pseudonym."""
    image: str
    """Object id of the image."""
    report: str
    """Object id of the report or caption."""
    source_digest: str
    """Keyed digest of what came in (`Vault.fingerprint`): the same record is not taken twice."""
    split: str
    """``train``, ``held-out`` ..."""
    created: str = ""
    """UTC, RFC 3339."""
    consent: str = ""
    """Consent tags of the policy, sorted, with spaces between; empty where none is known. See `policy`."""
    expires: str = ""
    """Last day on which the consent holds, ``2031-12-31``; empty where it has no end."""
    source: str = ""
    """Name of the system that it came from; empty where none was named."""


@dataclass(frozen=True)
class Run:
    """One run: a synthesis, a training, an evaluation ..."""

    id: str
    """``run-`` and 10 letters and digits."""
    kind: str
    """``synth``, ``train``, ``align``, ``evaluate``, ``export`` ..."""
    state: str
    """``running``, ``done`` or ``failed``."""
    config: Mapping[str, Any]
    """Its settings."""
    seed: int
    """Its random seed."""
    manifest_root: str
    """Merkle root of the records that went in, hex; empty where none did."""
    created: str
    """UTC, RFC 3339."""
    finished: str
    """UTC, RFC 3339; empty while it runs."""
    result: Mapping[str, Any]
    """What came out, in figures."""


@dataclass(frozen=True)
class Model:
    """One model or adapter."""

    id: str
    """``model-`` and 10 letters and digits, unless the caller names it."""
    kind: str
    """``base``, ``synthesizer``, ``adapter``, ``gguf`` ..."""
    objects: tuple[str, ...]
    """Object ids of its files."""
    parent_model: str
    """Id of the model that it was made from; empty for a base."""
    manifest_root: str
    """Merkle root of the records that it saw, hex; empty where it saw none."""
    run: str
    """Id of the run that made it; empty where none did."""
    created: str
    """UTC, RFC 3339."""
    note: Mapping[str, Any] = field(default_factory=dict)
    """Plain metadata."""


@dataclass(frozen=True)
class NewObject:
    """Something to put into the vault."""

    kind: str
    """``image``, ``report``, ``features``, ``manifest``, ``adapter`` ..."""
    data: Data
    """Its bytes, a file to read them from (large models), or pieces."""
    patient: str | None = None
    """Pseudonym of the one patient it belongs to; None where there is no single one."""
    parents: Sequence[str] = ()
    """Ids of the objects that it was made from."""
    note: Note = field(default_factory=dict)
    """Counts and digests to keep in plain; nothing about a patient."""
