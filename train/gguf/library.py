"""llama.cpp as a library: found or not, kept quiet, and given weights that need not lie on a disk.

Source: llama-cpp-python 0.3.36, its ctypes bindings of llama.h and mtmd.h.
"""

import ctypes
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from audit.errors import EnvironmentProblem

_WARNING, _ERROR = 3, 4
_lock = threading.Lock()
_silenced = 0
_kept: deque[str] = deque(maxlen=20)
_held: list[Any] = []


def bindings() -> tuple[ModuleType, ModuleType]:
    """The modules ``llama_cpp.llama_cpp`` and ``llama_cpp.mtmd_cpp``.

    Raises:
        EnvironmentProblem: llama-cpp-python is not installed or its libraries do not load.
    """
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # where llama.cpp aborts it would start a debugger on our memory
    try:
        import llama_cpp.llama_cpp as llama
        import llama_cpp.mtmd_cpp as mtmd
    except (ImportError, OSError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"llama.cpp cannot be loaded: {str(error)[:200]}", where="llama-cpp-python", hint="make setup"
        ) from error
    return llama, mtmd


def silence() -> None:
    """Take llama.cpp's log for ourselves; every call wants its ``restore``."""
    global _silenced
    llama, mtmd = bindings()
    with _lock:
        _silenced += 1
        if _silenced > 1:
            return
        before, data = llama.llama_log_callback(), ctypes.c_void_p()
        llama.llama_log_get(ctypes.byref(before), ctypes.byref(data))
        ours = llama.llama_log_callback(_keep)
        _held[:] = [before, data, ours]
        llama.llama_log_set(ours, None)
        mtmd.mtmd_helper_log_set(ours, None)


def restore() -> None:
    """Give the log back to whom it belonged before the first ``silence``."""
    global _silenced
    llama, mtmd = bindings()
    with _lock:
        _silenced -= 1
        if _silenced:
            return
        before, data, _ = _held
        llama.llama_log_set(before, data)
        mtmd.mtmd_helper_log_set(llama.llama_log_callback(), None)
        _held.clear()


def _keep(level: int, text: bytes | None, _: object) -> None:
    if level in (_WARNING, _ERROR) and text:
        _kept.append(text.decode("utf-8", "replace").strip())


@contextmanager
def quiet() -> Iterator[deque[str]]:
    """Silence llama.cpp for a while; gives the last warnings and errors it wanted to print."""
    silence()
    _kept.clear()
    try:
        yield _kept
    finally:
        restore()


def last_words(lines: deque[str], fallback: str) -> str:
    """The line that says best what went wrong: the first error, which the later ones only pass on."""
    told = [line for line in lines if "error" in line.lower() or "fail" in line.lower() or "invalid" in line.lower()]
    return (told or list(lines) or [fallback])[0].removeprefix("gguf_init_from_file_ptr: ")[:300]


@contextmanager
def path_to(weights: Path | bytes) -> Iterator[bytes]:
    """A path that llama.cpp can open, for a file or for bytes in memory.

    Bytes are given as an anonymous file in memory (memfd), so that weights learned from patients never reach a disk;
    it goes when llama.cpp lets go of it.
    """
    if isinstance(weights, Path):
        yield os.fsencode(weights)
        return
    descriptor = os.memfd_create("weights", os.MFD_CLOEXEC)
    try:
        view = memoryview(weights)
        while view:
            view = view[os.write(descriptor, view) :]
        yield f"/proc/self/fd/{descriptor}".encode()
    finally:
        os.close(descriptor)
