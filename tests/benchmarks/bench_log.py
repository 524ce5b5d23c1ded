"""The log's figures on one page: durable and batched append, verification, opening, proofs.

python tests/benchmarks/bench_log.py            100,000 entries of 2 KiB, 0.3 GB of disk
python tests/benchmarks/bench_log.py 1000000    the million of DESIGN, 2.8 GB
"""

import hashlib
import os
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from audit import store
from audit.actor import Actor
from audit.checkpoint import Signer
from audit.entry import HEADER_BYTES
from audit.events import Event
from audit.keys import KeyPair, generate
from audit.log import Log
from audit.proofs import ConsistencyProof, InclusionProof, Tree
from audit.reading import read
from audit.verify import verify

ROUNDS, COMMITS, BATCH = 10, 50, 100
"""Rounds in which append and bare commit take turns, commits of each in a round, events of a batch."""
APPEND_BAR, VERIFY_BAR, VERIFY_S, OPEN_S = 0.8, 0.2, 30.0, 60.0
"""DESIGN: append at least 0.8 x the bare commit's rate, verification 0.2 x hashlib's; a million verified in 30 s and
opened in 60."""
SMALL, BODY = 1024 + 28, 2048 + 28
"""Bytes of the body of an event of 1 KiB, and of one of 2 KiB."""
EVENT = Event("note", Actor("bench", "service")).stamped()
EVENT_2K = Event("note", Actor("bench", "service"), detail={"filler": "x" * 1500}).stamped()


def bare(path: Path) -> sqlite3.Connection:
    """A database that does nothing but commit, with the log's own durability."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE entries (sequence INTEGER PRIMARY KEY, header BLOB, body BLOB, leaf BLOB)")
    return connection


def seconds(work: Callable[[], object]) -> float:
    """What one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(found: list[float]) -> float:
    """The middle one: disks have moods."""
    return sorted(found)[len(found) // 2]


def appends(log: Log, connection: sqlite3.Connection) -> tuple[float, float, float]:
    """One append over one bare commit (as rates), a batch's events over single ones, ms of a bare commit: medians."""
    row = (os.urandom(HEADER_BYTES), os.urandom(SMALL), os.urandom(32))

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO entries (header, body, leaf) VALUES (?, ?, ?)", row)
        connection.execute("COMMIT")

    bare_ratios, batch_ratios, flushes = [], [], []
    for _ in range(ROUNDS):
        ours = seconds(lambda: [log.append(EVENT) for _ in range(COMMITS)]) / COMMITS
        raw = seconds(lambda: [commit() for _ in range(COMMITS)]) / COMMITS
        batched = seconds(lambda: log.append_many([EVENT] * BATCH)) / BATCH
        bare_ratios.append(raw / ours)
        batch_ratios.append(ours / batched)
        flushes.append(raw * 1e3)
    return median(bare_ratios), median(batch_ratios), median(flushes)


def hash_seconds(count: int) -> float:
    """What SHA-256 of as many bodies takes."""
    body = os.urandom(BODY)
    began = time.perf_counter()
    for _ in range(count):  # no list: it would show as memory
        hashlib.sha256(body).digest()
    return time.perf_counter() - began


def memory_mb() -> float:
    """The most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def opened(path: Path, pair: KeyPair, size: int) -> int:
    """Decrypt and decode all events."""
    return sum(logged.event is not None for logged in read(path, pair, size))


def proofs(path: Path, signer: Signer) -> None:
    """Size and time of proofs at 10^3 entries, 10^4 ... up to the log's size."""
    connection = store.reader(path)
    tree, note = Tree(connection), store.head(connection).note
    size = 1000
    while size <= tree.size:
        places = [size * i // 50 for i in range(1, 50)]
        for name, kind, prove in (
            ("inclusion", InclusionProof, tree.inclusion),
            ("consistency", ConsistencyProof, tree.consistency),
        ):
            took = median([seconds(partial(prove, at, size)) for at in places])
            longest = max(len(kind(at, tuple(prove(at, size)), note).to_bytes()) for at in places)
            print(f"{name} at {size:9,} entries  {longest:5,} bytes, {took * 1e3:.2f} ms (longest, median of 49)")
        size *= 10
    connection.close()


def main() -> int:
    """Print the page; exit 1 where a bar is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as folder:
        path, mark = Path(folder, "log.sqlite"), Path(folder, "high-water")
        signer, people = Signer.generate("cloche/log/benchmark"), [generate("auditor"), generate("recovery")]
        with Log.create(path, signer, [pair.recipient for pair in people], mark) as log:
            connection = bare(Path(folder, "bare.sqlite"))
            appended, batched, flush = appends(log, connection)
            connection.close()
            filled = seconds(
                lambda: [log.append_many([EVENT_2K] * min(4000, count - at)) for at in range(0, count, 4000)]
            )
        before, spent, hashed = memory_mb(), float("inf"), float("inf")
        for _ in range(3):  # in turn, and the best of each: everything else on the machine only adds
            began = time.perf_counter()
            verdict = verify(path, signer.key, mark)
            spent = min(spent, time.perf_counter() - began)
            hashed = min(hashed, hash_seconds(verdict.size))
        began, events = time.perf_counter(), opened(path, people[0], verdict.size)
        reading, grown = time.perf_counter() - began, memory_mb() - before
        if verdict.state != "intact":
            raise SystemExit(verdict.sentence)
        rows = [
            ("durable append", f"{appended:.2f} x a bare commit (of {flush:.2f} ms)", appended >= APPEND_BAR),
            ("append of 100", f"{batched:.0f} x as many a second as one by one", None),
            (f"append of {count:,}", f"{count / filled:,.0f} a second in batches of 4,000", None),
            ("verification", f"{hashed / spent:.2f} x hashlib", hashed / spent >= VERIFY_BAR),
            ("a million verified", f"{spent / verdict.size * 1e6:.1f} s", spent / verdict.size * 1e6 <= VERIFY_S),
            ("a million opened", f"{reading / events * 1e6:.1f} s", reading / events * 1e6 <= OPEN_S),
            ("memory meanwhile", f"{grown:.0f} MB more for {events:,} events", None),
        ]
        for name, figure, met in rows:
            print(f"{name:20} {figure:52} {'' if met is None else 'met' if met else 'missed'}".rstrip())
        proofs(path, signer)
    return 0 if all(met is not False for _, _, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
