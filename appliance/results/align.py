"""`make results-align`: run every arm of the alignment experiment with every seed, and write docs/results.md.

Each finished run is a small JSON file; what has one is not run again, so that the experiment can be cut off anywhere.
Several workers share the work: a run belongs to the process that holds the lock of its file.

    python -m appliance.results.align --quick --out results-output
    python -m appliance.results.align --quick --page     # only the page, from what is finished
"""

import argparse
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.results.arms import ARMS, FULL, QUICK, Arm, Sizes
from appliance.results.files import atomically
from appliance.results.page import write
from appliance.starter.where import STARTER


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the page."""
    given = _parsed(arguments)
    sizes = QUICK if given.quick else FULL
    folder = given.out / f"{sizes.name}-{sizes.digest}"
    if not given.page:
        others = [_other(given) for _ in range(0 if given.worker else given.workers - 1)]
        work(sizes, folder, given.starter, range(given.seeds or sizes.seeds), given.arms)
        for other in others:
            other.wait()
    if not given.worker:
        write(folder, sizes, given.docs)


def work(sizes: Sizes, folder: Path, starter: Path, seeds: Sequence[int], names: Sequence[str] = ()) -> None:
    """Run every arm that has no file yet and that nobody else is running, seed by seed."""
    import torch

    from appliance.results.bench import opened
    from appliance.results.run import about, play

    torch.set_num_threads(1)
    missing = [(arm, seed) for seed in seeds for arm in ARMS if not names or arm.name in names]
    missing = [(arm, seed) for arm, seed in missing if not outcome(folder, arm, seed).exists()]
    if not missing:
        return
    with claimed(folder / "base") as _:  # one makes hospital and base, the others wait for it
        benches = opened(starter, folder, sizes)
        if not (folder / "base.json").exists():
            atomically(folder / "base.json", _json({name: about(bench) for name, bench in benches.items()}))
    for arm, seed in missing:
        with claimed(folder / outcome(folder, arm, seed).stem, wait=False) as mine:
            if mine and not outcome(folder, arm, seed).exists():
                say(f"{arm.name} seed {seed}")
                found = play(benches[arm.base], arm, seed, lambda what, name=arm.name: say(f"  {name}: {what}"))  # type: ignore[misc]
                atomically(outcome(folder, arm, seed), _json(found))
                right = found["right"]
                say(f"{arm.name} seed {seed}: {sum(right) / len(right):.1%} right, {found['seconds']} s")


def outcome(folder: Path, arm: Arm, seed: int) -> Path:
    """The file of a finished run."""
    return folder / f"{arm.name}-{seed}.json"


@contextmanager
def claimed(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a run; the kernel lets go of it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def say(what: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def _json(found: Any) -> bytes:
    return (json.dumps(found) + "\n").encode()


def _other(given: argparse.Namespace) -> "subprocess.Popen[bytes]":
    said = ["--out", str(given.out), "--starter", str(given.starter), "--seeds", str(given.seeds), "--worker"]
    said += ["--quick"] if given.quick else []
    said += ["--arms", *given.arms] if given.arms else []
    return subprocess.Popen([sys.executable, "-m", "appliance.results.align", *said])


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make results-align", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: see appliance/results/arms.py")
    parser.add_argument("--seeds", type=int, default=0, help="seeds of each arm; the sizes' own if not given")
    parser.add_argument("--arms", nargs="*", default=[], choices=[a.name for a in ARMS], help="only these arms")
    parser.add_argument("--out", type=Path, default=Path("results-output"), help="where finished runs are kept")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where results.md is written")
    parser.add_argument("--starter", type=Path, default=STARTER, help="the model")
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from what is finished")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
