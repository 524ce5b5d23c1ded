"""A backup: the whole appliance in one file, sealed to the recovery holder, with the log's checkpoint in clear.

    CLOCHEBK | length (4) | header, JSON | the files, in the STREAM construction (audit/stream.py)

The header names the log, its checkpoint, and the holder; its `sealed` is a fresh secret for that key (HPKE). The files'
key is HKDF(secret, SHA-256 of the header): a changed header opens nothing. Inside, each file is a length (4), a line
of JSON (`path`, `size`) and its bytes; the last line has `end`, the number of files, and the objects that were
deleted while the backup was made.
"""

import base64
import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from audit import stream
from audit.actor import Actor
from audit.carry import copy_log
from audit.catalogue import now
from audit.checkpoint import Checkpoint
from audit.errors import BadInput, IntegrityFailure, Refused, storage
from audit.events import Event
from audit.home import CATALOGUE, DESCRIPTION, LOG, PIN
from audit.keys import KeyPair, Recipient
from audit.objects import READ_BYTES
from audit.patientkeys import PATIENTS_FILE
from audit.sealing import open_with, seal_to

if TYPE_CHECKING:
    from audit.vault import Vault

MAGIC = b"CLOCHEBK"
"""First bytes of a backup."""
FORMAT = 1
"""Version of the format; a newer one is refused."""
_INFO = b"cloche/backup/v1\x00"
_MOST_HEADER, _MOST_LINE = 1 << 20, 64 << 20
_NOT_COPIED = {LOG.name, "high-water", PATIENTS_FILE, "lock"}
"""Files of audit/ and keys/ that are copied in another way, or made anew."""


@dataclass(frozen=True)
class Header:
    """What a backup says in clear."""

    checkpoint: bytes
    """The log's checkpoint when the backup was made, signed: for a verifier, who needs no key of the backup's."""
    created: str
    """When, UTC."""
    recipient: str
    """Name of who can open it."""
    key_id: bytes
    """Id of that key."""
    sealed: bytes
    """A secret, sealed to that key."""

    def to_bytes(self) -> bytes:
        """The header with magic and length."""
        found = {
            "format": FORMAT,
            "checkpoint": self.checkpoint.decode(),
            "created": self.created,
            "recipient": self.recipient,
            "key_id": self.key_id.hex(),
            "sealed": base64.b64encode(self.sealed).decode(),
        }
        text = json.dumps(found, sort_keys=True).encode()
        return MAGIC + len(text).to_bytes(4, "big") + text

    @classmethod
    def read(cls, file: BinaryIO, where: str) -> tuple[Self, bytes]:
        """The header at the beginning of a file, and its bytes. Raises BadInput, or Refused for a newer format."""
        try:
            head = file.read(len(MAGIC) + 4)
            length = int.from_bytes(head[len(MAGIC) :], "big")
            if head[: len(MAGIC)] != MAGIC or len(head) != len(MAGIC) + 4 or length > _MOST_HEADER:
                raise ValueError("magic")
            text = file.read(length)
            found = json.loads(text)
            number = int(found["format"])
            made = cls(
                found["checkpoint"].encode(),
                str(found["created"]),
                str(found["recipient"]),
                bytes.fromhex(found["key_id"]),
                base64.b64decode(found["sealed"], validate=True),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInput("this is no backup of Cloche's", where=where, hint="cloche backup OUT makes one") from error
        if number > FORMAT:
            raise Refused("a newer version of Cloche made this backup", where=where, hint="install that version")
        return made, head + text


def holder(recipients: Iterable[Recipient]) -> Recipient:
    """Who a backup is sealed to: the recipient called recovery. Raises Refused where there is none."""
    found = next((one for one in recipients if one.name == "recovery"), None)
    if found is None:
        raise Refused(
            "no recipient of this appliance is called recovery, so nobody could restore the backup",
            hint="cloche audit keygen recovery on another machine, then cloche audit recipient add recovery.pub",
        )
    return found


def make(vault: "Vault", actor: Actor, to: str) -> Iterator[bytes]:
    """The backup's bytes, in pieces; the event about it is committed before the first.

    Others may go on working: the catalogue is copied first, then the keys, then objects, the log last, so that
    whatever the copy of the catalogue names has its key and its events in the backup.

    Args:
        vault: the vault, in the process that has its keys.
        actor: who makes it.
        to: name of the file, for the log.

    Raises:
        Refused: no recipient is called recovery. EnvironmentProblem: the disk refuses.
    """
    whom = holder(vault.recipients)
    detail = {"to": to, "recipient": whom.name, "key_id": whom.key_id.hex()}
    vault.record(Event("backup.made", actor, activity="backup", detail=detail))
    note, secret = vault.checkpoint(), secrets.token_bytes(32)
    sealed = seal_to(whom, secret, _INFO)
    header = Header(note, now(), whom.name, whom.key_id, sealed).to_bytes()
    yield header
    for piece in stream.seal(_key(secret, header), _files(vault)):
        for at in range(0, len(piece), READ_BYTES):
            yield piece[at : at + READ_BYTES]


def contents(file: BinaryIO, pair: KeyPair, where: str) -> Iterator[tuple[dict[str, Any], Iterator[bytes]]]:
    """Header lines of the files in a backup, each with its bytes, to be read before the next is asked for.

    The last one has `end`. Whoever stops before has no whole backup.

    Raises:
        BadInput: it is no backup. Refused: it was sealed to another key.
        IntegrityFailure: it was changed, or cut short.
    """
    from cryptography.exceptions import InvalidTag

    header, text = Header.read(file, where)
    if header.key_id != pair.recipient.key_id:
        raise Refused(
            f"the backup is sealed to another key: {header.recipient}, {header.key_id.hex()}",
            where=where,
            hint="give that private key with --key",
        )
    try:
        secret = open_with(pair, header.sealed, _INFO)
    except (InvalidTag, ValueError) as error:
        raise _changed(where) from error
    read = _Reader(_plain(_key(secret, text), file, where), where)
    while True:
        length = int.from_bytes(read.exactly(4), "big")
        if length > _MOST_LINE:
            raise _changed(where)
        try:
            line = dict(json.loads(read.exactly(length)))
            size = int(line.get("size", 0))
        except (ValueError, TypeError) as error:
            raise _changed(where) from error
        yield line, read.pieces(size)
        if "end" in line:
            read.ended()
            return


class _Reader:
    """Takes bytes off a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes], where: str) -> None:
        self._chunks, self._held, self._where = chunks, b"", where

    def exactly(self, count: int) -> bytes:
        return b"".join(self.pieces(count))

    def pieces(self, count: int) -> Iterator[bytes]:
        while count > 0:
            if not self._held:
                self._held = next(self._chunks, b"")
                if not self._held:
                    raise _changed(self._where)
            piece, self._held = self._held[:count], self._held[count:]
            count -= len(piece)
            yield piece

    def ended(self) -> None:
        """See that nothing follows, and that the last chunk said it was the last."""
        if self._held or next(self._chunks, b""):
            raise _changed(self._where)


def _plain(key: bytes, file: BinaryIO, where: str) -> Iterator[bytes]:
    try:
        yield from stream.open_chunks(key, file, where)
    except IntegrityFailure as error:
        raise _changed(where) from error


def _changed(where: str) -> IntegrityFailure:
    return IntegrityFailure("the backup was changed or cut short", where=where, hint="take another copy of it")


def _key(secret: bytes, header: bytes) -> bytes:
    """Key of the files: a header that was changed gives another. Source: RFC 5869."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt=sha256(header).digest(), info=_INFO + b"files").derive(secret)


def _files(vault: "Vault") -> Iterator[bytes]:
    """All files of the appliance, framed."""
    home, count, gone = vault.home, 0, []
    catalogue = _snapshot(home / CATALOGUE)
    object_ids = _object_ids(catalogue)
    for path, data in ((CATALOGUE, catalogue), (Path("keys", PATIENTS_FILE), _snapshot(home / "keys" / PATIENTS_FILE))):
        yield from _framed(path, len(data), [data])
        count += 1
    for path in _small(home):
        data = (home / path).read_bytes()
        yield from _framed(path, len(data), [data])
        count += 1
    for object_id in object_ids:
        try:
            with vault.sealed_file(object_id) as file:
                size = file.seek(0, 2)
                file.seek(0)
                yield from _framed(
                    Path("vault", "objects", object_id[:2], object_id), size, _pieces(file, size, object_id)
                )
            count += 1
        except IntegrityFailure:
            if vault.catalogue.holds(object_id):
                raise
            gone.append(object_id)  # deleted while we were at it, with its event in the log
    made = home / "audit" / f".backup.{secrets.token_hex(4)}.new"  # a killed backup's is swept with the other halves
    try:
        with storage(made):
            copy_log(home / LOG, made)
            size = made.stat().st_size
            with open(made, "rb") as file:
                yield from _framed(LOG, size, _pieces(file, size, LOG.name))
    finally:
        made.unlink(missing_ok=True)
    yield _line({"end": True, "files": count + 1, "gone": gone})


def _small(home: Path) -> list[Path]:
    """Keys, public files, older logs, the erasure list, settings: what is copied as it lies there."""
    found = [path for path in home.iterdir() if path.is_file()]
    found += [path for place in ("keys", "audit") for path in (home / place).rglob("*") if path.is_file()]
    named = [path.relative_to(home) for path in found if not path.name.startswith(".")]
    chosen = [path for path in named if not path.name.endswith(("-wal", "-shm"))]
    return sorted(path for path in chosen if not (len(path.parts) == 2 and path.name in _NOT_COPIED))


def _snapshot(path: Path) -> bytes:
    """A consistent copy of a small database that others may be writing."""
    with storage(path):
        source, copy = sqlite3.connect(path), sqlite3.connect(":memory:")
        try:
            source.backup(copy)
            data = copy.serialize()
            return data[:18] + b"\x01\x01" + data[20:]  # no write-ahead log: a database in memory cannot have one
        finally:
            source.close()
            copy.close()


def _object_ids(catalogue: bytes) -> list[str]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(catalogue)
        return [row[0] for row in connection.execute("SELECT id FROM objects WHERE deleted = '' ORDER BY rowid")]
    finally:
        connection.close()


def _framed(path: Path, size: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield _line({"path": path.as_posix(), "size": size})
    yield from pieces


def _pieces(file: BinaryIO, size: int, where: str) -> Iterator[bytes]:
    while size:
        piece = file.read(min(READ_BYTES, size))
        if not piece:
            raise IntegrityFailure("a file became shorter while it was copied", where=where, hint="cloche doctor")
        size -= len(piece)
        yield piece


def _line(found: dict[str, Any]) -> bytes:
    text = json.dumps(found).encode()
    return len(text).to_bytes(4, "big") + text


REQUIRED = {str(PIN), str(LOG), str(CATALOGUE), f"keys/{PATIENTS_FILE}", "keys/vault.key", DESCRIPTION}
"""Files without which a backup is none."""


def covers(header: Header, size: int) -> bool:
    """Whether a log of `size` entries has all that the checkpoint in the header stands for."""
    return Checkpoint.from_body(header.checkpoint.partition(b"\n\n")[0]).size <= size
