"""How long a person waits for `cloche --help`, beside Python's own start: best of some runs of each, taken in turn."""

import subprocess
import sys
import time

RUNS = 15
"""Runs of each; the best counts, as everything else on the machine only adds."""
BAR_S = 0.2
"""What DESIGN allows for the help, Python's own start included."""
HELP = [sys.executable, "-c", "from appliance.cli.main import main; main(['--help'])"]
BARE = [sys.executable, "-c", "pass"]


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> int:
    """Print both times and their ratio; exit 1 past the bar."""
    pairs = [(seconds(BARE), seconds(HELP)) for _ in range(RUNS)]
    bare, helped = (min(column) for column in zip(*pairs, strict=True))
    print(f"python: {bare * 1e3:.0f} ms   cloche --help: {helped * 1e3:.0f} ms   ratio {helped / bare:.1f}")
    print(f"bar {BAR_S * 1e3:.0f} ms: {'met' if helped <= BAR_S else 'MISSED'}")
    return 0 if helped <= BAR_S else 1


if __name__ == "__main__":
    sys.exit(main())
