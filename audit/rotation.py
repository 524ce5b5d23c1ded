"""What happens to a log's key: it is handed over (one origin, two keys), or replaced by a new origin.

Both leave a signed note in clear in the log, so that anyone who pinned the first key can follow. Their texts:

    cloche/key-rotation/v1        cloche/new-origin/v1
    <origin>                      <new origin>
    <size>                        <reason: lost, stolen or restored>
    <base64 of the root>          <old origin>
    <line of the old key>         <size>
    <line of the new key>         <base64 of the root>
                                  <line of the old key>
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from audit.checkpoint import Checkpoint, Signer, VerifierKey, open_note, open_text
from audit.errors import BadInput, IntegrityFailure

REASONS = ("lost", "stolen", "restored")
"""Why a log begins anew."""
_ROTATION, _ORIGIN = "cloche/key-rotation/v1", "cloche/new-origin/v1"


@dataclass(frozen=True)
class Rotation:
    """One key handing the log over to the next."""

    checkpoint: Checkpoint
    """Where: from this size on the new key signs."""
    old: VerifierKey
    """Who signed so far."""
    new: VerifierKey
    """Who signs from here on."""

    def sign(self, old: Signer, new: Signer) -> bytes:
        """The note of the rotation, signed by both keys."""
        text = f"{_ROTATION}\n".encode() + self.checkpoint.body() + _lines(self.old.to_text(), self.new.to_text())
        return old.sign_text(text) + new.sign_text(text).removeprefix(text + b"\n")

    @classmethod
    def open(cls, note: bytes) -> Self:
        """The rotation of a note that both its keys have signed. Raises IntegrityFailure."""
        try:
            kind, origin, size, root, old, new = note.partition(b"\n\n")[0].decode().split("\n")
            found = cls(
                Checkpoint.from_body(f"{origin}\n{size}\n{root}\n".encode()),
                VerifierKey.from_text(old),
                VerifierKey.from_text(new),
            )
        except (ValueError, BadInput) as error:
            raise IntegrityFailure("a key rotation of the log is damaged") from error
        if kind != _ROTATION or {found.old.name, found.new.name} != {origin} or found.old == found.new:
            raise IntegrityFailure("a key rotation of the log is damaged")
        for key in (found.old, found.new):
            open_text(note, key)
        return found


@dataclass(frozen=True)
class KeyChain:
    """The keys of one log, each with the size from which on it signs."""

    rotations: tuple[Rotation, ...]
    """In order; empty for a log whose first key still signs."""
    first: VerifierKey
    """The key that the log began with."""

    @classmethod
    def of(cls, pinned: VerifierKey, notes: Iterable[bytes]) -> Self:
        """The chain that the rotation notes of a log make, if the pinned key is a link of it.

        Each link is signed by its two keys, so that a link vouches for those after it, and for those before.

        Raises:
            IntegrityFailure: a note is not signed, the notes do not join, or the pinned key is none of them.
        """
        rotations = tuple(Rotation.open(note) for note in notes)
        chain = cls(rotations, rotations[0].old if rotations else pinned)
        for one, next_ in zip(rotations, rotations[1:], strict=False):
            if one.new != next_.old or one.checkpoint.size >= next_.checkpoint.size:
                raise IntegrityFailure("the key rotations of the log do not follow from each other")
        if pinned not in chain.keys:
            raise IntegrityFailure("the pinned key never handed over to the key that signs the log")
        return chain

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """All keys, the oldest first."""
        return (self.first, *(rotation.new for rotation in self.rotations))

    @property
    def newest(self) -> VerifierKey:
        """The key that signs now."""
        return self.keys[-1]

    def at(self, size: int) -> VerifierKey:
        """The key whose signature counts under a checkpoint of `size`."""
        return self.keys[sum(rotation.checkpoint.size <= size for rotation in self.rotations)]

    def open(self, note: bytes) -> Checkpoint:
        """The checkpoint of a note, signed by the key of its size. Raises IntegrityFailure."""
        try:
            size = Checkpoint.from_body(note.partition(b"\n\n")[0]).size
        except BadInput as error:
            raise IntegrityFailure("a signed note is no checkpoint") from error
        return open_note(note, self.at(size))


@dataclass(frozen=True)
class Predecessor:
    """The log that a new origin goes on from."""

    origin: str
    """Name of the new log."""
    reason: str
    """One of `REASONS`."""
    checkpoint: Checkpoint
    """The last one of the old log that is vouched for."""
    key: VerifierKey
    """The old log's key."""

    def sign(self, new: Signer) -> bytes:
        """The note, signed by the new log's key."""
        head = _lines(_ORIGIN, self.origin, self.reason)
        return new.sign_text(head + self.checkpoint.body() + _lines(self.key.to_text()))

    @classmethod
    def open(cls, note: bytes, key: VerifierKey) -> Self:
        """The predecessor in a note that the new log's first key has signed. Raises IntegrityFailure."""
        try:
            kind, origin, reason, *body, old = open_text(note, key).decode().removesuffix("\n").split("\n")
            checkpoint = Checkpoint.from_body("\n".join([*body, ""]).encode())
            found = cls(origin, reason, checkpoint, VerifierKey.from_text(old))
        except (ValueError, BadInput) as error:
            raise IntegrityFailure("the note about the log's predecessor is damaged") from error
        fits = len(body) == 3 and checkpoint.origin == found.key.name and origin.endswith(_suffix(checkpoint))
        if kind != _ORIGIN or reason not in REASONS or origin != key.name or not fits:
            raise IntegrityFailure("the note about the log's predecessor is damaged")
        return found


def new_origin(after: Checkpoint | None = None) -> str:
    """A fresh name for a log; that of a log which goes on from another names its last checkpoint."""
    return f"cloche/log/{secrets.token_hex(8)}" + (_suffix(after) if after else "")


def has_predecessor(origin: str) -> bool:
    """Whether a log of this name goes on from another: then the note that says so must be there."""
    return "~" in origin


def _suffix(checkpoint: Checkpoint) -> str:
    return "~" + sha256(checkpoint.body()).hexdigest()[:16]


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
