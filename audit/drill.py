"""The drill: each recipient proves, before it matters, that the log could be read with the key that is in the safe.

The box seals a fresh secret to every recipient (a *challenge*); who has a private key answers on another machine; the
box records who has answered. The box keeps only what checks an answer, not what makes one.
"""

import base64
import fcntl
import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from audit.errors import BadInput, IntegrityFailure, Refused
from audit.files import replace_file
from audit.keys import KeyPair, Recipient
from audit.sealing import open_with, seal_to

BOOK_FILE = "drills.json"
"""Name inside home/audit."""
_CHALLENGE, _ANSWER, _BOOK = "cloche drill, challenge", "cloche drill, answer", "cloche drills"
_COMMIT = b"cloche/drill/v1/commitment\x00"
_INFO = b"cloche/drill/v1/challenge\x00"
_PROOF = b"cloche/drill/v1/answer\x00"
_CHECK = b"cloche/drill/v1/check\x00"
_MOST_OPEN = 16
"""Challenges that the book keeps; the oldest falls out."""
_MOST_BYTES = 256 * 1024
_HINT = "take an undamaged copy of it, or a new one: cloche audit drill challenge"


@dataclass(frozen=True)
class Challenge:
    """A secret sealed to every recipient."""

    id: bytes
    """16 random bytes."""
    origin: str
    """The log whose recipients are challenged."""
    made: str
    """When, UTC."""
    commitment: bytes
    """SHA-256(label | secret): every recipient sees that all were given the same."""
    sealed: Mapping[bytes, bytes]
    """Key id -> the secret, sealed to that key."""

    @classmethod
    def make(cls, origin: str, recipients: Sequence[Recipient], made: str) -> tuple[Self, dict[bytes, bytes]]:
        """A challenge, and what checks the answer of each key id. Raises BadInput for a damaged public key."""
        secret, id_ = secrets.token_bytes(32), secrets.token_bytes(16)
        commitment = sha256(_COMMIT + secret).digest()
        info = _context(id_, origin, commitment)
        sealed = {one.key_id: seal_to(one, secret, info) for one in recipients}
        checks = {one.key_id: _check(_proof(secret, id_, one.key_id)) for one in recipients}
        return cls(id_, origin, made, commitment, sealed), checks

    def answer(self, pair: KeyPair) -> "Answer":
        """The answer that only the private key can give.

        Raises:
            Refused: the challenge is not for this key.
            IntegrityFailure: it was changed, or its secret is not the one it promises to all.
        """
        from cryptography.exceptions import InvalidTag

        key_id = pair.recipient.key_id
        if key_id not in self.sealed:
            raise Refused(
                "this challenge is not for this key", where=pair.recipient.name, hint="cloche audit recipient list"
            )
        try:
            secret = open_with(pair, self.sealed[key_id], _context(self.id, self.origin, self.commitment))
        except (InvalidTag, ValueError) as error:
            raise IntegrityFailure("the challenge does not open with this key", hint=_HINT) from error
        if sha256(_COMMIT + secret).digest() != self.commitment:
            raise IntegrityFailure("the challenge's secret is not the one that it promises to all", hint=_HINT)
        return Answer(self.id, key_id, _proof(secret, self.id, key_id))

    def to_bytes(self) -> bytes:
        """The challenge as a JSON file."""
        sealed = {key_id.hex(): base64.b64encode(one).decode() for key_id, one in self.sealed.items()}
        return _file(
            {
                "kind": _CHALLENGE,
                "id": self.id.hex(),
                "origin": self.origin,
                "made": self.made,
                "commitment": self.commitment.hex(),
                "sealed": sealed,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """The challenge in a file. Raises BadInput."""
        found = _read(data, _CHALLENGE, where)
        try:
            sealed = {_hex(key_id, 16): base64.b64decode(one, validate=True) for key_id, one in found["sealed"].items()}
            origin, made = str(found["origin"]), str(found["made"])
            return cls(_hex(found["id"], 16), origin, made, _hex(found["commitment"], 32), sealed)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput("this challenge is damaged", where=where, hint=_HINT) from error


@dataclass(frozen=True)
class Answer:
    """The proof that somebody has a private key."""

    challenge: bytes
    """Id of the challenge."""
    key_id: bytes
    """Whose key it is."""
    proof: bytes
    """HMAC-SHA256 of the secret over label, challenge and key id."""

    def to_bytes(self) -> bytes:
        """The answer as a JSON file."""
        return _file(
            {
                "kind": _ANSWER,
                "challenge": self.challenge.hex(),
                "key_id": self.key_id.hex(),
                "proof": self.proof.hex(),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """The answer in a file. Raises BadInput."""
        found = _read(data, _ANSWER, where)
        try:
            return cls(_hex(found["challenge"], 16), _hex(found["key_id"], 16), _hex(found["proof"], 32))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("this answer is damaged", where=where, hint="answer the challenge again") from error


class Book:
    """Which challenges are open, and who answered last: key ids, times and hashes, under a mark of the appliance."""

    def __init__(self, path: Path, mark: Callable[[bytes], bytes]) -> None:
        """Name the book; `mark` is the appliance's HMAC, so that a changed book is told."""
        self._path, self._mark = path, mark

    def drilled(self) -> dict[str, str]:
        """Key id (hex) -> when its last drill was recorded, UTC. Raises IntegrityFailure."""
        return {key_id: one["at"] for key_id, one in self._load()["drilled"].items()}

    def open(self, challenge: Challenge, checks: Mapping[bytes, bytes]) -> None:
        """Expect the answers to a challenge. Raises IntegrityFailure, EnvironmentProblem."""
        with self._alone():
            book = self._load()
            book["open"].append(
                {
                    "id": challenge.id.hex(),
                    "made": challenge.made,
                    "checks": {key_id.hex(): check.hex() for key_id, check in checks.items()},
                }
            )
            book["open"] = book["open"][-_MOST_OPEN:]
            self._save(book)

    def settle(self, answer: Answer, at: str, record: Callable[[str], object]) -> bool:
        """Check an answer, record it by `record(when the challenge was made)`, and note it.

        Returns:
            False, and nothing is recorded, where this very answer stands in the book already.

        Raises:
            Refused: no challenge waits for it, or it is wrong.
            IntegrityFailure: the book was changed. Whatever `record` raises: then nothing is noted.
        """
        challenge, key_id = answer.challenge.hex(), answer.key_id.hex()
        with self._alone():
            book = self._load()
            check = _check(answer.proof).hex()
            before = book["drilled"].get(key_id, {})
            if hmac.compare_digest(before.get("check", ""), check):
                return False
            for one in book["open"]:
                if one["id"] == challenge and hmac.compare_digest(one["checks"].get(key_id, ""), check):
                    record(one["made"])
                    del one["checks"][key_id]
                    book["drilled"][key_id] = {"at": at, "check": check}
                    book["open"] = [one for one in book["open"] if one["checks"]]
                    self._save(book)
                    return True
        raise Refused(
            "no challenge of this appliance waits for this answer, or the answer is wrong",
            hint="cloche audit drill challenge makes a new one",
        )

    def _load(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._path.read_bytes())
            intact = hmac.compare_digest(str(found.pop("mark")), self._marked(found))
        except FileNotFoundError:
            return {"kind": _BOOK, "open": [], "drilled": {}}
        except (ValueError, KeyError, TypeError, AttributeError):
            intact = False
        if not intact:
            raise IntegrityFailure(
                "the book of drills was changed by another hand",
                where=str(self._path),
                hint="move it away and hold the drills again; those that were recorded stand in the log",
            )
        return found

    def _save(self, book: dict[str, Any]) -> None:
        replace_file(self._path, _file({**book, "mark": self._marked(book)}), mode=0o600)

    def _marked(self, book: dict[str, Any]) -> str:
        return self._mark(json.dumps(book, sort_keys=True).encode()).hex()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process after the other; the directory is what they lock, as the book itself is replaced."""
        handle = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _context(id_: bytes, origin: str, commitment: bytes) -> bytes:
    """What the sealed secret is bound to; no opening of a segment can pass for a challenge."""
    return _INFO + id_ + sha256(origin.encode()).digest() + commitment


def _proof(secret: bytes, id_: bytes, key_id: bytes) -> bytes:
    return hmac.new(secret, _PROOF + id_ + key_id, sha256).digest()


def _check(proof: bytes) -> bytes:
    return sha256(_CHECK + proof).digest()


def _file(found: dict[str, Any]) -> bytes:
    return json.dumps(found, indent=2).encode() + b"\n"


def _read(data: bytes, kind: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(data[: _MOST_BYTES + 1]) if len(data) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise BadInput(f"this is no file of the kind {kind!r}", where=where, hint="cloche audit drill --help")
    return found


def _hex(text: str, length: int) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != length:
        raise ValueError("length")
    return data
