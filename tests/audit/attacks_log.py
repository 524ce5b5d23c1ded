"""Attacks on the log as a whole: rebuilt, cut, rolled back, damaged; and on head, checkpoints, keys, copies."""

import shutil
import sqlite3

from audit.checkpoint import Checkpoint, Signer, VerifierKey, open_note
from audit.log import Log
from audit.rotation import Predecessor, Rotation
from tests.audit.adversary import Attack, attack, remarks

# --- The whole log, its end, its past ------------------------------------------------------------------------------


@attack()
def replace_the_log_by_one_under_another_key(a: Attack) -> None:
    shutil.copy(a.foreign(), a.path)
    a.wal.unlink(missing_ok=True)


@attack()
def replace_the_log_and_its_mark_by_ones_under_another_key(a: Attack) -> None:
    replace_the_log_by_one_under_another_key(a)
    shutil.copy(a.folder / "foreign" / "high-water", a.mark)


@attack()
def rebuild_the_log_with_the_stolen_key(a: Attack) -> None:
    for file in (a.path, a.wal):
        file.unlink(missing_ok=True)
    signer = a.victim.signers[0]
    recipients = [pair.recipient for pair in a.victim.people]
    with Log.create(a.path, signer, recipients, a.folder / "own-mark", predecessor=a.before(signer)) as log:
        log.append_many(remarks(900, 3 + a.dice.randrange(50)))
    if a.dice.random() < 0.5:
        shutil.copy(a.folder / "own-mark", a.mark)


@attack()
def cut_the_end_off(a: Attack) -> None:
    a.sql(("DELETE FROM entries WHERE sequence >= ?", a.one()))
    if a.dice.random() < 0.5:
        a.refit()


@attack()
def put_the_older_copy_in_its_place(a: Attack) -> None:
    shutil.copy(a.folder / "older.sqlite", a.path)
    a.wal.unlink(missing_ok=True)


@attack()
def put_the_older_copy_and_the_older_mark_in_place(a: Attack) -> None:
    put_the_older_copy_in_its_place(a)
    shutil.copy(a.folder / "older-mark", a.mark)


@attack()
def put_the_older_copy_in_its_place_and_continue_it(a: Attack) -> None:
    put_the_older_copy_in_its_place(a)
    with a.writer(a.victim.signers[0]) as log:
        log.append_many(remarks(700, a.dice.choice([1, 5, 400])))


@attack("rotated", "tall", "restarted")
def cut_the_end_off_back_to_a_checkpoint(a: Attack) -> None:
    """Rollback inside the file: entries, frontier and a genuine older checkpoint all fit."""
    connection = sqlite3.connect(a.path)
    size, note = a.dice.choice(connection.execute("SELECT size, note FROM checkpoints").fetchall())
    connection.close()
    a.sql(
        ("DELETE FROM entries WHERE sequence >= ?", size),
        ("DELETE FROM checkpoints WHERE size > ?", size),
        ("DELETE FROM rotations WHERE size > ?", size),
        ("UPDATE head SET note = ?", note),
    )
    a.refit()


@attack("alive")
def drop_the_write_ahead_log(a: Attack) -> None:
    a.wal.unlink()


@attack("alive")
def cut_the_write_ahead_log(a: Attack) -> None:
    data = a.wal.read_bytes()
    a.wal.write_bytes(data[: a.dice.randrange(len(data))])


@attack("alive")
def flip_a_byte_of_the_write_ahead_log(a: Attack) -> None:
    a.wal.write_bytes(a.flipped(a.wal.read_bytes()))


@attack()
def flip_a_byte_of_the_file(a: Attack) -> None:
    a.path.write_bytes(a.flipped(a.path.read_bytes()))


@attack()
def flip_a_byte_of_a_page_that_is_used(a: Attack) -> None:
    data = bytearray(a.path.read_bytes())
    page = a.dice.randrange(0, len(data), 8192)
    spots = [at for at in range(page, min(page + 8192, len(data))) if data[at]]
    data[a.dice.choice(spots or [page])] ^= 1 << a.dice.randrange(8)
    a.path.write_bytes(data)


@attack()
def cut_the_file(a: Attack) -> None:
    data = a.path.read_bytes()
    a.path.write_bytes(data[: a.dice.choice([0, 1, 99, 100, 8192, a.dice.randrange(len(data))])])


@attack()
def overwrite_a_page_with_another(a: Attack) -> None:
    data = bytearray(a.path.read_bytes())
    one, other = (a.dice.randrange(0, len(data), 8192) for _ in range(2))
    data[one : one + 8192] = data[other : other + 8192]
    a.path.write_bytes(data)


@attack("rotated")
def put_something_else_in_its_place(a: Attack) -> None:
    a.path.write_bytes(a.dice.choice([b"", b"no database " * 999, b"SQLite format 3\0" + b"\xff" * 9000]))


# --- Head, checkpoints, subtrees -----------------------------------------------------------------------------------


@attack()
def change_the_frontier(a: Attack) -> None:
    old = a.value("SELECT frontier FROM head")
    a.sql(("UPDATE head SET frontier = ?", a.dice.choice([b"", old[32:], old + b"\0" * 32, a.flipped(old), b"x"])))


@attack()
def change_the_newest_note(a: Attack) -> None:
    note = a.value("SELECT note FROM head")
    ways = [b"", a.flipped(note), note[:-1], note + b"\n", note.replace(b"\n", b"\r\n"), note * 2, b"\n\n" + note]
    a.sql(("UPDATE head SET note = ?", a.dice.choice(ways)))


@attack()
def put_an_older_note_first(a: Attack) -> None:
    a.sql(("UPDATE head SET note = (SELECT note FROM checkpoints ORDER BY size LIMIT 1)",))


@attack()
def sign_a_lie_with_the_stolen_key(a: Attack) -> None:
    newest = a.victim.signers[-1]
    size = max(0, len(a.rows) + a.dice.choice([-1, 0, 1, 1000]))
    a.sql(("UPDATE head SET note = ?", newest.sign(Checkpoint(newest.key.name, size, b"l" * 32))))


@attack()
def sign_a_text_that_is_no_checkpoint_with_the_stolen_key(a: Attack) -> None:
    newest, text = a.victim.signers[-1], open_text_of(a.value("SELECT note FROM head"))
    lines = text.split(b"\n")
    ways = [b"\n", b"x\n", text.replace(lines[1], b"0" + lines[1]), text.replace(lines[0], b"cloche/log/y"),
            text.replace(lines[1], b"-1"), text.replace(lines[2], lines[2][:-1]), b"\xff\n" + text]  # fmt: skip
    a.sql(("UPDATE head SET note = ?", newest.sign_text(a.dice.choice(ways))))


def open_text_of(note: bytes) -> bytes:
    """The text of a note, unchecked."""
    return note.rpartition(b"\n\n")[0] + b"\n"


@attack()
def change_the_number_of_heads(a: Attack) -> None:
    ways = ["DELETE FROM head", "INSERT INTO head SELECT 1, frontier, note, key FROM head"]
    a.sql((a.dice.choice(ways),))


@attack()
def change_what_nobody_relies_on(a: Attack) -> None:
    """Harmless, and must stay so: the key in the head, deleted older checkpoints, other tables, another layout."""
    ways = ["UPDATE head SET key = x'00'", "DELETE FROM checkpoints", "CREATE TABLE remarks (text)", "VACUUM",
            "UPDATE head SET id = 5", "DELETE FROM checkpoints WHERE size % 16 = 0"]  # fmt: skip
    a.sql((a.dice.choice(ways),))


@attack("rotated", "tall", "restarted", "carried")
def change_an_older_checkpoint(a: Attack) -> None:
    connection = sqlite3.connect(a.path)
    found = connection.execute("SELECT size, note FROM checkpoints").fetchall()
    connection.close()
    size, note = a.dice.choice(found)
    a.sql(("UPDATE checkpoints SET note = ? WHERE size = ?", a.dice.choice([b"", a.flipped(note), note[:-1]]), size))


@attack("rotated", "tall")
def swap_two_older_checkpoints(a: Attack) -> None:
    connection = sqlite3.connect(a.path)
    found = connection.execute("SELECT size, note FROM checkpoints").fetchall()
    connection.close()
    (one, first), (other, second) = a.dice.sample(found, 2)
    a.sql(
        ("UPDATE checkpoints SET note = ? WHERE size = ?", first, other),
        ("UPDATE checkpoints SET note = ? WHERE size = ?", second, one),
    )


@attack()
def add_a_checkpoint(a: Attack) -> None:
    """A genuine one in the wrong row is harmless; one of another key, or a lie under the stolen one, is not."""
    genuine = a.value("SELECT note FROM head")
    size, newest = a.one(), a.victim.signers[-1]
    lie = Checkpoint(newest.key.name, size, b"l" * 32)
    ways = [genuine, newest.sign(lie), Signer.generate(newest.key.name).sign(lie)]
    a.sql(("REPLACE INTO checkpoints VALUES (?, ?)", a.dice.choice([1, size, 10**9]), a.dice.choice(ways)))


@attack("tall")
def change_the_subtrees(a: Attack) -> None:
    ways: list[tuple] = [
        ("DELETE FROM subtrees",),
        ("INSERT INTO subtrees VALUES (8, 1, zeroblob(32))",),
        ("INSERT INTO subtrees VALUES (16, 0, zeroblob(32))",),
        ("UPDATE subtrees SET level = 16",),
        ("UPDATE subtrees SET place = 1",),
        ("UPDATE subtrees SET hash = ?", a.flipped(a.value("SELECT hash FROM subtrees"))),
        ("UPDATE subtrees SET hash = x''",),
        ("DROP TABLE subtrees",),
    ]
    a.sql(a.dice.choice(ways))


@attack()
def add_subtrees_that_no_entries_have(a: Attack) -> None:
    a.sql(("INSERT INTO subtrees VALUES (?, ?, zeroblob(32))", a.dice.choice([0, 8, 16]), a.dice.choice([5, 10**6])))


# --- Rotations, predecessor, manifests, mark, schema ----------------------------------------------------------------


@attack("rotated")
def delete_a_rotation(a: Attack) -> None:
    ways = ["DELETE FROM rotations", "DELETE FROM rotations WHERE size = (SELECT min(size) FROM rotations)",
            "DELETE FROM rotations WHERE size = (SELECT max(size) FROM rotations)"]  # fmt: skip
    a.sql((a.dice.choice(ways),))


@attack("rotated")
def change_a_rotation(a: Attack) -> None:
    connection = sqlite3.connect(a.path)
    (first, one), (second, other) = connection.execute("SELECT size, note FROM rotations ORDER BY size").fetchall()
    connection.close()
    size, note = a.dice.choice([(first, one), (second, other)])
    cut = note[: note.rstrip().rindex(b"\n") + 1]
    ways = [b"", a.flipped(note), a.flipped(note), cut, note + cut.rpartition(b"\n\n")[2], one, other]
    a.sql(("UPDATE rotations SET note = ? WHERE size = ?", a.dice.choice(ways), size))


@attack("rotated")
def swap_the_rotations(a: Attack) -> None:
    a.sql(("UPDATE rotations SET size = 1000 - size",))


@attack()
def hand_the_log_over_to_oneself(a: Attack) -> None:
    """A rotation to the attacker's key, signed by that key alone or by a stolen one too, about the tree or not."""
    newest, own = a.victim.signers[-1], Signer.generate(a.victim.pin.name)
    signed = open_note(a.value("SELECT note FROM head"), newest.key)
    at = a.dice.choice(
        [signed, Checkpoint(signed.origin, signed.size, b"l" * 32), Checkpoint(signed.origin, 9999, b"l" * 32)]
    )
    by = a.dice.choice([own, newest])
    a.sql(("INSERT INTO rotations VALUES (9999, ?)", Rotation(at, newest.key, own.key).sign(by, own)))
    a.refit(a.dice.choice([own, newest]))


@attack("rotated")
def go_on_signing_with_the_key_that_was_handed_over(a: Attack) -> None:
    a.refit(a.dice.choice(a.victim.signers[:2]))


@attack("rotated", "tall", "alive")
def claim_a_predecessor(a: Attack) -> None:
    gone = VerifierKey("cloche/log/before", b"g" * 32)
    note = Predecessor(a.victim.pin.name, "lost", Checkpoint(gone.name, 3, b"r" * 32), gone).sign(a.victim.signers[0])
    a.sql(("INSERT INTO predecessor VALUES (0, ?)", note))


@attack("restarted", "carried")
def change_the_predecessor(a: Attack) -> None:
    note, signer = a.value("SELECT note FROM predecessor"), a.victim.signers[0]
    text, gone = open_text_of(note), VerifierKey("cloche/log/before", b"g" * 32)
    another = Predecessor(signer.key.name, "lost", Checkpoint(gone.name, 3, b"r" * 32), gone)
    texts = [text.replace(b"stolen", b"sold"), text + b"more\n", b"x\n"]
    ways = [b"", a.flipped(note), another.sign(signer), Signer.generate("x").sign_text(text)]
    ways += [signer.sign_text(one) for one in texts]
    a.sql(("UPDATE predecessor SET note = ?", a.dice.choice(ways)))


@attack("restarted", "carried")
def delete_the_predecessor(a: Attack) -> None:
    a.sql(("DELETE FROM predecessor",))


@attack("carried")
def change_a_manifest(a: Attack) -> None:
    connection = sqlite3.connect(a.path)
    root, leaves = a.dice.choice(connection.execute("SELECT root, leaves FROM manifests").fetchall())
    connection.close()
    ways = [
        b"",
        a.flipped(leaves),
        leaves[64:],
        leaves[:-64],
        leaves + leaves[-64:],
        leaves[:-1],
        leaves[64:] + leaves[:64],
    ]
    if a.dice.random() < 0.3:
        a.sql(("UPDATE manifests SET root = ? WHERE root = ?", a.flipped(root), root))
    else:
        a.sql(("UPDATE manifests SET leaves = ? WHERE root = ?", a.dice.choice(ways), root))


@attack("carried")
def leave_a_manifest_out(a: Attack) -> None:
    """Harmless: a copy need not carry them all."""
    a.sql((a.dice.choice(["DELETE FROM manifests", "DROP TABLE manifests"]),))


@attack()
def change_the_mark(a: Attack) -> None:
    mark = a.mark.read_bytes()
    stranger = Signer.generate("cloche/log/stranger")
    lie = a.victim.signers[-1].sign(Checkpoint(a.victim.pin.name, len(a.rows), b"l" * 32))
    ways = [
        b"",
        b"\0" * 512,
        a.flipped(mark),
        mark[:100],
        stranger.sign(Checkpoint("cloche/log/stranger", 0, b"0" * 32)),
        lie,
    ]
    a.mark.write_bytes(a.dice.choice(ways))


@attack()
def take_the_mark_away(a: Attack) -> None:
    a.mark.unlink()


@attack()
def change_the_schema(a: Attack) -> None:
    ways = [
        [f"DROP TABLE {name}"] for name in ("entries", "head", "checkpoints", "rotations", "predecessor", "subtrees")
    ]  # fmt: skip
    ways += [
        ["ALTER TABLE entries RENAME COLUMN body TO corpse"],
        ["ALTER TABLE entries RENAME TO truth", "CREATE VIEW entries AS SELECT * FROM truth"],
        ["ALTER TABLE head RENAME TO truth", "CREATE VIEW head AS SELECT * FROM truth"],
        ["CREATE VIEW harmless AS SELECT 1"],
        [
            "ALTER TABLE entries RENAME TO truth",
            "CREATE VIRTUAL TABLE entries USING fts5(sequence, header, body, leaf)",
        ],
        ["DELETE FROM entries"],
    ]
    a.sql(*[(statement,) for statement in a.dice.choice(ways)])
