"""What a witness keeps about one log: the pinned key, the last checkpoint it cosigned, the readings to be carried."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from audit.bounds import line
from audit.checkpoint import VerifierKey
from audit.errors import BadInput, Refused
from audit.rotation import KeyChain

MOST_READ_BYTES = 16_384
"""Bytes of one reading's detail at most: it becomes an event, and has to fit into one."""
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z", re.ASCII)


@dataclass(frozen=True)
class Read:
    """One reading of a log on a machine that is not the appliance."""

    number: int
    """1, 2, 3 ... for this witness and log: the appliance takes each one once."""
    at: str
    """UTC time of the reading, RFC 3339."""
    user: str
    """Who read: the account on that machine."""
    command: str
    """With which command, such as ``audit show``."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Range (`from`, `until`), filters, `findings`, as JSON values; `patient` or `patients` name whom it was about.
    It stands in clear: pseudonyms at most, no name, no hospital number."""

    def __post_init__(self) -> None:
        if not _TIME.fullmatch(self.at) or self.number < 1:
            raise BadInput("this is no record of a reading")
        line("user", self.user, 128, empty=False)  # the bounds of an event: what passes here can be logged there
        line("command", self.command, 500, empty=False)
        for patient in self.patients:
            line("patients", patient, 128, empty=False)
        line("findings", self.detail.get("findings", ""), 500)
        try:
            text = json.dumps(dict(self.detail), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BadInput("the detail of a reading cannot be written as JSON") from error
        if len(text) + len(self.user) + len(self.command) > MOST_READ_BYTES:
            raise BadInput(f"the detail of a reading is longer than {MOST_READ_BYTES:,} bytes")

    @property
    def patients(self) -> tuple[str, ...]:
        """Pseudonyms that it was about, from `detail`: ``patient`` or ``patients``."""
        found = [self.detail.get("patient"), *_list(self.detail.get("patients"))]
        return tuple(dict.fromkeys(one for one in found if isinstance(one, str) and one))

    def to_dict(self) -> dict[str, Any]:
        """The reading as JSON values."""
        return {**vars(self), "detail": dict(self.detail)}

    @classmethod
    def from_dict(cls, found: Any) -> Self:
        """The reading of `to_dict`. Raises BadInput."""
        try:
            number, at, user, command, detail = (found[name] for name in ("number", "at", "user", "command", "detail"))
        except (KeyError, TypeError) as error:
            raise BadInput("this is no record of a reading") from error
        texts = isinstance(at, str) and isinstance(user, str) and isinstance(command, str)
        if type(number) is not int or not texts or not isinstance(detail, dict):
            raise BadInput("this is no record of a reading")
        return cls(number, at, user, command, detail)


@dataclass(frozen=True)
class Watched:
    """One log that a witness watches."""

    key: VerifierKey
    """The key that was pinned, at the appliance's installation or when it began anew."""
    rotations: tuple[bytes, ...] = ()
    """Notes by which it handed the log over to others since, each signed by both keys."""
    cosigned: bytes = b""
    """The last checkpoint that was cosigned, with the cosignature; empty before the first."""
    predecessor: bytes = b""
    """The note that names the log before it; empty for an appliance's first."""
    successor: str = ""
    """Origin of the log that goes on from it; nothing is cosigned for it any more."""
    reads: tuple[Read, ...] = ()
    """Readings, in order of their numbers."""
    carried: int = 0
    """Number of the last reading that the appliance has taken."""
    erasures: bytes = b""
    """The newest erasure list that was shown; empty while nobody was forgotten."""

    @property
    def chain(self) -> KeyChain:
        """The log's keys, from the pinned one on. Raises IntegrityFailure."""
        return KeyChain.of(self.key, self.rotations)

    @property
    def waiting(self) -> tuple[Read, ...]:
        """Readings that the appliance does not know of yet."""
        return tuple(one for one in self.reads if one.number > self.carried)

    def reading(self, at: str, user: str, command: str, detail: Mapping[str, Any]) -> Self:
        """The same with one more reading. Raises BadInput."""
        number = self.reads[-1].number + 1 if self.reads else self.carried + 1
        return replace(self, reads=(*self.reads, Read(number, at, user, command, detail)))

    def acknowledged(self, number: int) -> Self:
        """The same once the appliance has taken readings up to `number`. Raises Refused for one it cannot have."""
        if number > (self.reads[-1].number if self.reads else self.carried):
            raise Refused("the receipt is about readings that this witness never had", where=self.key.name)
        return replace(self, carried=max(number, self.carried))

    def sealed(self) -> dict[str, Any]:
        """What the witness's own signature covers: all that decides what it cosigns."""
        listed = {"erasures": self.erasures.decode()} if self.erasures else {}  # states of before have none
        return {
            **listed,
            "key": self.key.to_text(),
            "rotations": [note.decode() for note in self.rotations],
            "cosigned": self.cosigned.decode(),
            "predecessor": self.predecessor.decode(),
            "successor": self.successor,
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**self.sealed(), "reads": [one.to_dict() for one in self.reads], "carried": self.carried}

    @classmethod
    def from_dict(cls, found: Any) -> Self:
        """What `to_dict` gave. Raises BadInput, and KeyError, TypeError, ValueError or AttributeError for damage."""
        reads = tuple(Read.from_dict(one) for one in found["reads"])
        if type(found["carried"]) is not int or [one.number for one in reads] != sorted({one.number for one in reads}):
            raise BadInput("the readings are out of order")
        return cls(
            key=VerifierKey.from_text(found["key"]),
            rotations=tuple(note.encode() for note in found["rotations"]),
            cosigned=found["cosigned"].encode(),
            predecessor=found["predecessor"].encode(),
            successor=str(found["successor"]),
            reads=reads,
            carried=found["carried"],
            erasures=found.get("erasures", "").encode(),
        )


def utc(posix: int) -> str:
    """A POSIX time in RFC 3339, UTC."""
    try:
        return datetime.fromtimestamp(posix, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # past the year 9999: signed by a clock that was far off
        return f"{posix} s after 1970"


def _list(found: object) -> list[object]:
    return found if isinstance(found, list) else []
