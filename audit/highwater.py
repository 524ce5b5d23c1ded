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


def raise_to(path: Path, size: int, note: bytes) -> None:
    """Write the note of a checkpoint of `size`, unless the mark stands higher already.

    Raises:
        EnvironmentProblem: the file cannot be written.
    """
    with storage(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # two writers may have committed in one order and come here in another
            held = os.pread(handle, BYTES, 0)
            if size > _size(held):
                os.pwrite(handle, note.ljust(BYTES, b"\x00"), 0)
            if not held:
                os.fsync(handle)  # a mark that is newly made must not come back empty after a power loss
        finally:
            os.close(handle)


def _size(data: bytes) -> int:
    """The size that the mark states; -1 where it states none."""
    try:
        return Checkpoint.from_body(data).size
    except BadInput:
        return -1
