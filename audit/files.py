"""Files that are replaced whole: after a crash the old content is there, or the new, never a half of either."""

import os
import secrets
from pathlib import Path

from audit.errors import storage


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Put `data` in the place of a file, or make it, durably: a file beside it is written, flushed and renamed.

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
            os.replace(made, path)
        except BaseException:
            made.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the name, too
        finally:
            os.close(directory)
