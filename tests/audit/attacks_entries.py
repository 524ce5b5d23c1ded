"""Attacks on entries: changed, moved, doubled, deleted, spliced, sealed again. See `adversary`."""

from audit.checkpoint import Signer
from audit.entry import Header
from audit.sealing import Segment
from tests.audit.adversary import EARLIER, Attack, attack


@attack()
def edit_a_body(a: Attack) -> None:
    n, _, body, _ = a.rows[a.one()]
    a.sql(("UPDATE entries SET body = ? WHERE sequence = ?", a.flipped(body), n))


@attack()
def edit_a_header(a: Attack) -> None:
    n, header, _, _ = a.rows[a.one()]
    a.sql(("UPDATE entries SET header = ? WHERE sequence = ?", a.flipped(header), n))


@attack()
def edit_a_header_and_its_leaf(a: Attack) -> None:
    n, header, body, _ = a.rows[a.one()]
    a.put((n, a.flipped(header), body))


@attack()
def edit_a_leaf(a: Attack) -> None:
    n, _, _, hash_ = a.rows[a.one()]
    a.sql(("UPDATE entries SET leaf = ? WHERE sequence = ?", a.flipped(hash_), n))


@attack()
def edit_a_body_and_its_leaf(a: Attack) -> None:
    n, header, body, _ = a.rows[a.one()]
    a.put((n, header, a.flipped(body)))


@attack()
def edit_a_body_and_all_that_follows_from_it(a: Attack) -> None:
    edit_a_body_and_its_leaf(a)
    a.refit()


@attack()
def edit_a_body_and_sign_with_another_key(a: Attack) -> None:
    edit_a_body_and_its_leaf(a)
    a.refit(Signer.generate(a.victim.pin.name))


@attack()
def lengthen_a_body(a: Attack) -> None:
    n, header, body, _ = a.rows[a.one()]
    a.put((n, header, body + b"\0" * a.dice.choice([1, 1024])))


@attack()
def empty_a_body(a: Attack) -> None:
    n, header, _, _ = a.rows[a.one()]
    a.put((n, header, b""))


@attack()
def cut_a_header(a: Attack) -> None:
    n, header, body, _ = a.rows[a.one()]
    a.put((n, header[: a.dice.randrange(56)], body))


@attack()
def put_other_types_into_a_row(a: Attack) -> None:
    column, value = a.dice.choice(["header", "body", "leaf"]), a.dice.choice([None, 7, 0.5, "text", "\ud800"[:0]])
    a.sql(
        ("ALTER TABLE entries RENAME TO strict_entries",),
        ("CREATE TABLE entries (sequence INTEGER PRIMARY KEY, header, body, leaf)",),
        ("INSERT INTO entries SELECT * FROM strict_entries",),
        (f"UPDATE entries SET {column} = ? WHERE sequence = ?", value, a.one()),  # noqa: S608 one of three words
    )


@attack()
def number_the_rows_with_something_else(a: Attack) -> None:
    a.sql(
        ("ALTER TABLE entries RENAME TO strict_entries",),
        ("CREATE TABLE entries (sequence, header, body, leaf)",),
        ("INSERT INTO entries SELECT * FROM strict_entries",),
        ("UPDATE entries SET sequence = ? WHERE sequence = ?", a.dice.choice([None, "x", -1, 0.5, 2**62]), a.one()),
    )


@attack()
def delete_an_entry(a: Attack) -> None:
    a.sql(("DELETE FROM entries WHERE sequence = ?", a.one()))


@attack()
def delete_an_entry_and_move_the_others_up(a: Attack) -> None:
    n = a.one()
    a.sql(
        ("DELETE FROM entries WHERE sequence = ?", n),
        ("UPDATE entries SET sequence = -sequence WHERE sequence > ?", n),
        ("UPDATE entries SET sequence = -sequence - 1 WHERE sequence < 0",),
    )


@attack()
def delete_an_entry_and_renumber_the_others(a: Attack) -> None:
    n = a.one(1)
    a.sql(("DELETE FROM entries WHERE sequence >= ?", n))
    a.put(*[(m - 1, renumbered(header, m - 1), body) for m, header, body, _ in a.rows if m > n])
    a.refit()


def renumbered(header: bytes, sequence: int) -> bytes:
    """The header for another place."""
    found = Header.from_bytes(header)
    segment = sequence if found.class_ == 0 else min(found.segment, sequence - 1)
    return found._replace(sequence=sequence, segment=segment).to_bytes()


@attack()
def swap_two_entries(a: Attack) -> None:
    n = a.one(1)
    m = a.dice.randrange(n)
    (_, header, body, _), (_, other, corpse, _) = a.rows[n], a.rows[m]
    a.put((m, header, body), (n, other, corpse))


@attack()
def swap_two_entries_and_their_numbers(a: Attack) -> None:
    n = a.one(2)
    m = a.dice.randrange(1, n)
    (_, header, body, _), (_, other, corpse, _) = a.rows[n], a.rows[m]
    a.put((m, renumbered(header, m), body), (n, renumbered(other, n), corpse))
    a.refit()


@attack()
def swap_two_bodies(a: Attack) -> None:
    n = a.one(1)
    (_, header, body, _), (_, other, corpse, _) = a.rows[n], a.rows[n - 1]
    a.put((n - 1, other, body), (n, header, corpse))


@attack()
def double_an_entry_at_the_end(a: Attack) -> None:
    _, header, body, _ = a.rows[a.one()]
    a.put((len(a.rows), header, body))


@attack()
def double_an_entry_in_the_middle(a: Attack) -> None:
    n = a.one()
    a.put(*[(m + 1, header, body) for m, header, body, _ in a.rows if m >= n])


@attack()
def double_an_entry_under_a_new_number(a: Attack) -> None:
    _, header, body, _ = a.rows[a.one(1)]
    a.put((len(a.rows), renumbered(header, len(a.rows)), body))
    if a.dice.random() < 0.5:
        a.refit()


@attack("rotated", "restarted", "tall")
def splice_the_end_of_another_log(a: Attack) -> None:
    a.sql(
        ("ATTACH ? AS other", str(a.foreign())),
        ("REPLACE INTO entries SELECT * FROM other.entries WHERE sequence >= ?", a.one()),
    )
    if a.dice.random() < 0.5:
        a.refit()


@attack("rotated", "restarted")
def splice_an_entry_of_another_log(a: Attack) -> None:
    a.sql(
        ("ATTACH ? AS other", str(a.foreign())),
        ("REPLACE INTO entries SELECT * FROM other.entries WHERE sequence = ?", a.one() % EARLIER),
    )


@attack("rotated", "restarted")
def splice_an_entry_of_a_log_of_another_name(a: Attack) -> None:
    a.sql(
        ("ATTACH ? AS other", str(a.foreign("cloche/log/other"))),
        ("REPLACE INTO entries SELECT * FROM other.entries WHERE sequence = ?", a.one() % EARLIER),
    )


@attack()
def reseal_an_old_entry_with_a_newer_segment(a: Attack) -> None:
    """CVE-2023-31439: what journald took for good."""
    newer = Segment(Header.from_bytes(a.rows[0][1]).origin, len(a.rows), [pair.recipient for pair in a.victim.people])
    entry = newer.seal(a.one(1), b"{}")
    sequence = Header.from_bytes(entry.header).sequence
    a.put((sequence, entry.header, entry.body))


@attack()
def reseal_an_old_entry_in_its_own_segments_name(a: Attack) -> None:
    old = a.rows[a.dice.choice([n for n, header, _, _ in a.rows if Header.from_bytes(header).class_])]
    header = Header.from_bytes(old[1])
    newer = Segment(header.origin, header.segment, [pair.recipient for pair in a.victim.people])
    newer._index = header.ordinal - 1
    entry = newer.seal(old[0], b"{}", header.class_)
    a.put((old[0], entry.header, entry.body))
    if a.dice.random() < 0.5:
        a.refit()


@attack()
def rebuild_a_segment_from_its_opening_on(a: Attack) -> None:
    opening = a.dice.choice([n for n, header, _, _ in a.rows if Header.from_bytes(header).class_ == 0])
    own = Segment(Header.from_bytes(a.rows[0][1]).origin, opening, [pair.recipient for pair in a.victim.people])
    new = [own.opening]
    for n, header, _, _ in a.rows[opening + 1 :]:
        if Header.from_bytes(header).segment != opening:
            break
        new.append(own.seal(n, b"{}", Header.from_bytes(header).class_))
    a.put(*[(opening + n, *entry) for n, entry in enumerate(new)])
    a.refit()
