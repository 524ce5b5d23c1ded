"""What a durable append costs beside SQLite's bare commit of the same bytes, and verification beside SHA-256 alone.

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
from pathlib import Path

from audit.actor import Actor
from audit.checkpoint import Signer
from audit.entry import HEADER_BYTES
from audit.events import Event
from audit.keys import generate
from audit.log import Log
from audit.verify import verify

ROUNDS, COMMITS = 10, 50
"""Rounds in which append and bare commit take turns, and commits of each in a round."""
APPEND_BAR, VERIFY_BAR, MILLION_S = 0.8, 0.2, 30.0
"""DESIGN: append at least 0.8 x the bare commit's rate, verification 0.2 x hashlib's, a million entries in 30 s."""
SMALL, BODY = 1024 + 28, 2048 + 28
"""Bytes of the body of an event of 1 KiB, and of one of 2 KiB."""
EVENT = Event("note", Actor("bench", "service")).stamped()
EVENT_2K = Event("note", Actor("bench", "service"), activity="x" * 1500).stamped()


def bare(path: Path) -> sqlite3.Connection:
    """A database that does nothing but commit, with the log's own durability."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE entries (sequence INTEGER PRIMARY KEY, header BLOB, body BLOB, leaf BLOB)")
    return connection


def append_ratio(log: Log, connection: sqlite3.Connection) -> float:
    """Rate of `Log.append` over the rate of bare commits; the median of rounds, as disks have moods."""
    row, ratios = (os.urandom(HEADER_BYTES), os.urandom(SMALL), os.urandom(32)), []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(COMMITS):
            log.append(EVENT)
        ours = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(COMMITS):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO entries (header, body, leaf) VALUES (?, ?, ?)", row)
            connection.execute("COMMIT")
        raw = time.perf_counter() - began
        ratios.append(raw / ours)
        print(f"append {ours / COMMITS * 1e3:6.2f} ms, bare commit {raw / COMMITS * 1e3:6.2f} ms")
    return sorted(ratios)[ROUNDS // 2]


def hash_seconds(count: int) -> float:
    """What SHA-256 of as many bodies takes."""
    body = os.urandom(BODY)
    began = time.perf_counter()
    for _ in range(count):
        hashlib.sha256(body).digest()
    return time.perf_counter() - began


def main() -> int:
    """Print both ratios; exit 1 where a bar is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as folder:
        path, mark = Path(folder, "log.sqlite"), Path(folder, "high-water")
        signer = Signer.generate("cloche/log/benchmark")
        people = [generate(name).recipient for name in ("auditor", "recovery")]
        with Log.create(path, signer, people, mark) as log:
            connection = bare(Path(folder, "bare.sqlite"))
            appended = append_ratio(log, connection)
            connection.close()
            for start in range(0, count, 4000):
                log.append_many([EVENT_2K] * min(4000, count - start))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        spent = hashed = float("inf")
        for _ in range(3):  # in turn, and the best of each: everything else on the machine only adds
            began = time.perf_counter()
            verdict = verify(path, signer.key, mark)
            spent = min(spent, time.perf_counter() - began)
            hashed = min(hashed, hash_seconds(verdict.size))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if verdict.state != "intact":
        raise SystemExit(verdict.sentence)
    verified = hashed / spent
    million = spent / verdict.size * 1e6
    print(f"durable append   {appended:5.2f} x a bare commit       {'met' if appended >= APPEND_BAR else 'missed'}")
    print(f"verification     {verified:5.2f} x hashlib             {'met' if verified >= VERIFY_BAR else 'missed'}")
    print(
        f"a million takes  {million:5.1f} s, {grown:.0f} MB more memory  {'met' if million <= MILLION_S else 'missed'}"
    )
    return 0 if appended >= APPEND_BAR and verified >= VERIFY_BAR and million <= MILLION_S else 1


if __name__ == "__main__":
    sys.exit(main())
