"""What an appliance needs of its machine, looked at one by one; no passphrase, no network, no harm."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance.settings import Settings

NEEDED_DISK_BYTES = 4 << 30
"""Free space that a demonstration or a small model takes."""
NEEDED_MEMORY_BYTES = 6 << 30
"""Memory that the demonstration takes at most."""
PACKAGES = {
    "base": ("click", "cryptography", "rich", "sqlite-utils"),
    "train": ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors", "numpy", "scipy", "pillow"),
    "infer": ("llama-cpp-python",),
    "demo": ("nibabel",),
}
"""Distributions that must be there, by the extra of `cloche` that brings them."""
CONVERTER_FILES = ("convert_hf_to_gguf.py", "conversion/__init__.py", "gguf-py/gguf/__init__.py", "LICENSE")
"""Files that the GGUF converter cannot do without."""
STARTER = Path(__file__).parent / "starter" / "model"
"""Where the starter model lies in the installed package."""
INSTALL = "make setup, in the folder of Cloche's source"
"""What brings every package. Not a name to pip: nobody should fetch a stranger's package of that name."""
LIBRARY_TIMEOUT_S = 60
"""Seconds that llama.cpp may take to load."""

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    """What was looked at, in a word or two."""
    state: State
    """`ok`, `note` (worth knowing, nothing to do now) or `missing` (something does not work without it)."""
    says: str
    """What was found."""
    next: str = ""
    """What to type, where there is something to do."""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything, in the order in which a person would repair it."""
    return [
        _python(),
        _memory(),
        _disk(settings.home),
        *(_packages(extra, names) for extra, names in PACKAGES.items()),
        _llama_cpp(),
        _converter(),
        _starter(),
        _accelerator(),
        _home(settings.home),
    ]


def _python() -> Finding:
    return Finding("python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total < NEEDED_MEMORY_BYTES:
        return Finding("memory", "note", f"{_gib(total)}: the demonstration needs up to {_gib(NEEDED_MEMORY_BYTES)}")
    return Finding("memory", "ok", f"{_gib(total)}, {os.cpu_count()} processor cores")


def _disk(home: Path) -> Finding:
    there = next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < NEEDED_DISK_BYTES:
        return Finding(
            "disk", "missing", f"{_gib(free)} free at {there}, {_gib(NEEDED_DISK_BYTES)} are needed",
            "free some space, or choose another place with --home",
        )  # fmt: skip
    return Finding("disk", "ok", f"{_gib(free)} free at {there}")


def _packages(extra: str, names: tuple[str, ...]) -> Finding:
    found, absent = [], []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        return Finding(f"packages: {extra}", "missing", f"not installed: {', '.join(absent)}", INSTALL)
    return Finding(f"packages: {extra}", "ok", ", ".join(found))


def _llama_cpp() -> Finding:
    # In a process of its own: a build for another processor does not raise, it dies.
    program = "import llama_cpp; print(llama_cpp.__version__)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIBRARY_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("llama.cpp", "missing", f"does not load within {LIBRARY_TIMEOUT_S} s", "cloche doctor, again")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]
        return Finding("llama.cpp", "missing", f"does not load: {reason}", INSTALL)
    return Finding("llama.cpp", "ok", f"loads, bindings {done.stdout.strip()}")


def _converter() -> Finding:
    folder = Path(sys.prefix) / "share" / "cloche" / "converter"
    absent = [name for name in CONVERTER_FILES if not (folder / name).is_file()]
    if absent:
        return Finding(
            "GGUF converter", "missing", f"{folder} lacks {', '.join(absent)}",
            "python packaging/install_converter.py, in the folder of Cloche's source",
        )  # fmt: skip
    return Finding("GGUF converter", "ok", str(folder))


def _starter() -> Finding:
    model = STARTER / "model.safetensors"
    if not (model.is_file() and (STARTER / "config.json").is_file()):
        return Finding(
            "starter model", "missing", f"no model at {STARTER}", "install cloche again, or train it with make starter"
        )
    return Finding("starter model", "ok", f"{model.stat().st_size / 1e6:.1f} MB at {STARTER}")


def _accelerator() -> Finding:
    driver = Path("/proc/driver/nvidia/version")
    if not driver.is_file():
        return Finding(
            "accelerator", "note", "no NVIDIA driver: everything runs on the processor, fit for small models"
        )
    return Finding("accelerator", "ok", driver.read_text().splitlines()[0])


def _home(home: Path) -> Finding:
    from audit.errors import ClocheError
    from audit.home import check

    if not home.exists():
        return Finding("appliance", "note", f"none at {home} yet", f"cloche --home {home} init")
    try:
        check(home)
    except ClocheError as error:
        return Finding("appliance", "missing", f"{error.what} ({error.where})", error.hint)
    mode = home.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("appliance", "missing", f"others may look into {home} (mode {mode:o})", f"chmod 700 {home}")
    return Finding("appliance", "ok", f"{home}, made by version {_made_by(home)}")


def _made_by(home: Path) -> str:
    """The version that made an appliance whose description was checked."""
    from audit.home import DESCRIPTION

    return str(json.loads((home / DESCRIPTION).read_text())["made_by"])


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


@dataclass(frozen=True)
class Overview:
    """What an appliance holds, as far as it can be told without its keys."""

    home: Path
    """Its directory."""
    made_by: str
    """Version of Cloche that made it."""
    objects: int
    """Encrypted objects in the vault."""
    object_bytes: int
    """Their size on disk, in bytes."""
    log_entries: int
    """Entries of the audit log, as its newest signed checkpoint says; the entries themselves are not looked at."""
    free_bytes: int
    """Free space beside it, in bytes."""


def overview(settings: Settings) -> Overview:
    """Count what the appliance holds.

    Raises:
        Refused: there is no appliance, or a newer version made it.
        IntegrityFailure: its log cannot be read, or its newest checkpoint is not signed by the pinned key.
    """
    from audit.checkpoint import VerifierKey, open_note
    from audit.errors import storage
    from audit.home import LOG, PIN, check
    from audit.store import head, reader

    home = settings.home
    check(home)
    sizes = [path.stat().st_size for path in (home / "vault" / "objects").glob("*/*") if path.is_file()]
    with storage(home / LOG):
        connection = reader(home / LOG)
        try:
            note = head(connection).note
        finally:
            connection.close()
        pinned = VerifierKey.from_text((home / PIN).read_text())
    entries = open_note(note, pinned).size
    return Overview(home, _made_by(home), len(sizes), sum(sizes), entries, shutil.disk_usage(home).free)
