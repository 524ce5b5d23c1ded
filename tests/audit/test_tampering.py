"""A changed byte leaves every entry and the verdict as they were, or makes verification name the entry that it broke.

So do entries that are deleted, moved, doubled, replaced or cut off, and an older copy put in the place of the log.
"""

import os
import random
import shutil
import sqlite3
from contextlib import suppress

import pytest

from audit import store
from audit.checkpoint import Checkpoint, Signer, VerifierKey, open_note
from audit.entry import leaf
from audit.errors import IntegrityFailure
from audit.log import Log
from audit.merkle import Frontier
from audit.reading import read
from audit.verify import verify

FLIPS = 700


@pytest.fixture
def filled(kit, event):
    """A log of 14 entries in three segments, closed: one plain file."""
    for segment in range(3):
        with kit.open() as log:
            log.append(event(segment))
            with log.batch() as batch:
                batch.append(event(10 + segment))
                batch.append(event(20 + segment, filler="x" * 1500))
    with kit.open() as log:
        log.append(event(99))
    return kit


def rows(path):
    connection = store.reader(path)
    try:
        return [(sequence, entry.header, entry.body) for sequence, entry, _ in store.entries(connection)]
    finally:
        connection.close()


def edit(path, *statements):
    """Change a log with SQL as somebody would who owns the file: triggers off, then the change."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("DROP TRIGGER entries_stay")
    connection.execute("DROP TRIGGER entries_do_not_change")
    for statement, *values in statements:
        connection.execute(statement, values)
    connection.close()


def failed(kit, at=None, **arguments):
    verdict = verify(kit.path, kit.signer.key, kit.mark, **arguments)
    assert verdict.state == "failed", verdict.sentence
    assert verdict.why and verdict.failed_at is not None and str(verdict.failed_at) in verdict.sentence
    if at is not None:
        assert verdict.failed_at == at, verdict.sentence
    return verdict


def test_an_untouched_log_is_intact(filled):
    verdict = verify(filled.path, filled.signer.key, filled.mark)
    assert (verdict.state, verdict.anchored, verdict.size, verdict.failed_at) == ("intact", True, 14, None)
    assert verdict.sentence.startswith("intact, unwitnessed: 14 entries, anchored to key ")
    assert open_note(verdict.checkpoint.encode(), filled.signer.key).size == 14
    alone = verify(filled.path)
    assert not alone.anchored and alone.sentence.startswith("consistent, unanchored")


def test_any_changed_byte_of_the_file_is_harmless_or_named(filled, tmp_path):
    data, before = filled.path.read_bytes(), rows(filled.path)
    intact = verify(filled.path, filled.signer.key, filled.mark)
    chance, copy = random.Random(2), tmp_path / "copy.sqlite"
    spots = [*range(100), *(chance.randrange(len(data)) for _ in range(FLIPS))]
    outcomes = {"intact": 0, "failed": 0}
    for spot in spots:
        changed = bytearray(data)
        changed[spot] ^= chance.randrange(1, 256)
        copy.write_bytes(changed)
        verdict = verify(copy, filled.signer.key, filled.mark)
        outcomes[verdict.state] += 1
        if verdict.state == "intact":
            assert verdict == intact and rows(copy) == before, f"byte {spot}"
        else:
            assert verdict.failed_at is not None and 0 <= verdict.failed_at <= 14 and verdict.why, f"byte {spot}"
            with suppress(IntegrityFailure):  # who reads what did not verify gets this, or events that decrypt
                list(read(copy, filled.auditor, 14))
    assert outcomes["failed"] > FLIPS // 4, outcomes


def test_any_changed_byte_of_what_an_entry_says_names_that_entry(filled, tmp_path):
    """Header, body and stored leaf hash of each entry, wherever the file holds them."""
    data, copy, chance = filled.path.read_bytes(), tmp_path / "copy.sqlite", random.Random(3)
    found = 0
    for sequence, header, body in rows(filled.path):
        for piece in (header, body[:300], body[-200:]):
            start = data.find(piece)
            if start < 0 or data.count(piece) > 1:  # split over pages, or left over in a freed place as well
                continue
            found += 1
            changed = bytearray(data)
            changed[start + chance.randrange(len(piece))] ^= 1 << chance.randrange(8)
            copy.write_bytes(changed)
            verdict = verify(copy, filled.signer.key, filled.mark)
            assert (verdict.state, verdict.failed_at) == ("failed", sequence)
            assert verdict.size == sequence
    assert found > 20


@pytest.mark.parametrize("where", ["log.sqlite-wal", "log.sqlite", "high-water"])
def test_a_changed_byte_of_a_log_that_is_being_written_is_harmless_or_named(kit, event, tmp_path, where):
    """The database, its write-ahead log, which holds the entries, and the mark, as a power loss leaves them."""
    with kit.open() as log:
        for number in range(5):
            log.append(event(number))
        files = {path.name: path.read_bytes() for path in kit.path.parent.iterdir() if path.suffix != ".sqlite-shm"}
    assert len(files["log.sqlite-wal"]) > 20_000, "the entries are to stand in the write-ahead log alone"
    folder, chance = tmp_path / "copy", random.Random(4)
    copy, mark = folder / "log.sqlite", folder / "high-water"
    found = []
    for spot in [None, *range(100), *(chance.randrange(len(files[where])) for _ in range(250))]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        if spot is not None:
            changed = bytearray(files[where])
            changed[spot] ^= chance.randrange(1, 256)
            (folder / where).write_bytes(changed)
        verdict = verify(copy, kit.signer.key, mark)
        found.append(verdict.state)
        if spot is None:
            intact, before = verdict, rows(copy)
        elif verdict.state == "intact":
            assert verdict == intact and rows(copy) == before, f"byte {spot}"
        else:
            assert verdict.failed_at is not None and verdict.why, f"byte {spot}"
    assert found[0] == "intact" and intact.size == 6
    assert found.count("failed") > {"log.sqlite-wal": 100, "log.sqlite": 10, "high-water": 50}[where]


def test_a_schema_that_is_no_text_any_more_is_a_verdict(filled):
    """Python itself fails on the message that SQLite has for this."""
    data = filled.path.read_bytes()
    changed = data.replace(b"id INTEGER PRIMARY KEY, frontier", b"id INTEGER PRIMARY KE\xf0, frontier")
    assert changed != data
    filled.path.write_bytes(changed)
    failed(filled, at=0)
    for attempt in (lambda: list(read(filled.path, filled.auditor, 14)), filled.open):
        with pytest.raises(IntegrityFailure) as caught:
            attempt()
        assert isinstance(caught.value.__cause__.__cause__, UnicodeDecodeError)


@pytest.mark.parametrize("sequence", [0, 2])
@pytest.mark.parametrize("body", [b"", b"x" * 11, b"x" * 33])
def test_a_body_that_is_too_short_is_named_by_who_reads(filled, sequence, body):
    edit(filled.path, ("UPDATE entries SET body = ? WHERE sequence = ?", body, sequence))
    failed(filled, at=sequence)
    with pytest.raises(IntegrityFailure):
        list(read(filled.path, filled.auditor, 14))


@pytest.mark.parametrize("length", [0, 1, 99, 100, 4096, 9000, 20000])
def test_a_cut_file_is_a_verdict_not_a_traceback(filled, length):
    os.truncate(filled.path, length)
    failed(filled)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 400, b"SQLite format 3\x00" + b"\xff" * 9000])
def test_another_file_in_its_place_is_a_verdict(filled, content):
    filled.path.write_bytes(content)
    failed(filled, at=0)


def test_a_log_that_is_gone_is_a_verdict(filled):
    filled.path.unlink()
    failed(filled, at=0)


@pytest.mark.parametrize("victim", [0, 5, 12])
def test_a_deleted_entry(filled, victim):
    edit(filled.path, ("DELETE FROM entries WHERE sequence = ?", victim))
    assert failed(filled, at=victim).why == "it is missing"


def test_a_deleted_entry_with_the_others_moved_up(filled):
    edit(
        filled.path,
        ("DELETE FROM entries WHERE sequence = 5",),
        ("UPDATE entries SET sequence = sequence - 1 WHERE sequence > 5",),
    )
    assert failed(filled, at=5).why == "it was written as entry 6"


def test_two_entries_in_each_others_place(filled):
    edit(
        filled.path,
        ("UPDATE entries SET sequence = 100 WHERE sequence = 3",),
        ("UPDATE entries SET sequence = 3 WHERE sequence = 2",),
        ("UPDATE entries SET sequence = 2 WHERE sequence = 100",),
    )
    failed(filled, at=2)


def test_a_doubled_entry(filled):
    edit(filled.path, ("INSERT INTO entries SELECT 14, header, body, leaf FROM entries WHERE sequence = 13",))
    failed(filled, at=14)


def test_an_entry_that_nobody_signed_for(filled, event):
    """An entry of the writer's own, appended without its key: the header is right, the checkpoint is not."""
    twin = Signer.generate(filled.signer.key.name)
    with Log.create(
        filled.path.with_name("twin"), twin, [filled.auditor.recipient, filled.recovery.recipient],
        filled.path.with_name("twin-mark"),
    ) as log:  # fmt: skip
        for number in range(14):
            log.append(event(number))
        log.checkpoint()
    edit(
        filled.path,
        ("ATTACH ? AS twin", str(filled.path.with_name("twin"))),
        ("INSERT INTO entries SELECT * FROM twin.entries WHERE sequence = 14",),
    )
    assert "no checkpoint" in failed(filled, at=14).why


def test_a_replaced_entry_with_its_leaf_hash_made_to_fit(filled):
    old = rows(filled.path)[6]
    body = old[2][:-1] + bytes([old[2][-1] ^ 1])
    edit(
        filled.path,
        ("UPDATE entries SET body = ?, leaf = ? WHERE sequence = 6", body, leaf(old[1], body)),
    )
    verdict = failed(filled)
    assert verdict.failed_at == 0 and "0 to 13" in verdict.why  # no older checkpoint narrows it down


def test_older_checkpoints_narrow_a_failure_down(kit, event):
    with kit.open() as log:
        for _ in range(7):
            log.append_many([event(number) for number in range(100)])
    old = rows(kit.path)[400]
    body = old[2][:-1] + bytes([old[2][-1] ^ 1])
    edit(kit.path, ("UPDATE entries SET body = ?, leaf = ? WHERE sequence = 400", body, leaf(old[1], body)))
    assert 256 <= failed(kit).failed_at <= 400


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE subtrees SET hash = zeroblob(32)",
        "UPDATE subtrees SET place = 1",
        "DELETE FROM subtrees",
        "INSERT INTO subtrees VALUES (8, 1, zeroblob(32))",
        "INSERT INTO subtrees VALUES (16, 0, zeroblob(32))",
    ],
)
def test_changed_subtrees_are_a_failure(kit, event, statement):
    """They only make proofs short, but a proof that was made of others would fail at the one who asked for it."""
    with kit.open() as log:
        log.append_many([event(number) for number in range(300)])
    edit(kit.path, (statement,))
    assert "subtree" in failed(kit).why


def test_a_damaged_older_checkpoint_is_a_failure(kit, event):
    with kit.open() as log:
        log.append_many([event(number) for number in range(300)])
    edit(kit.path, ("UPDATE checkpoints SET note = CAST(substr(note, 2) AS BLOB)",))
    assert "signed" in failed(kit).why


def test_a_whole_log_rebuilt_with_another_key(filled, event):
    """The thief has everything but the log's key; the pin tells, and without it the verdict does not claim more."""
    recipients = [filled.auditor.recipient, filled.recovery.recipient]
    filled.path.unlink()
    filled.mark.unlink()
    other = Signer.generate(filled.signer.key.name)
    with Log.create(filled.path, other, recipients, filled.mark) as log:
        log.append(event(1))
    failed(filled)
    assert verify(filled.path, None, filled.mark).anchored is False


def test_an_older_copy_in_its_place_is_caught_by_the_mark(filled, event, tmp_path):
    older = tmp_path / "older"
    shutil.copy(filled.path, older)
    with filled.open() as log:
        log.append(event(1))
    shutil.copy(older, filled.path)
    assert verify(filled.path, filled.signer.key).state == "intact"  # nothing inside the file can tell
    verdict = failed(filled, at=14)
    assert "the high-water mark says 16 entries, the log has 14" in verdict.why
    with pytest.raises(IntegrityFailure, match="cut short"):
        filled.open()


def test_an_older_copy_is_caught_by_a_witnessed_checkpoint_without_the_mark(filled, event, tmp_path):
    older = tmp_path / "older"
    shutil.copy(filled.path, older)
    with filled.open() as log:
        log.append(event(1))
        witnessed = open_note(log.checkpoint(), filled.signer.key)
    assert verify(filled.path, filled.signer.key, None, witnessed).witnessed_to == 16
    with filled.open() as log:
        log.append(event(1))
    longer = verify(filled.path, filled.signer.key, None, witnessed)
    assert "witnessed to 16, unwitnessed tail 16..18:" in longer.sentence
    shutil.copy(older, filled.path)
    assert "kept elsewhere" in verify(filled.path, filled.signer.key, None, witnessed).why


def test_a_history_signed_by_a_stolen_key_is_caught_by_the_witness(filled, event):
    """The thief has the log's key, too: only a checkpoint out of reach can tell."""
    with filled.open() as log:
        witnessed = open_note(log.checkpoint(), filled.signer.key)
    filled.path.unlink()
    filled.mark.unlink()
    recipients = [filled.auditor.recipient, filled.recovery.recipient]
    with Log.create(filled.path, filled.signer, recipients, filled.mark) as log:
        for number in range(20):
            log.append(event(number))
    assert verify(filled.path, filled.signer.key, filled.mark).state == "intact"
    failed(filled, at=0, witness=witnessed)


def test_tail_deleted_and_checkpoint_of_then_put_back(filled, event):
    """Rollback inside the file: entries, frontier and the genuine older checkpoint all fit; the mark does not."""
    connection = store.reader(filled.path)
    before = store.head(connection)
    connection.close()
    with filled.open() as log:
        log.append(event(1))
    edit(
        filled.path,
        ("DELETE FROM entries WHERE sequence >= 14",),
        ("UPDATE head SET frontier = ?, note = ?", before.frontier, before.note),
    )
    assert verify(filled.path, filled.signer.key).state == "intact"
    failed(filled, at=14)


@pytest.mark.parametrize("damage", ["gone", "flipped", "empty", "of another log"])
def test_a_damaged_mark_is_a_failure(filled, damage):
    if damage == "gone":
        filled.mark.unlink()
    elif damage == "empty":
        filled.mark.write_bytes(b"")
    elif damage == "flipped":
        data = bytearray(filled.mark.read_bytes())
        data[20] ^= 1
        filled.mark.write_bytes(data)
    else:
        other = Signer.generate("cloche/log/other")
        filled.mark.write_bytes(other.sign(Checkpoint(other.key.name, 1, Frontier().root())).ljust(512, b"\0"))
    failed(filled)
    with pytest.raises(IntegrityFailure):
        filled.open()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE head SET frontier = zeroblob(length(frontier))",
        "UPDATE head SET frontier = x''",
        "UPDATE head SET note = x''",
        "UPDATE head SET note = substr(note, 1, length(note) - 1)",
        "DELETE FROM head",
        "INSERT INTO head SELECT 1, frontier, note, key FROM head",
        "DROP TABLE head",
        "DROP TABLE entries",
        "ALTER TABLE entries RENAME COLUMN body TO corpse",
        "DELETE FROM entries",
    ],
)
def test_a_damaged_head_or_schema_is_a_failure(filled, statement):
    edit(filled.path, (statement,))
    failed(filled)


@pytest.mark.parametrize(
    "view",
    [
        "CREATE VIEW entries AS SELECT * FROM truth WHERE sequence != 9",
        "CREATE VIEW entries AS SELECT * FROM truth WHERE sequence < 13 OR random() % 2",
    ],
)
def test_a_view_that_speaks_for_the_table_is_caught(filled, view):
    """Its rows may come and go: what was verified and what is read afterwards would be two things."""
    edit(filled.path, ("ALTER TABLE entries RENAME TO truth",), (view,))
    assert {failed(filled).why for _ in range(20)} == {
        "a table of the log is a view, whose rows can change from one look to the next"
    }
    with pytest.raises(IntegrityFailure, match="view"):
        list(read(filled.path, filled.auditor, 14))


def test_a_virtual_table_that_speaks_for_the_table_is_caught(filled):
    edit(
        filled.path,
        ("ALTER TABLE entries RENAME TO truth",),
        ("CREATE VIRTUAL TABLE entries USING fts5(sequence, header, body, leaf)",),
    )
    assert "is a view" in failed(filled, at=0).why


def test_deleted_older_checkpoints_and_unknown_tables_change_nothing(filled):
    edit(filled.path, ("DELETE FROM checkpoints",), ("CREATE TABLE remarks (text)",))
    assert verify(filled.path, filled.signer.key, filled.mark).size == 14


def test_verification_changes_nothing(filled):
    before = {path.name: path.read_bytes() for path in filled.path.parent.iterdir()}
    verify(filled.path, filled.signer.key, filled.mark)
    assert filled.path.read_bytes() == before[filled.path.name] and filled.mark.read_bytes() == before[filled.mark.name]


def test_a_pin_of_another_key_fails_at_once(filled):
    stranger = VerifierKey(filled.signer.key.name, Signer.generate("x").key.public)
    assert verify(filled.path, stranger, filled.mark).state == "failed"
