"""The erasure list: who was forgotten, so that no older copy of the appliance brings anybody back.

It names patients by a keyed mark only. It is a note that the log's key has signed, it cites the checkpoint under which
it was made, and it travels with whatever leaves the box for the witness; a restore demands it and applies it.

    cloche/erasures/v1
    cloche/log/6f0c...
    {"checkpoint": "...", "erasures": [...], "key": "...", "rotations": [...]}

    — cloche/log/6f0c... <signature>
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from audit.checkpoint import Signer, VerifierKey, open_text
from audit.errors import BadInput, IntegrityFailure
from audit.rotation import KeyChain

FILE = Path("audit", "erasures")
"""The list in the home; there is none as long as nobody was forgotten."""
MARK = "erased"
"""Label under which a pseudonym's mark is made (`Vault.mark`)."""
MOST_BYTES = 64 << 20
"""Bytes of a list at most."""
_LABEL = "cloche/erasures/v1"
_MARK = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Erasure:
    """One patient who was forgotten."""

    mark: str
    """HMAC of the pseudonym under the appliance's naming key, hex."""
    at: str
    """When, UTC."""
    origin: str
    """Name of the log that has the event about it."""
    sequence: int
    """The event's place in that log."""

    def __post_init__(self) -> None:
        if not _MARK.fullmatch(self.mark) or type(self.sequence) is not int or self.sequence < 0:
            raise ValueError("mark or sequence")


@dataclass(frozen=True)
class Erasures:
    """A whole list."""

    erasures: tuple[Erasure, ...] = ()
    """In the order in which they were made."""
    checkpoint: bytes = b""
    """The checkpoint, signed, under which the list was written; it covers every event that the list names."""
    key: VerifierKey | None = None
    """The log's key that signed it."""
    rotations: tuple[bytes, ...] = ()
    """How that key took over from those before it."""

    def of(self, mark: bytes) -> Erasure | None:
        """The erasure of a patient's mark, if there is one."""
        return next((one for one in self.erasures if one.mark == mark.hex()), None)

    def within(self, other: Self) -> bool:
        """Whether all of this list stands in the other: that one is as new, or newer."""
        return {one.mark for one in self.erasures} <= {one.mark for one in other.erasures}

    def sign(self, signer: Signer) -> bytes:
        """The file, signed with the log's key."""
        found = {
            "checkpoint": self.checkpoint.decode(),
            "erasures": [vars(one) for one in self.erasures],
            "key": signer.key.to_text(),
            "rotations": [note.decode() for note in self.rotations],
        }
        line = json.dumps(found, sort_keys=True, separators=(",", ":"))  # ASCII: no control characters in a note
        return signer.sign_text(f"{_LABEL}\n{signer.key.name}\n{line}\n".encode())

    @classmethod
    def open(cls, data: bytes, where: str) -> Self:
        """The list of a file, signed by the key that it names itself: hold that against a pin (`vouched`).

        Raises:
            BadInput: this is no erasure list. IntegrityFailure: it was changed.
        """
        try:
            label, origin, line = data.partition(b"\n\n")[0].decode().split("\n")
            found = json.loads(line)
            key = VerifierKey.from_text(found["key"])
            erasures = tuple(Erasure(**one) for one in found["erasures"])
            rotations = tuple(note.encode() for note in found["rotations"])
            made = cls(erasures, found["checkpoint"].encode(), key, rotations)
            if label != _LABEL or key.name != origin or len(data) > MOST_BYTES:
                raise ValueError("label")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadInput) as error:
            raise BadInput(
                "this is no erasure list", where=where, hint="take audit/erasures of the appliance's newest state"
            ) from error
        try:
            open_text(data, key, MOST_BYTES)
        except IntegrityFailure as error:
            raise IntegrityFailure(
                "the erasure list was changed: its signature is not good", where=where, hint="take an undamaged copy"
            ) from error
        return made

    @classmethod
    def load(cls, home: Path) -> Self:
        """The list of a home; an empty one where nobody was forgotten. Raises as `open`."""
        try:
            return cls.open((home / FILE).read_bytes(), str(home / FILE))
        except FileNotFoundError:
            return cls()

    def vouched(self, trusted: Iterable[VerifierKey]) -> bool:
        """Whether one of the keys that are trusted signed it, or handed the log over to the one that did."""
        if self.key is None:
            return False
        try:
            chain = KeyChain.of(self.key, self.rotations).keys
        except IntegrityFailure:
            return False
        return any(key in chain for key in trusted)


def read_list(home: Path) -> bytes:
    """The list's file as it lies in a home, to be carried away; empty where nobody was forgotten."""
    try:
        return (home / FILE).read_bytes()
    except FileNotFoundError:
        return b""


@dataclass(frozen=True)
class Forgetting:
    """A forgetting that was begun: it stands in the bag until it is done, or was taken back."""

    vault_key: bytes
    """The new key that wraps the patients' keys, 32 bytes."""
    patients: tuple[str, ...]
    """Pseudonyms of all identities of the patient."""
    objects: tuple[str, ...]
    """Ids of the objects that go: the patient's own, and shared ones that hold something of the patient's."""
    runs: tuple[str, ...]
    """Runs that are gone on with no more."""
    retired: tuple[str, ...]
    """Models that are retired."""
    kept: tuple[str, ...]
    """Models that are kept by a decision."""
    reason: str
    """Why they are kept."""
    at: str
    """When it was begun, UTC."""

    def __repr__(self) -> str:  # a key must not reach a traceback or a log
        return "Forgetting()"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for the bag alone."""
        return {**vars(self), "vault_key": self.vault_key.hex()}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        names = ("patients", "objects", "runs", "retired", "kept")
        patients, objects, runs, retired, kept = (tuple(found[name]) for name in names)
        key = bytes.fromhex(found["vault_key"])
        return cls(key, patients, objects, runs, retired, kept, str(found["reason"]), str(found["at"]))
