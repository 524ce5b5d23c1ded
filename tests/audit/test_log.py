"""The log as processes use it: durable, in order, whole after a kill, closed to its own writer."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from audit import store
from audit.checkpoint import Signer, open_note
from audit.entry import HEADER_BYTES, OPENING, Header
from audit.errors import BadInput, EnvironmentProblem, IntegrityFailure, Refused
from audit.keys import generate
from audit.log import Log
from audit.reading import read
from audit.verify import verify

ROOT = Path(__file__).parents[2]

PRELUDE = """
import os, sys, time
from pathlib import Path
from audit.actor import Actor
from audit.checkpoint import Signer
from audit.events import Event
from audit.keys import Recipient
from audit.log import Log
from audit.errors import ClocheError
folder, name = Path(sys.argv[1]), sys.argv[2]
signer = Signer.from_bytes("cloche/log/test", (folder / "signer").read_bytes())
recipients = [Recipient.load(folder / "auditor.pub"), Recipient.load(folder / "recovery.pub")]
log = Log(folder / "log.sqlite", signer, recipients, folder / "high-water")
def event(number):
    return Event("note", Actor(name, "service"), detail={"number": number})
"""


def child(kit, name, script, **options):
    """Another process that has the log open."""
    folder = kit.path.parent
    if not (folder / "signer").exists():
        (folder / "signer").write_bytes(kit.signer.to_bytes())
        kit.auditor.recipient.save(folder / "auditor.pub")
        kit.recovery.recipient.save(folder / "recovery.pub")
    code = PRELUDE + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def events_in(kit, pair=None):
    verdict = verify(kit.path, kit.signer.key, kit.mark)
    assert verdict.state == "intact", verdict.sentence
    return list(read(kit.path, pair or kit.auditor, verdict.size))


def headers(kit):
    connection = store.reader(kit.path)
    try:
        return [Header.from_bytes(entry.header) for _, entry, _ in store.entries(connection)]
    finally:
        connection.close()


def test_each_recipient_reads_what_was_written_and_the_order(kit, event):
    with kit.open() as log:
        assert log.append(event(0)) == 1  # entry 0 is the segment's opening
        with log.batch() as batch:
            batch.append(event(1))
            batch.append(event(2, patients=("P-A",), objects=("o1", "o2")))
            assert batch.sequences == []
        assert batch.sequences == [2, 3]
    for pair in (kit.auditor, kit.recovery):
        found = events_in(kit, pair)
        assert [one.sequence for one in found] == [1, 2, 3]
        assert [one.event.detail["number"] for one in found] == [0, 1, 2]
        assert found[2].event.objects == ("o1", "o2") and found[2].event.at > found[0].event.at


def test_a_stranger_and_the_writer_read_nothing(kit, event, people):
    canary = "Xanthoastrocytoma"
    with kit.open() as log:
        log.append(event(1, activity=canary))
        secrets = repr([vars(log), vars(log._segment)])
        everything = b"".join(path.read_bytes() for path in kit.path.parent.iterdir())
    assert canary.encode() not in everything and canary not in secrets
    assert [one.event for one in events_in(kit, people[2])] == [None]


def test_the_writers_memory_after_an_append_does_not_open_it(kit, event):
    """The ratchet has moved on: with all that the segment holds now, the entry before stays sealed."""
    from audit.sealing import SegmentReader

    with kit.open() as log:
        log.append(event(1))
        chain = log._segment._chain
        log.append(event(2))
    connection = store.reader(kit.path)
    entries = [entry for _, entry, _ in store.entries(connection)]
    connection.close()
    thief = SegmentReader(chain, 0)
    thief._index = 1
    thief.read(entries[2])  # the promise is no more than this: later events of the segment do open
    thief = SegmentReader(chain, 0)
    with pytest.raises(IntegrityFailure):
        thief.read(entries[1])


def test_a_secret_that_differs_between_recipients_is_noticed(kit, event):
    """An opening that promises one secret and seals another deceives neither recipient silently."""
    from audit.entry import Entry
    from audit.sealing import Segment, SegmentReader

    origin = Header.from_bytes(b"\0" * HEADER_BYTES).origin
    opening = Segment(origin, 0, [kit.auditor.recipient, kit.recovery.recipient]).opening
    lied = Entry(opening.header, bytes([opening.body[0] ^ 1]) + opening.body[1:])
    for pair in (kit.auditor, kit.recovery):
        assert SegmentReader.open(opening, pair) is not None
        with pytest.raises(IntegrityFailure, match="promised"):
            SegmentReader.open(lied, pair)


def test_the_hybrid_suite_works_and_suites_do_not_mix(tmp_path, event, people):
    first, second = generate("auditor"), generate("recovery")
    signer = Signer.generate("cloche/log/hybrid")
    with Log.create(tmp_path / "log", signer, [first.recipient, second.recipient], tmp_path / "mark") as log:
        log.append(event(7))
    size = verify(tmp_path / "log", signer.key, tmp_path / "mark").size
    assert [one.event.detail for one in read(tmp_path / "log", second, size)] == [{"number": 7}]
    with pytest.raises(BadInput, match="suites"):
        Log.create(tmp_path / "l2", signer, [first.recipient, people[0].recipient], tmp_path / "m2")


@pytest.mark.parametrize("count", [0, 1, "twice the same"])
def test_fewer_than_two_recipients_are_refused(tmp_path, people, count):
    recipients = [people[0].recipient] * 2 if isinstance(count, str) else [p.recipient for p in people[:count]]
    with pytest.raises(Refused, match="two to sixteen"):
        Log.create(tmp_path / "log", Signer.generate("x"), recipients, tmp_path / "mark")
    assert list(tmp_path.iterdir()) == []


def test_headers_count_and_say_nothing(kit, event):
    with kit.open() as log:
        log.append(event(1))
        log.append(event(2, filler="y" * 3000))
    found = headers(kit)
    assert [(h.class_, h.sequence, h.segment, h.ordinal, h.size_class) for h in found] == [
        (OPENING, 0, 0, 0, 0), (1, 1, 0, 1, 0), (1, 2, 0, 2, 2)]  # fmt: skip


def test_a_segment_ends_at_its_4096th_event(kit, event):
    with kit.open() as log:
        log.append_many([event(number) for number in range(4100)])
    openings = [h.sequence for h in headers(kit) if h.class_ == OPENING]
    assert openings == [0, 4097]
    assert [one.event.detail["number"] for one in events_in(kit)] == list(range(4100))


def test_an_exception_in_a_batch_commits_none_of_it(kit, event):
    with kit.open() as log:
        with pytest.raises(KeyError), log.batch() as batch:
            batch.append(event(1))
            raise KeyError
        with pytest.raises(BadInput, match="manifest"), log.batch() as batch:
            batch.append(event(1))
            batch.append(event(2, filler="z" * 70_000))
        assert log.append_many([]) == []
        log.append(event(3))
    assert [one.event.detail["number"] for one in events_in(kit)] == [3]


def test_two_writers_share_a_log_without_gap_or_double(kit):
    script = """
        for number in range(40):
            if number % 3:
                log.append(event(number))
            else:
                log.append_many([event(number), event(1000 + number)])
    """
    writers = [child(kit, name, script) for name in ("one", "two")]
    for process in writers:
        assert process.communicate(timeout=120)[0] == "" and process.returncode == 0
    found = events_in(kit)
    for name in ("one", "two"):
        numbers = [one.event.detail["number"] for one in found if one.event.actor.user == name]
        assert [n for n in numbers if n < 1000] == list(range(40)) and len(numbers) == 54
    users = [one.event.actor.user for one in found]
    assert any(a != b for a, b in zip(users, users[1:], strict=False)), "they did not overlap"


def test_kill_9_at_any_moment_loses_nothing_that_counted(kit, event):
    for attempt in range(4):
        process = child(
            kit, f"run {attempt}", "for number in range(10**9):\n    print(log.append(event(number)), flush=True)"
        )
        time.sleep(0.35 + 0.13 * attempt)
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.communicate(timeout=30)[0].split()]
        found = events_in(kit)
        own = [one for one in found if one.event.actor.user == f"run {attempt}"]
        assert [one.event.detail["number"] for one in own] == list(range(len(own)))
        assert len(said) <= len(own) <= len(said) + 1
        if said:
            assert said == [one.sequence for one in own][: len(said)]
    with kit.open() as log:
        log.append(event(5))
    assert events_in(kit)[-1].event.detail == {"number": 5}
    assert len(events_in(kit)) > 10, "the children never came to append anything"


def test_a_full_disk_stops_the_work_and_leaves_the_log_whole(kit):
    """The file size limit stands for the full disk: the write that crosses it fails in the middle."""
    process = child(
        kit,
        "full",
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log.append(event(0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        try:
            for number in range(1, 100):
                log.append(event(number))
        except ClocheError as error:
            print(type(error).__name__, error.exit_code, number)
            print(error.diagnostics())
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        log.append(event(1000))
        """,
    )
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    name, code, number = said.split()[:3]
    assert (name, code) == ("EnvironmentProblem", "6") and "log.sqlite" in said and "Next: free some space" in said
    numbers = [one.event.detail["number"] for one in events_in(kit)]
    assert numbers == [*range(int(number)), 1000]


def test_a_forked_child_has_a_segment_of_its_own(kit, event):
    with kit.open() as log:
        log.append(event(1))
        pid = os.fork()
        if pid == 0:
            try:
                log.append(event(2))
                log.close()
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        log.append(event(3))
    assert [one.event.detail["number"] for one in events_in(kit)] == [1, 2, 3]
    assert [h.segment for h in headers(kit)] == [0, 0, 2, 2, 0]


def test_a_log_replaced_while_it_is_open_is_not_continued(kit, event):
    """Two histories under one key are what a log must never sign."""
    with kit.open() as log:
        log.append(event(1))
        connection = store.writer(kit.path)
        connection.execute("DROP TRIGGER entries_stay")
        connection.execute("DELETE FROM entries WHERE sequence = 1")
        empty = log._signer.sign(open_note(log.checkpoint(), log.key).__class__(log.key.name, 0, b"\0" * 32))
        connection.execute("UPDATE head SET note = ?, frontier = x''", (empty,))
        connection.close()
        with pytest.raises(IntegrityFailure):
            log.append(event(2))


def test_a_writer_that_cannot_get_the_lock_says_so(kit, event, monkeypatch):
    monkeypatch.setattr(store, "BUSY_S", 0.1)
    with kit.open() as log, kit.open() as other:
        other._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(EnvironmentProblem, match="locked"):
            log.append(event(1))
        other._connection.execute("ROLLBACK")
        log.append(event(2))
    assert [one.event.detail["number"] for one in events_in(kit)] == [2]


def test_verification_while_a_writer_writes(kit):
    process = child(kit, "busy", "for number in range(150): log.append(event(number))")
    sizes = []
    while process.poll() is None:
        verdict = verify(kit.path, kit.signer.key, kit.mark)
        assert verdict.state == "intact", verdict.sentence
        sizes.append(verdict.size)
    assert process.communicate()[0] == ""
    assert sizes == sorted(sizes) and events_in(kit)[-1].event.detail == {"number": 149}


def test_verification_takes_no_memory_that_grows(kit, event):
    import tracemalloc

    peaks = []
    for count in (300, 3000):
        with kit.open() as log:
            log.append_many([event(number) for number in range(count)])
        tracemalloc.start()
        assert verify(kit.path, kit.signer.key, kit.mark).state == "intact"
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000, peaks
