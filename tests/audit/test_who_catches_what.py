"""Attacks on a log, and which anchor catches each: the table in docs/security.md is made here, out of verdicts.

After a change:  python -m tests.audit.test_who_catches_what  prints the table to paste between the two markers.
"""

import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.checkpoint import open_note
from audit.entry import Header
from audit.keys import generate
from audit.log import Log
from audit.sealing import Segment
from audit.verify import verify
from tests.audit import attacks_log
from tests.audit.adversary import Attack, Victim, alive, plain, remarks
from tests.audit.attacks_entries import renumbered

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
MARKERS = "<!-- who catches what -->\n", "<!-- end -->"
ANCHORS = ("the pinned key alone", "and the high-water mark", "and a witness")


def edit(a: Attack) -> None:
    n, _, body, _ = a.rows[5]
    a.sql(("UPDATE entries SET body = ? WHERE sequence = ?", body[:-1] + bytes([body[-1] ^ 1]), n))


def edit_and_refit(a: Attack) -> None:
    n, header, body, _ = a.rows[5]
    a.put((n, header, body[:-1] + bytes([body[-1] ^ 1])))
    a.refit()


def reorder(a: Attack) -> None:
    (_, header, body, _), (_, other, corpse, _) = a.rows[5], a.rows[6]
    a.put((6, header, body), (5, other, corpse))


def delete(a: Attack) -> None:
    a.sql(("DELETE FROM entries WHERE sequence = 5",))


def delete_and_close_the_gap(a: Attack) -> None:
    a.sql(
        ("DELETE FROM entries WHERE sequence = 5",),
        ("UPDATE entries SET sequence = -sequence WHERE sequence > 5",),
        ("UPDATE entries SET sequence = -sequence - 1 WHERE sequence < 0",),
    )


def delete_and_renumber(a: Attack) -> None:
    rows = a.rows
    a.sql(("DELETE FROM entries WHERE sequence >= 5",))
    a.put(*[(n - 1, renumbered(header, n - 1), body) for n, header, body, _ in rows if n > 5])
    a.refit()


def double(a: Attack) -> None:
    a.put((len(a.rows), *a.rows[5][1:3]))


def splice(a: Attack) -> None:
    a.sql(
        ("ATTACH ? AS other", str(a.foreign("cloche/log/other"))), ("REPLACE INTO entries SELECT * FROM other.entries",)
    )


def splice_under_one_name(a: Attack) -> None:
    """Two appliances could not have one name; whoever made the second log chose it."""
    a.sql(
        ("ATTACH ? AS other", str(a.foreign())),
        ("REPLACE INTO entries SELECT * FROM other.entries WHERE sequence < 10",),
    )
    a.refit()


def reseal(a: Attack) -> None:
    newer = Segment(Header.from_bytes(a.rows[0][1]).origin, len(a.rows), [pair.recipient for pair in a.victim.people])
    a.put((5, *newer.seal(5, b"{}")))


def rebuild_with_another_key(a: Attack) -> None:
    attacks_log.replace_the_log_by_one_under_another_key(a)


def cut(a: Attack) -> None:
    a.sql(("DELETE FROM entries WHERE sequence >= 20",))


def cut_back_to_a_checkpoint(a: Attack) -> None:
    older = Attack(a.victim, a.folder / "again", a.dice)
    shutil.copy(older.folder / "older.sqlite", older.path)
    older.wal.unlink(missing_ok=True)
    note = older.value("SELECT note FROM head")
    a.sql(("DELETE FROM entries WHERE sequence >= 10",), ("UPDATE head SET note = ?", note))
    a.refit()


def roll_back(a: Attack) -> None:
    attacks_log.put_the_older_copy_in_its_place(a)


def cut_and_continue(a: Attack) -> None:
    roll_back(a)
    with a.writer() as log:
        log.append_many(remarks(700, 40))


def drop_the_wal(a: Attack) -> None:
    a.wal.unlink()


def roll_back_with_the_mark(a: Attack) -> None:
    attacks_log.put_the_older_copy_and_the_older_mark_in_place(a)


def cut_and_continue_with_the_mark(a: Attack) -> None:
    cut_and_continue(a)
    shutil.copy(a.folder / "own-mark", a.mark)


def rebuild_with_the_stolen_key(a: Attack) -> None:
    for file in (a.path, a.wal, a.mark):
        file.unlink(missing_ok=True)
    recipients = [pair.recipient for pair in a.victim.people]
    with Log.create(a.path, a.victim.signers[0], recipients, a.mark) as log:
        log.append_many(remarks(900, 40))


def rewrite_what_no_witness_saw(a: Attack) -> None:
    """With the stolen key, after the witness's last visit."""
    size = open_note(a.victim.witnessed, a.victim.pin).size
    with Log(a.path, a.victim.signers[0], [pair.recipient for pair in a.victim.people], a.mark) as log:
        log.append_many(remarks(0, 3))
    a.sql(("DELETE FROM entries WHERE sequence >= ?", size))
    a.refit(a.victim.signers[0])
    a.mark.unlink()
    shutil.copy(a.folder / "older-mark", a.mark)


WHOSE = ("the newest checkpoint", "the high-water mark", "a checkpoint kept elsewhere")


def caught(by: int, why: str) -> tuple[str | None, ...]:
    """What verification says by each set of anchors, if those from number `by` on catch it."""
    return tuple(f"FAILED at entry {why.format(whose)}" if at >= by else None for at, whose in enumerate(WHOSE))


PIN, MARK, WITNESS, NOBODY = range(4)
ATTACKS: list[tuple[str, Callable[[Attack], None], tuple[str | None, ...]]] = [
    ("a byte of an entry is edited", edit, caught(PIN, "5: its bytes are not those that were logged")),
    ("an entry is edited, its leaf hash and the tree are made to fit", edit_and_refit,
     caught(PIN, "0: entries 0 to 28 are not those of {}")),
    ("two entries change places", reorder, caught(PIN, "5: it was written as entry 6")),
    ("an entry is deleted in the middle", delete, caught(PIN, "5: it is missing")),
    ("an entry is deleted, those behind it move up", delete_and_close_the_gap,
     caught(PIN, "5: it was written as entry 6")),
    ("an entry is deleted, those behind it are numbered anew", delete_and_renumber,
     caught(PIN, "28: it is missing: {} says 29 entries, the log has 28")),
    ("an entry stands twice", double, caught(PIN, "29: it was written as entry 5")),
    ("entries of another log are spliced in", splice, caught(PIN, "0: it belongs to another log")),
    ("entries of another log of the same name are spliced in", splice_under_one_name,
     caught(PIN, "0: entries 0 to 28 are not those of {}")),
    ("an old entry is sealed again with a newer segment's key", reseal,
     caught(PIN, "5: its segment and its index contradict each other")),
    ("the log is rebuilt with another key", rebuild_with_another_key,
     caught(PIN, "0: a checkpoint is not signed by the log's key")),
    ("the tail is cut off", cut, caught(PIN, "20: it is missing: {} says 29 entries, the log has 20")),
    ("the tail is cut off, and the checkpoint of then put back", cut_back_to_a_checkpoint,
     caught(MARK, "10: it is missing: {} says 29 entries, the log has 10")),
    ("the log is rolled back to an older copy", roll_back,
     caught(MARK, "10: it is missing: {} says 29 entries, the log has 10")),
    ("the tail is cut off, and the log goes on from there", cut_and_continue,
     caught(MARK, "0: entries 0 to 28 are not those of {}")),
    ("the write-ahead log is dropped", drop_the_wal,
     caught(MARK, "21: it is missing: {} says 28 entries, the log has 21")),
    ("log and high-water mark are rolled back together", roll_back_with_the_mark,
     caught(WITNESS, "10: it is missing: {} says 29 entries, the log has 10")),
    ("the same, and the log goes on from there", cut_and_continue_with_the_mark,
     caught(WITNESS, "0: entries 0 to 28 are not those of {}")),
    ("log and mark are rebuilt with the stolen key", rebuild_with_the_stolen_key,
     caught(WITNESS, "0: entries 0 to 28 are not those of {}")),
    ("what came after the witness's last visit is cut off with the stolen key, mark included",
     rewrite_what_no_witness_saw, caught(NOBODY, "")),
]  # fmt: skip
"""What is done, how, and what verification says by each set of anchors; None where it finds nothing."""


@pytest.fixture(scope="module")
def targets(tmp_path_factory, people):
    return made(tmp_path_factory.mktemp("targets"), people[:2])


def made(folder: Path, people: tuple) -> dict[str, Victim]:
    """A closed log of 29 entries, and one of 28 that is being written."""
    return {"plain": plain(folder, people), "alive": alive(folder, people)}


def said(targets: dict[str, Victim], folder: Path, what: Callable[[Attack], None]) -> tuple[str | None, ...]:
    """What verification says after an attack, by each set of anchors."""
    victim = targets["alive" if what is drop_the_wal else "plain"]
    a = Attack(victim, folder, random.Random(0))
    what(a)
    witnessed = open_note(victim.witnessed, victim.pin)
    verdicts = [
        verify(a.path, victim.pin),
        verify(a.path, victim.pin, a.mark),
        verify(a.path, victim.pin, a.mark, witnessed),
    ]
    return tuple(None if one.state == "intact" else one.sentence for one in verdicts)


@pytest.mark.parametrize(("name", "what", "expected"), ATTACKS, ids=[name for name, _, _ in ATTACKS])
def test_what_catches_it_and_in_which_words(targets, tmp_path, name, what, expected):
    assert said(targets, tmp_path / "attacked", what) == expected


def test_untouched_logs_are_intact(targets, tmp_path):
    for name in ("plain", "alive"):
        victim = targets[name]
        assert said({"alive": victim, "plain": victim}, tmp_path / name, lambda _: None) == (None, None, None)


def table() -> str:
    """The attacks and their catchers as markdown."""
    lines = [f"| change to the log | {' | '.join(ANCHORS)} | what verification says |", "|---|---|---|---|---|"]
    for name, _, expected in ATTACKS:
        message = next((one for one in expected if one), "nothing: this is what a witness's visits are for")
        cells = ["caught" if one else "–" for one in expected]
        lines.append(f"| {name} | {' | '.join(cells)} | {message.replace('|', '')} |")
    return "\n".join(lines) + "\n"


def test_the_page_about_security_has_this_table():
    first, last = MARKERS
    page = SECURITY.read_text()
    assert page.count(first) == 1, f"docs/security.md has no {first}: paste the table of this file between the markers"
    found = page.partition(first)[2].partition(last)[0]
    assert found == table(), f"paste it anew: {sys.executable} -m tests.audit.test_who_catches_what"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:  # the table says what is so, or nothing
        logs = made(Path(name), (generate("auditor", "X25519"), generate("recovery", "X25519")))
        for number, (_, what, expected) in enumerate(ATTACKS):
            assert said(logs, Path(name) / str(number), what) == expected
    print(table(), end="")
