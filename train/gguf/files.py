"""Files that appear whole or not at all, and digests of what lies in a directory."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from audit.errors import EnvironmentProblem

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Endings of weights that run code when they are read."""


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Give a path beside ``out`` to write to, a file or a directory; on success it takes the name of ``out``.

    Raises:
        EnvironmentProblem: the disk is full or cannot be written; nothing is left behind.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if partial.is_dir() and out.is_dir():
            shutil.rmtree(out)
        for file in [partial, *partial.rglob("*")] if partial.is_dir() else [partial]:
            _flush(file)
        partial.replace(out)
        _flush(out.parent)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(out.parent)):
            raise
        raise EnvironmentProblem(
            f"this could not be written: {error.strerror or error}", where=str(out), hint="cloche doctor"
        ) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(directory: Path) -> dict[str, str]:
    """SHA-256 of every file of a model directory, in hex, by its name and sorted by it.

    Hidden files and folders (``.cache``, ``.git``) do not count. Names are relative, with ``/``.
    """
    found = {}
    for path in sorted(directory.rglob("*"), key=lambda p: p.relative_to(directory).as_posix()):
        name = path.relative_to(directory)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            found[name.as_posix()] = digest_of_file(path)
    return found


def digest_of(directory: Path) -> str:
    """One digest for a model directory: SHA-256 over the ``sha256sum`` lines of `digests_of`."""
    return digest_over(digests_of(directory))


def digest_over(files: Mapping[str, str]) -> str:
    """The one digest of a directory with these files."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    return hashlib.sha256(lines.encode()).hexdigest()
