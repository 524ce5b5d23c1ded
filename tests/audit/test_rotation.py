"""A log that changes hands: one origin under two keys, and a new origin after a lost or stolen one."""

import sqlite3

import pytest

from audit import store
from audit.checkpoint import Checkpoint, Signer, open_note
from audit.errors import IntegrityFailure, Refused
from audit.log import Log
from audit.rotation import KeyChain, Predecessor, Rotation, has_predecessor, new_origin
from audit.verify import verify


def hand_over(kit, log, event):
    """Rotate to a fresh key; returns it."""
    new = Signer.generate(kit.signer.key.name)
    log.rotate(new, event(1))
    return new


def reopened(kit, signer):
    return Log(kit.path, signer, [kit.auditor.recipient, kit.recovery.recipient], kit.mark)


def alter(path, *statement):
    connection = sqlite3.connect(path)
    connection.execute(*statement)
    connection.commit()
    connection.close()


@pytest.fixture
def rotated(kit, event):
    """A log under its third key; returns the keys."""
    with kit.open() as log:
        log.append(event(0))
        second = hand_over(kit, log, event)
        log.append(event(2))
    with reopened(kit, second) as log:
        third = hand_over(kit, log, event)
        log.append_many([event(number) for number in range(600)])
    return kit.signer, second, third


def test_any_key_of_the_log_verifies_all_of_it(kit, rotated):
    for signer in rotated:
        found = verify(kit.path, signer.key, kit.mark)
        assert found.state == "intact" and found.anchored and found.size == 606
        assert found.key == rotated[2].key.to_text() and found.handed_over_at == (3, 6)


def test_the_checkpoint_of_the_rotations_size_is_the_new_keys(kit, event):
    with kit.open() as log:
        second = hand_over(kit, log, event)
        assert open_note(log.checkpoint(), second.key).size == 2
    assert verify(kit.path, kit.signer.key, kit.mark).handed_over_at == (2,)
    old = kit.signer.sign(open_note(log_note(kit.path), second.key))
    alter(kit.path, "UPDATE head SET note = ?", (old,))
    assert "not signed" in verify(kit.path, kit.signer.key).why


def log_note(path):
    connection = store.reader(path)
    note = store.head(connection).note
    connection.close()
    return note


def test_a_key_that_never_signed_does_not(kit, rotated):
    found = verify(kit.path, Signer.generate(kit.signer.key.name).key, kit.mark)
    assert found.state == "failed" and "pinned key" in found.why


def test_only_the_newest_key_goes_on_writing(kit, rotated, event):
    for signer in rotated[:2]:
        with pytest.raises(Refused, match="handed over"):
            reopened(kit, signer)
    with reopened(kit, rotated[2]) as log:
        assert log.append(event(9)) == 607


def test_a_process_that_missed_the_rotation_stops(kit, event):
    with kit.open() as slow, kit.open() as log:
        slow.append(event(0))
        hand_over(kit, log, event)
        with pytest.raises(Refused, match="handed over"):
            slow.append(event(1))


def test_a_rotation_that_fails_changes_nothing(kit, event, tmp_path):
    with kit.open() as log:
        before = log.append(event(0))
        for bad in (kit.signer, Signer.generate("cloche/log/other")):
            with pytest.raises(Refused):
                log.rotate(bad, event(1))
        assert log.append(event(1)) == before + 1
    assert verify(kit.path, kit.signer.key, kit.mark).handed_over_at == ()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM rotations",
        "DELETE FROM rotations WHERE size = 3",
        "DELETE FROM rotations WHERE size = 6",
        "UPDATE rotations SET note = CAST(replace(CAST(note AS TEXT), '3', '4') AS BLOB) WHERE size = 3",
        "UPDATE rotations SET note = (SELECT note FROM rotations WHERE size = 6) WHERE size = 3",
        "UPDATE rotations SET note = CAST(substr(CAST(note AS TEXT), 1, length(note) - 110) AS BLOB) WHERE size = 6",
    ],
)
def test_a_changed_rotation_is_named(kit, rotated, statement):
    """By who pinned the first key. A later one signs the whole log and does not need the notes before it."""
    alter(kit.path, statement)
    found = verify(kit.path, kit.signer.key, kit.mark)
    assert found.state == "failed" and found.why


def test_the_old_key_cannot_sign_after_it_was_handed_over(kit, rotated):
    connection = store.reader(kit.path)
    size = 607
    forged = rotated[0].sign(
        Checkpoint(kit.signer.key.name, size, open_note(store.head(connection).note, rotated[2].key).root)
    )
    connection.close()
    alter(kit.path, "UPDATE head SET note = ?", (forged,))
    assert verify(kit.path, kit.signer.key, kit.mark).state == "failed"


def test_one_signature_is_no_rotation(kit):
    new = Signer.generate(kit.signer.key.name)
    rotation = Rotation(Checkpoint(kit.signer.key.name, 3, b"r" * 32), kit.signer.key, new.key)
    assert Rotation.open(rotation.sign(kit.signer, new)) == rotation
    thief = Signer.generate(kit.signer.key.name)
    for pair in ((thief, new), (kit.signer, thief)):
        with pytest.raises(IntegrityFailure):
            Rotation.open(rotation.sign(*pair))
    with pytest.raises(IntegrityFailure):
        KeyChain.of(thief.key, [rotation.sign(kit.signer, new)])


def test_key_rotations_must_follow_from_each_other():
    first, second, third = (Signer.generate("cloche/log/chain") for _ in range(3))

    def step(size, old, new):
        return Rotation(Checkpoint(old.key.name, size, b"r" * 32), old.key, new.key).sign(old, new)

    good = [step(3, first, second), step(5, second, third)]
    assert KeyChain.of(second.key, good).keys == (first.key, second.key, third.key)
    for bad in (good[::-1], [good[0], step(5, first, third)], [good[0], step(3, second, third)], [*good, good[0]]):
        with pytest.raises(IntegrityFailure, match="do not follow"):
            KeyChain.of(first.key, bad)


@pytest.fixture
def restarted(kit, event, tmp_path):
    """A new log that goes on from kit's; returns path, mark and signer."""
    with kit.open() as log:
        log.append(event(0))
        last = open_note(log.checkpoint(), log.key)
    signer = Signer.generate(new_origin(last))
    note = Predecessor(signer.key.name, "stolen", last, kit.signer.key).sign(signer)
    path, mark = tmp_path / "new.sqlite", tmp_path / "new-mark"
    recipients = [kit.auditor.recipient, kit.recovery.recipient]
    with Log.create(path, signer, recipients, mark, predecessor=note) as log:
        log.append(event(1))
    return path, mark, signer, last


def test_a_new_origin_cites_the_log_that_it_goes_on_from(kit, restarted):
    path, mark, signer, last = restarted
    found = verify(path, signer.key, mark)
    assert found.state == "intact" and has_predecessor(signer.key.name)
    assert found.goes_on_from == f"{last.origin} (stolen), 2 entries, root {last.root.hex()}"


def test_a_new_origin_without_its_predecessor_is_named(kit, restarted):
    path, mark, signer, _ = restarted
    alter(path, "DELETE FROM predecessor")
    assert "predecessor" in verify(path, signer.key, mark).why


def test_another_predecessor_is_named(kit, restarted):
    path, mark, signer, last = restarted
    for other in (
        Predecessor(signer.key.name, "lost", Checkpoint(last.origin, 1, b"x" * 32), kit.signer.key),
        Predecessor("cloche/log/other", "lost", last, kit.signer.key),
    ):
        alter(path, "UPDATE predecessor SET note = ?", (other.sign(signer),))
        assert "predecessor" in verify(path, signer.key, mark).why
    alter(
        path,
        "UPDATE predecessor SET note = ?",
        (Predecessor(signer.key.name, "lost", last, kit.signer.key).sign(kit.signer),),
    )
    assert verify(path, signer.key, mark).state == "failed"
    assert verify(kit.path, kit.signer.key, kit.mark).state == "intact"


def test_a_log_that_is_the_first_has_no_predecessor(kit, restarted):
    _, _, signer, last = restarted
    note = Predecessor(signer.key.name, "lost", last, kit.signer.key).sign(signer)
    alter(kit.path, "INSERT INTO predecessor VALUES (0, ?)", (note,))
    assert "predecessor" in verify(kit.path, kit.signer.key, kit.mark).why
