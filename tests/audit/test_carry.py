"""The carried log: one plain file, verified where nothing can be written, and no less than the log itself."""

import sqlite3

import pytest

from audit import manifest
from audit.carry import carry
from audit.errors import BadInput, EnvironmentProblem, IntegrityFailure, Refused
from audit.reading import read
from audit.verify import verify

LEAVES = manifest.to_bytes(manifest.leaves([manifest.Item(b"p" * 32, b"c" * 32), manifest.Item(b"q" * 32, b"d" * 32)]))


@pytest.fixture
def carried(kit, event, tmp_path):
    out = tmp_path / "stick" / "log.carry"
    out.parent.mkdir()
    with kit.open() as log:
        log.append_many([event(number) for number in range(300)])
        carry(kit.path, out, [LEAVES, LEAVES])  # while it is open for writing
        log.append(event(300))
    return out


def test_it_is_one_file_and_says_all_that_the_log_said(kit, carried):
    assert [path.name for path in carried.parent.iterdir()] == ["log.carry"]
    assert carried.stat().st_mode & 0o777 == 0o600
    assert carried.read_bytes()[18:20] == b"\x01\x01"  # no write-ahead log
    found = verify(carried, kit.signer.key)
    assert found.state == "intact" and found.size == 301
    numbers = [one.event.detail["number"] for one in read(carried, kit.auditor, found.size)]
    assert numbers == list(range(300))
    assert [path.name for path in carried.parent.iterdir()] == ["log.carry"]


def test_its_manifests_are_checked(kit, carried):
    connection = sqlite3.connect(carried)
    assert connection.execute("SELECT count(*) FROM manifests").fetchone() == (1,)
    connection.execute("UPDATE manifests SET leaves = CAST(replace(leaves, CAST('c' AS BLOB), 'b') AS BLOB)")
    connection.commit()
    connection.close()
    assert "manifest" in verify(carried, kit.signer.key).why


def test_nothing_is_overwritten_and_nothing_half_written_stays(kit, carried):
    before = carried.read_bytes()
    with pytest.raises(Refused, match="exists already"):
        carry(kit.path, carried)
    assert carried.read_bytes() == before
    with pytest.raises(BadInput):
        carry(kit.path, carried.parent / "missing" / "x")
    with pytest.raises(BadInput):
        carry(kit.path.with_name("none"), carried.parent / "x")
    with pytest.raises(BadInput, match="manifest"):
        carry(kit.path, carried.parent / "x", [b"junk"])
    damaged = kit.path.with_name("damaged")
    damaged.write_bytes(b"not a database" * 1000)
    with pytest.raises((IntegrityFailure, EnvironmentProblem)):
        carry(damaged, carried.parent / "x")
    assert [path.name for path in carried.parent.iterdir()] == ["log.carry"]


def test_a_carried_copy_can_be_carried_on(kit, carried):
    """From stick to stick, its manifests with it."""
    again = carried.with_name("again")
    carry(carried, again, [LEAVES, manifest.to_bytes(manifest.leaves([]))])
    assert verify(again, kit.signer.key).size == 301
    connection = sqlite3.connect(again)
    assert connection.execute("SELECT count(*) FROM manifests").fetchone() == (2,)
    connection.close()
