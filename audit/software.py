"""Which software acts: its version, and a digest of what was installed."""

from functools import cache
from hashlib import sha256

FLOORS = ("appliance/", "synth/", "train/", "audit/")
"""Folders whose files make up the software."""


@cache
def acting() -> str:
    """The software of this process, such as ``cloche 0.1.0 sha256:5f0c2a91d3e47b58``; found once a process.

    The digest is over the digests that the installer wrote of each file (RECORD of the wheel), so it costs no look at
    the files: it names what was installed, and is no proof that nobody changed a file since. Run from a source tree,
    Cloche has no such list and says ``source``.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution("cloche")
    except PackageNotFoundError:
        return "cloche (not installed)"
    lines = (found.read_text("RECORD") or "").splitlines()
    files = sorted(line for line in lines if line.startswith(FLOORS) and ",sha256=" in line)
    digest = f"sha256:{sha256(chr(10).join(files).encode()).hexdigest()[:16]}" if files else "source"
    return f"cloche {found.version} {digest}"
