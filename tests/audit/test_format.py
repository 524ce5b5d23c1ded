"""The format stands: the vectors, our code and a second verifier, written from the docs alone, agree to the byte."""

import importlib.util
import json
from pathlib import Path

import pytest

from audit import merkle
from audit.checkpoint import Signer, VerifierKey, open_note
from audit.entry import Entry
from audit.events import Event
from audit.keys import SUITES, KeyPair, Recipient, generate
from audit.log import Log
from audit.sealing import SegmentReader

HERE = Path(__file__).parent
VECTORS = json.loads((HERE / "vectors.json").read_text())


@pytest.fixture(scope="module")
def second():
    spec = importlib.util.spec_from_file_location("second_verifier", HERE / "second_verifier.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(vector):
    return [(i, bytes.fromhex(row["header"]), bytes.fromhex(row["body"])) for i, row in enumerate(vector["rows"])]


@pytest.mark.parametrize("vector", VECTORS, ids=[v["suite"] for v in VECTORS])
def test_our_code_reads_the_vectors(vector):
    key = VerifierKey.from_text(vector["log_key"])
    frontier = merkle.Frontier()
    entries = []
    for row in vector["rows"]:
        entries.append(Entry(bytes.fromhex(row["header"]), bytes.fromhex(row["body"])))
        assert entries[-1].leaf.hex() == row["leaf"]
        frontier.add(entries[-1].leaf)
        assert frontier.root().hex() == row["root"]
    assert open_note(vector["checkpoint"].encode(), key).root == frontier.root()
    for person in vector["recipients"]:
        pair = KeyPair(
            Recipient("x", vector["suite"], bytes.fromhex(person["public"])), bytes.fromhex(person["private"])
        )
        assert pair.recipient.key_id.hex() == person["key_id"]
        reader = SegmentReader.open(entries[0], pair)
        assert [reader.read(entry).decode() for entry in entries[1:]] == vector["events"]
    assert [Event.decode(text.encode()).encode().decode() for text in vector["events"]] == vector["events"]


@pytest.mark.parametrize("vector", VECTORS, ids=[v["suite"] for v in VECTORS])
def test_the_second_verifier_reads_the_vectors(vector, second):
    rows, suite = rows_of(vector), SUITES[vector["suite"]]
    assert second.verify(rows, vector["checkpoint"], vector["log_key"]) == len(rows)
    for person in vector["recipients"]:
        found = [event for _, event in second.read(rows, suite, bytes.fromhex(person["private"]))]
        assert found == [json.loads(text) for text in vector["events"]]
    changed = [(i, header, body[:-1] + bytes([body[-1] ^ (i == 1)])) for i, header, body in rows]
    with pytest.raises(AssertionError):
        second.verify(changed, vector["checkpoint"], vector["log_key"])


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_the_second_verifier_reads_what_we_write_today(tmp_path, second, event, suite):
    pairs = [generate(name, suite) for name in ("auditor", "recovery")]
    signer = Signer.generate("cloche/log/format")
    recipients = [pair.recipient for pair in pairs]
    Log.create(tmp_path / "log", signer, recipients, tmp_path / "mark").close()
    for segment in range(3):
        with Log(tmp_path / "log", signer, recipients, tmp_path / "mark") as log:
            log.append_many([event(segment, filler="a" * 2000), event(10 + segment)])
    rows, note = second.load(tmp_path / "log")
    assert second.verify(rows, note, signer.key.to_text()) == 9
    for pair in pairs:
        found = [one["detail"]["number"] for _, one in second.read(rows, SUITES[suite], pair.private)]
        assert found == [0, 10, 1, 11, 2, 12]
