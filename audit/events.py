"""What an audit event says: who did what to which records, why, and how it ended.

An event becomes canonical JSON (sorted keys, no spaces, UTF-8; what is unknown is left out) before it is padded and
sealed. `audit.kinds` lists the kinds, `audit.fhir` gives an event the form that hospital archives take in.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, NoReturn

from audit.actor import Actor
from audit.bounds import line
from audit.errors import BadInput, Refused
from audit.kinds import DETAIL, KINDS, OUTCOMES, PURPOSES, Kind

__all__ = ["DETAIL", "KINDS", "OUTCOMES", "PURPOSES", "SCHEMA", "Event", "Kind"]
SCHEMA = 1
"""Version of the event's JSON."""
_ALWAYS = {"schema", "kind", "actor", "purpose", "outcome", "patients", "objects", "activity", "detail", "at", "clock"}
_WHERE_KNOWN = {"reason", "software"}
_LINES = {"source", "to", "recipient", "address", "description", "method", "change", "command", "findings"}
"""Keys of `DETAIL` that hold text which a person may have typed."""
_DIGESTS = {"before", "after"}
_CHECKED = _LINES | _DIGESTS | {"follows"}
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Event:
    """One thing that was done.

    Raises:
        BadInput: there is no such kind or outcome, or a field is longer than it may be.
        Refused: there is no such purpose.
    """

    kind: str
    """A key of `KINDS`."""
    actor: Actor
    """Who did it."""
    purpose: str = "HOPERAT"
    """Why: a key of `PURPOSES`."""
    outcome: str = ""
    """How it ended: a key of `OUTCOMES`; left empty, it becomes what the kind says."""
    patients: tuple[str, ...] = ()
    """Pseudonyms of the patients whose data it touched."""
    objects: tuple[str, ...] = ()
    """Ids of the objects, or of the records, that it touched."""
    activity: str = ""
    """What it was part of, in a few words: ``train``, ``ask`` ..."""
    reason: str = ""
    """Why it was done, or why it failed: a code or a short sentence, with nothing of a record in it."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Further facts as JSON values: counts, digests, run ids; `DETAIL` has the keys that mean the same everywhere.
    It is sealed, yet no place for captions or names."""
    software: str = ""
    """Version and digest of the software that acted; the log fills it in."""
    at: str = ""
    """UTC time, RFC 3339 with microseconds; the log fills it in."""
    clock: str = ""
    """Boot id and monotonic nanoseconds: order within one boot where the wall clock was set. The log fills it in."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"there is no kind of event called {self.kind!r}", where="audit/kinds.py, KINDS")
        if self.purpose not in PURPOSES:
            raise Refused(
                f"there is no purpose of use called {self.purpose!r}", hint=f"name one of {', '.join(PURPOSES)}"
            )
        if not self.outcome:
            object.__setattr__(self, "outcome", KINDS[self.kind].outcome)
        if self.outcome not in OUTCOMES:
            raise BadInput(f"there is no outcome called {self.outcome!r}", where="audit/kinds.py, OUTCOMES")
        if KINDS[self.kind].fails and self.outcome == "success":
            raise BadInput(f"an event of kind {self.kind} tells of a failure and cannot end in success")
        self._check_bounds()

    def _check_bounds(self) -> None:
        """See that no field is larger than it may be."""
        for names, what in ((self.patients, "patients"), (self.objects, "objects")):
            for name in names:
                line(what, name, 128, empty=False)
        line("activity", self.activity, 100)
        line("reason", self.reason, 200)
        line("software", self.software, 200)
        line("clock", self.clock, 100)
        if self.at and not _is_time(self.at):
            raise BadInput("an event's time is not UTC as in 2030-01-02T03:04:05.000006Z", where="at")
        for key in _CHECKED.intersection(self.detail):
            value = self.detail[key]
            if key in _LINES:
                line(key, value, 500)
            elif key in _DIGESTS and not (type(value) is str and _DIGEST.fullmatch(value)):
                raise BadInput("this must be a SHA-256 in hex", where=f"an event's {key}")
            elif key == "follows" and not _are_sequences(value):
                raise BadInput("this must be a list of sequences in the log", where="an event's follows")

    def stamped(self) -> "Event":
        """The event with its time and the software that acted, where it has none yet."""
        from audit.software import acting

        missing: dict[str, Any] = {} if self.software else {"software": acting()}
        if not self.at:
            missing["at"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
            missing["clock"] = f"{_boot_id()} {time.monotonic_ns()}"
        return replace(self, **missing) if missing else self

    def encode(self) -> bytes:
        """Canonical JSON of the event. Raises BadInput where `detail` is no JSON."""
        found = {"schema": SCHEMA, **self.to_dict()}
        try:
            text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            return text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput(f"an event's detail cannot be written as JSON: {error}", where=self.kind) from error

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON values; what is not known is not in it."""
        actor: dict[str, Any] = {"user": self.actor.user, "role": self.actor.role}
        if self.actor.uid is not None:
            actor["uid"] = self.actor.uid
        if self.actor.hospital_id:
            actor["hospital_id"] = self.actor.hospital_id
        found: dict[str, Any] = {
            "kind": self.kind,
            "actor": actor,
            "purpose": self.purpose,
            "outcome": self.outcome,
            "patients": list(self.patients),
            "objects": list(self.objects),
            "activity": self.activity,
            "reason": self.reason,
            "detail": dict(self.detail),
            "software": self.software,
            "at": self.at,
            "clock": self.clock,
        }
        return {key: value for key, value in found.items() if value or key not in _WHERE_KNOWN}

    @classmethod
    def decode(cls, data: bytes) -> "Event":
        """The event of `encode`'s bytes. Raises BadInput where they are not one."""
        try:
            found = json.loads(data, parse_constant=_no_number, parse_float=_finite)
            if type(found["schema"]) is not int or found["schema"] != SCHEMA:
                raise BadInput(
                    f"the event has schema {found['schema']}, this version reads {SCHEMA}",
                    hint="read the log with the version of Cloche that wrote it",
                )
            if not _ALWAYS <= found.keys() <= _ALWAYS | _WHERE_KNOWN:
                raise ValueError("a field is missing, or there is one too many")
            lists = type(found["patients"]) is list and type(found["objects"]) is list
            if not lists or type(found["detail"]) is not dict or not found["outcome"]:
                raise ValueError("a field is of another type")
            del found["schema"]
            found["patients"], found["objects"] = tuple(found["patients"]), tuple(found["objects"])
            found["actor"] = Actor(**found["actor"])
            return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Refused) as error:
            raise BadInput("these bytes are not an audit event") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _is_time(text: object) -> bool:
    """Whether this is a time of UTC that there has been or will be."""
    if type(text) is not str or not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _are_sequences(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(type(one) is int and one >= 0 for one in value)


@cache
def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"
