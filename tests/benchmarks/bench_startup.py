"""How long a person waits for `cloche --help` and for `cloche audit verify` of a new log, beside Python's own start."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from audit.checkpoint import Signer
from audit.keys import generate
from audit.log import Log

RUNS = 15
"""Runs of each, taken in turn; the best counts, as everything else on the machine only adds."""
BAR_S = 0.2
"""What DESIGN allows for either, Python's own start included."""
CLOCHE = [sys.executable, "-c", "from appliance.cli.main import main; main()"]


def seconds(command: list[str]) -> float:
    """Wall time of one process that must succeed."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def new_log(folder: Path) -> Path:
    """A log that nothing was written to yet."""
    people = [generate(name, "X25519").recipient for name in ("auditor", "recovery")]
    path = folder / "log.sqlite"
    Log.create(path, Signer.generate("cloche/log/benchmark"), people, folder / "high-water").close()
    return path


def main() -> int:
    """Print the times and their ratios to Python's start; exit 1 past the bar."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "cloche --help": [*CLOCHE, "--help"],
            "cloche audit verify": [*CLOCHE, "audit", "verify", str(new_log(Path(folder)))],
        }
        rounds = [[seconds(command) for command in commands.values()] for _ in range(RUNS)]
    best = dict(zip(commands, map(min, zip(*rounds, strict=True)), strict=True))
    bare = best["python -c pass"]
    for name, spent in best.items():
        verdict = "" if name == "python -c pass" else "  met" if spent <= BAR_S else f"  past {BAR_S * 1e3:.0f} ms"
        print(f"{name:20} {spent * 1e3:6.0f} ms  {spent / bare:5.1f} x{verdict}")
    return 0 if max(best.values()) <= BAR_S else 1


if __name__ == "__main__":
    sys.exit(main())
