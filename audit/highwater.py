"""The high-water mark: the last checkpoint, in a file of its own beside the log.

It is what tells a log that was cut short, or replaced by an older copy of itself, from one that never was longer. It
stands in 512 bytes that are overwritten in place: one sector, so that a crash leaves the old mark or the new one.
"""

import fcntl
import os
from pathlib import Path

from audit.checkpoint import Checkpoint
from audit.errors import BadInput, IntegrityFailure, storage
from audit.rotation import KeyChain

BYTES = 512
"""Bytes of the file: a signed checkpoint, then zeros."""


def parse(data: bytes | None, chain: KeyChain, path: Path) -> Checkpoint:
    """The checkpoint of the mark's bytes, None where there is no file.

    Raises:
        IntegrityFailure: the file is gone or does not hold a checkpoint of this log.
    """
    hint = "if nobody restored or moved it on purpose, entries may be lost: keep the disk as it is and ask for help"
    if data is None:
        raise IntegrityFailure("the log's high-water mark is gone", where=str(path), hint=hint)
    try:
        return chain.open(data.rstrip(b"\x00"))
    except IntegrityFailure as error:
        raise IntegrityFailure(
            "the high-water mark does not hold a checkpoint of this log", where=str(path), hint=hint
        ) from error


class Mark:
    """The writing end of the mark; the file is kept open, as a commit should cost the disk's flush and little more."""

    def __init__(self, path: Path) -> None:
        """See `raise_to`; the file is made when it is first needed."""
        self.path = path
        self._handle, self._process, self._written = -1, 0, b""

    def raise_to(self, size: int, note: bytes) -> None:
        """Write the note of a checkpoint of `size`, unless the mark stands higher already.

        Raises:
            EnvironmentProblem: the file cannot be written.
        """
        with storage(self.path):
            self._open()
            fcntl.flock(self._handle, fcntl.LOCK_EX)  # two writers may commit in one order and come here in another
            try:
                held = os.pread(self._handle, BYTES, 0)
                if held == self._written or size > _size(held):
                    self._written = note.ljust(BYTES, b"\x00")
                    os.pwrite(self._handle, self._written, 0)
                if not held:
                    os.fsync(self._handle)  # a mark that is newly made must not come back empty after a power loss
            finally:
                fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the file."""
        if self._handle >= 0 and self._process == os.getpid():
            os.close(self._handle)
        self._handle = -1

    def _open(self) -> None:
        """Open the file, again where it was replaced or is the parent's after a fork (locks would be shared)."""
        if self._handle >= 0 and self._process == os.getpid() and os.fstat(self._handle).st_nlink:
            return
        self.close()
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._process, self._written = os.getpid(), b""


def _size(data: bytes) -> int:
    """The size that the mark states; -1 where it states none."""
    try:
        return Checkpoint.from_body(data).size
    except BadInput:
        return -1
