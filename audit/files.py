"""Files that are replaced whole: after a crash the old content is there, or the new, never a half of either."""

import os
import secrets
from pathlib import Path

from audit.errors import storage


def replace_file(path: Path, data: bytes, mode: int, *, wipe: bool = False) -> None:
    """Put `data` in the place of a file, or make it, durably: a file beside it is written, flushed and renamed.

    With `wipe`, what stood there before is overwritten after it has lost its name: a best effort, as neither every
    disk nor every file system writes where it wrote before.

    Raises:
        EnvironmentProblem: the disk refuses; the old content stands.
    """
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    with storage(path):
        try:
            with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            old = os.open(path, os.O_RDWR) if wipe and path.exists() else -1
            os.replace(made, path)
        except BaseException:
            made.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the name, too
        finally:
            os.close(directory)
        if old >= 0:
            wipe_and_close(old)


def wipe_and_close(handle: int) -> None:
    """Overwrite a file that has lost its name, as far as disk and file system let anybody."""
    try:
        os.pwrite(handle, b"\x00" * os.fstat(handle).st_size, 0)
        os.fsync(handle)
    finally:
        os.close(handle)
