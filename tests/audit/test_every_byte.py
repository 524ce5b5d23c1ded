"""Every byte of a small carried log, changed once: all it says stays as it was, or verification names a failure."""

import os
import random

import pytest

from audit import manifest, store
from audit.carry import carry
from audit.checkpoint import Checkpoint, Signer
from audit.events import Event
from audit.log import Log
from audit.reading import read
from audit.rotation import Predecessor, new_origin
from audit.verify import verify
from tests.audit.adversary import remarks
from tests.audit.standalone import STANDALONE


@pytest.fixture
def small(tmp_path, people, monkeypatch):
    """A carried log of ten entries that has everything a log can have; its first key, and the file."""
    monkeypatch.setattr(store, "PAGE_BYTES", 512)  # less of the file is empty: 23 KiB say what 80 KiB would
    monkeypatch.setattr(store, "MILESTONE", 4)
    old = Signer.generate("cloche/log/gone")
    last = Checkpoint(old.key.name, 5, b"r" * 32)
    signer = Signer.generate(new_origin(last))
    heir = Signer.generate(signer.key.name)
    before = Predecessor(signer.key.name, "lost", last, old.key).sign(signer)
    recipients = [pair.recipient for pair in people[:2]]
    with Log.create(tmp_path / "log", signer, recipients, tmp_path / "mark", predecessor=before) as log:
        log.append_many(remarks(0, 5))
        log.rotate(heir, Event("keys.changed", remarks(0, 1)[0].actor))
        log.append_many(remarks(5, 3))
    leaves = manifest.to_bytes(manifest.leaves([manifest.Item(b"p" * 32, b"c" * 32)]))
    carry(tmp_path / "log", tmp_path / "carried", [leaves])
    return signer.key, tmp_path / "carried"


def said(path, pair):
    """All that the file says to a reader: rows, events, manifests."""
    connection = store.reader(path)
    try:
        rows = list(store.entries(connection))
        manifests = list(store.manifests(connection))
    finally:
        connection.close()
    return rows, list(read(path, pair, len(rows))), manifests


@pytest.mark.slow
def test_every_changed_byte_is_harmless_or_named(small, people):
    key, path = small
    before, intact = said(path, people[0]), verify(path, key)
    assert intact.state == "intact" and intact.size == 10 and len(before[1]) == 9
    data, dice, outcomes = path.read_bytes(), random.Random(5), {"intact": 0, "failed": 0}
    assert len(data) < 30_000
    handle = os.open(path, os.O_RDWR)
    for spot, byte in enumerate(data):
        os.pwrite(handle, bytes([byte ^ dice.randrange(1, 256)]), spot)
        found = verify(path, key)
        outcomes[found.state] += 1
        if found.state == "intact":
            assert found == intact, spot
            assert said(path, people[0]) == before, spot
        else:
            assert found.why and found.failed_at is not None and 0 <= found.failed_at <= 10, spot
        if spot % 5 == 0:
            theirs = STANDALONE.verify(path, key.to_text())
            assert (theirs.at is None) == (found.state == "intact"), (spot, found.why, theirs)
        os.pwrite(handle, bytes([byte]), spot)
    os.close(handle)
    assert verify(path, key) == intact and outcomes["failed"] > 14_000, outcomes
