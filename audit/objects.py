"""The object files of the vault: written whole or not at all, named by their id."""

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from audit import stream
from audit.errors import BadInput, EnvironmentProblem, IntegrityFailure, storage
from audit.home import flush
from audit.rows import Data

READ_BYTES = 1 << 20
"""Bytes taken from a file at once."""
_ID = re.compile(r"[a-z2-7]{26}", re.ASCII)
"""An object's id: 16 random bytes in base32."""


class ObjectStore:
    """Files below one directory: ``incoming/`` while their event and row are not yet durable, then ``objects/ab/``.

    A file stays in ``incoming`` from before its row is committed until it is renamed. After a crash `sweep` finishes
    what has a row and deletes what has none.
    """

    def __init__(self, root: Path) -> None:
        """Open the store, made by `create`. Raises EnvironmentProblem."""
        self._incoming, self._objects = root / "incoming", root / "objects"
        with storage(root):
            self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)

    @staticmethod
    def create(root: Path) -> None:
        """Make the directories of an empty store."""
        with storage(root):
            for path in (root, root / "incoming", root / "objects"):
                path.mkdir(mode=0o700)

    def close(self) -> None:
        """Let go of the lock; once is enough."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def sweep(self, has_row: Callable[[str], bool]) -> None:
        """Finish or delete what a killed process has left, unless another process has the store open; then hold it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            return
        with storage(self._incoming):
            for path in list(self._incoming.iterdir()):
                if has_row(path.name):
                    self.publish(path.name)
                else:
                    path.unlink()
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def write(self, object_id: str, key: bytes, data: Data) -> tuple[int, str]:
        """Seal data into a file in ``incoming``; not yet flushed. Returns bytes of plaintext and digest of the file.

        Raises:
            BadInput: `data` is a path that cannot be read.
            EnvironmentProblem: the disk refuses; the file is gone again.
        """
        digest, size = sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in pieces(data):
                size += len(piece)
                yield piece

        path = self._incoming / object_id
        with storage(path):
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "wb") as file:
                    for piece in stream.seal(key, counted()):
                        digest.update(piece)
                        file.write(piece)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return size, digest.hexdigest()

    def flush(self, object_ids: Iterable[str]) -> None:
        """Make files in ``incoming``, and their names, durable. Raises EnvironmentProblem."""
        with storage(self._incoming):
            for path in [*(self._incoming / object_id for object_id in object_ids), self._incoming]:
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def publish(self, object_id: str) -> None:
        """Give a file its final name. Raises EnvironmentProblem."""
        path = self._final(object_id)
        with storage(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            (self._incoming / object_id).rename(path)

    def remove(self, object_id: str) -> None:
        """Delete a file wherever it is; nothing happens where there is none."""
        for path in (self._final(object_id), self._incoming / object_id):
            path.unlink(missing_ok=True)

    def settled(self) -> None:
        """Make what was removed stay removed, after a power loss, too. Raises EnvironmentProblem."""
        with storage(self._objects):
            for path in (self._incoming, self._objects, *self._objects.iterdir()):
                flush(path)

    def chunks(self, object_id: str, key: bytes) -> Iterator[bytes]:
        """The plaintext of an object, chunk by chunk. Raises IntegrityFailure where it is gone or was changed."""
        with self.open(object_id) as file:
            yield from stream.open_chunks(key, file, where=file.name)

    def names(self) -> list[str]:
        """Names of the files that have their final places, and paths of others that lie among them."""
        with storage(self._objects):
            return [
                path.name
                if path.parent == self._objects / path.name[:2]
                else str(path.relative_to(self._objects.parent))
                for path in self._objects.rglob("*")
                if path.is_symlink() or not path.is_dir()
            ]

    def holds(self, object_id: str) -> bool:
        """Whether there is a file of an object."""
        return bool(_ID.fullmatch(object_id)) and any(
            path.exists() for path in (self._final(object_id), self._incoming / object_id)
        )

    def open(self, object_id: str) -> BinaryIO:
        """An object's file. Raises IntegrityFailure where it is gone, EnvironmentProblem where it cannot be read."""
        path = self._final(object_id)
        for candidate in (path, self._incoming / object_id, path):  # it may be renamed between two looks
            try:
                return candidate.open("rb")
            except FileNotFoundError:
                continue
            except OSError as error:
                raise EnvironmentProblem(
                    f"an object cannot be read: {error.strerror}", where=str(candidate), hint="cloche doctor"
                ) from error
        raise IntegrityFailure("an object of the vault is gone", where=str(path), hint="restore it from a backup")

    def _final(self, object_id: str) -> Path:
        """Where an object's file belongs. Raises as `check_id`: a changed row must lead nowhere else."""
        check_id(object_id)
        return self._objects / object_id[:2] / object_id


def check_id(object_id: str) -> None:
    """See that an id is one that the custodian gives. Raises IntegrityFailure."""
    if not _ID.fullmatch(object_id):
        raise IntegrityFailure(
            "the catalogue names an object as none is named", where=object_id, hint="cloche records check"
        )


def size_of(data: Data) -> int:
    """Bytes of data or of the file that it names, 0 where that is not known. Raises BadInput: there is no such file."""
    if isinstance(data, bytes):
        return len(data)
    if not isinstance(data, Path):
        return 0
    try:
        return data.stat().st_size
    except OSError as error:
        raise BadInput(f"the file cannot be read: {error.strerror}", where=str(data)) from error


def pieces(data: Data) -> Iterator[bytes]:
    """Data in pieces, read from a file where it is a path. Raises BadInput where that cannot be read."""
    if isinstance(data, bytes):
        yield data
        return
    if not isinstance(data, Path):
        yield from data
        return
    try:
        with open(data, "rb") as file:
            while piece := file.read(READ_BYTES):
                yield piece
    except OSError as error:
        raise BadInput(f"the file cannot be read: {error.strerror}", where=str(data)) from error
