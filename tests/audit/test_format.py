"""The format stands: the vectors, our code and a second verifier, written from the docs alone, agree to the byte."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from audit import merkle, store
from audit.checkpoint import Signer, VerifierKey, open_note
from audit.entry import Entry
from audit.errors import BadInput, IntegrityFailure
from audit.events import Event
from audit.keys import SUITES, KeyPair, Recipient, generate
from audit.log import Log
from audit.proofs import ConsistencyProof, InclusionProof
from audit.reading import read
from audit.sealing import SegmentReader
from audit.verify import verify
from tests.audit import standalone
from tests.audit.standalone import STANDALONE

VECTORS = Path(__file__).parents[1] / "vectors"
LOGS = json.loads((VECTORS / "logs.json").read_text())
CARRIED = json.loads((VECTORS / "carried.json").read_text())
PROOFS = json.loads((VECTORS / "proofs.json").read_text())


def rows_of(vector):
    return [(i, bytes.fromhex(row["header"]), bytes.fromhex(row["body"])) for i, row in enumerate(vector["rows"])]


def pair_of(person, suite):
    return KeyPair(Recipient("x", suite, bytes.fromhex(person["public"])), bytes.fromhex(person["private"]))


@pytest.mark.parametrize("vector", LOGS, ids=[v["suite"] for v in LOGS])
def test_our_code_reads_the_rows(vector):
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
        pair = pair_of(person, vector["suite"])
        assert pair.recipient.key_id.hex() == person["key_id"]
        reader = SegmentReader.open(entries[0], pair)
        assert [reader.read(entry).decode() for entry in entries[1:]] == vector["events"]
    assert [Event.decode(text.encode()).encode().decode() for text in vector["events"]] == vector["events"]


@pytest.mark.parametrize("vector", LOGS, ids=[v["suite"] for v in LOGS])
def test_the_second_verifier_reads_the_rows(vector):
    rows, tree = rows_of(vector), STANDALONE.Tree()
    key = STANDALONE.Key.of(vector["log_key"])
    for (sequence, header, body), row in zip(rows, vector["rows"], strict=True):
        STANDALONE.check_header(header, len(body), STANDALONE.sha(key.name.encode()), sequence)
        leaf = STANDALONE.sha(b"\0", header, STANDALONE.sha(body))
        tree.add(leaf)
        assert (leaf.hex(), tree.root().hex()) == (row["leaf"], row["root"])
    assert STANDALONE.Keys(key, []).checkpoint(vector["checkpoint"].encode()) == (len(rows), tree.root())
    for person in vector["recipients"]:
        found = STANDALONE.read(rows, SUITES[vector["suite"]], bytes.fromhex(person["private"]))
        assert [event for _, event in found] == [json.loads(text) for text in vector["events"]]


@pytest.mark.parametrize("vector", CARRIED, ids=[v["file"] for v in CARRIED])
def test_both_verify_and_read_the_carried_logs(vector):
    path = VECTORS / vector["file"]
    for line in vector["log_keys"]:
        found = verify(path, VerifierKey.from_text(line))
        assert (found.state, found.size, found.checkpoint) == ("intact", vector["entries"], vector["checkpoint"])
        assert STANDALONE.verify(path, line) == (vector["entries"], None, "")
        assert STANDALONE.verify(path, line, witness=vector["checkpoint"].encode()).at is None
    connection = store.reader(path)
    rows = [(sequence, *entry) for sequence, entry, _ in store.entries(connection)]
    connection.close()
    for person in vector["recipients"]:
        ours = read(path, pair_of(person, vector["suite"]), found.size)
        assert [one.event.encode().decode() for one in ours] == vector["events"]
        theirs = STANDALONE.read(rows, SUITES[vector["suite"]], bytes.fromhex(person["private"]))
        assert [event for _, event in theirs] == [json.loads(text) for text in vector["events"]]
    assert [len(v["log_keys"]) for v in CARRIED] == [2, 1]
    assert "~" in CARRIED[1]["log_keys"][0], "the second goes on from the first"


def ours_on(vector):
    """Whether audit/ takes a proof of the vectors for good."""
    key = VerifierKey.from_text(PROOFS["log_key"])
    data = vector["proof"].encode()
    try:
        if vector["kind"] == "inclusion":
            proof = InclusionProof.from_bytes(data)
            signed = open_note(proof.note, key)
            leaf = bytes.fromhex(PROOFS["leaves"][vector["index"]])
            return merkle.verify_inclusion(leaf, proof.index, signed.size, proof.hashes, signed.root)
        step = ConsistencyProof.from_bytes(data)
        signed, old = open_note(step.note, key), open_note(PROOFS["old"].encode(), key)
        return step.old_size == old.size and merkle.verify_consistency(
            old.size, signed.size, old.root, signed.root, step.hashes
        )
    except (BadInput, IntegrityFailure):
        return False


def theirs_on(vector):
    """Whether the second verifier takes it for good."""
    keys = STANDALONE.Keys(STANDALONE.Key.of(PROOFS["log_key"]), [])
    data = vector["proof"].encode()
    try:
        if vector["kind"] == "inclusion":
            STANDALONE.check_inclusion(data, keys, lambda _: bytes.fromhex(PROOFS["leaves"][vector["index"]]))
        else:
            STANDALONE.check_consistency(data, keys, PROOFS["old"].encode())
    except STANDALONE.Broken:
        return False
    return True


@pytest.mark.parametrize("vector", PROOFS["proofs"], ids=lambda v: f"{v['kind']}-{v['name']}")
def test_both_come_to_the_verdict_on_every_proof(vector):
    assert (ours_on(vector), theirs_on(vector)) == ((vector["verdict"] == "good"),) * 2


def test_the_vectors_hold_every_kind_of_broken_proof():
    names = [vector["name"].rpartition(": ")[2] for vector in PROOFS["proofs"]]
    for kind in ("wrong root", "siblings swapped", "trailing garbage", "size one less", "size one more", "number xor 2",
                 "bit flipped in a hash", "bit flipped in the signature", "first hash removed", "empty"):  # fmt: skip
        assert names.count(kind) >= 2, kind
    assert [vector["verdict"] for vector in PROOFS["proofs"]].count("good") == 3


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_the_second_verifier_reads_what_we_write_today(tmp_path, event, suite):
    pairs = [generate(name, suite) for name in ("auditor", "recovery")]
    signer = Signer.generate("cloche/log/format")
    recipients = [pair.recipient for pair in pairs]
    Log.create(tmp_path / "log", signer, recipients, tmp_path / "mark").close()
    for segment in range(3):
        with Log(tmp_path / "log", signer, recipients, tmp_path / "mark") as log:
            log.append_many([event(segment, filler="a" * 2000), event(10 + segment)])
    assert STANDALONE.verify(tmp_path / "log", signer.key.to_text(), tmp_path / "mark") == (9, None, "")
    connection = store.reader(tmp_path / "log")
    rows = [(sequence, *entry) for sequence, entry, _ in store.entries(connection)]
    connection.close()
    for pair in pairs:
        found = [one["detail"]["number"] for _, one in STANDALONE.read(rows, SUITES[suite], pair.private)]
        assert found == [0, 10, 1, 11, 2, 12]


def test_the_second_verifier_shares_no_code_with_ours():
    tree = ast.parse(standalone.PATH.read_text())
    used = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    used |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in used}
    assert tops - set(sys.stdlib_module_names) == {"cryptography"}


def alone(*arguments):
    """The second verifier as its user runs it: a file, by itself, isolated from everything in this folder."""
    done = subprocess.run(
        [sys.executable, "-I", standalone.PATH, *arguments], capture_output=True, text=True, check=False, cwd="/"
    )
    return done.returncode, done.stdout + done.stderr


def test_the_second_verifier_is_a_program(tmp_path):
    carried, key = str(VECTORS / "rotated.carry"), CARRIED[0]["log_keys"][0]
    (tmp_path / "log.pub").write_text(key + "\n")
    (tmp_path / "noted").write_text(CARRIED[0]["checkpoint"])
    code, said = alone(carried, "--key", tmp_path / "log.pub", "--witness", tmp_path / "noted")
    assert (code, said) == (0, f"intact: {CARRIED[0]['entries']} entries\n")
    code, said = alone(carried, "--key", CARRIED[1]["log_keys"][0])
    assert code == 4 and said.startswith("FAILED at entry 0: the pinned key")
    assert alone(carried)[0] == 2 and alone("--key", key)[0] == 2
    assert alone(tmp_path / "none", "--key", key)[0] == 4 and alone(carried, "--key", "junk")[0] == 4


def test_the_second_verifier_checks_proof_files(tmp_path):
    (tmp_path / "old").write_text(PROOFS["old"])
    for number, vector in enumerate(v for v in PROOFS["proofs"] if v["name"].endswith(("good", "swapped"))):
        file = tmp_path / f"{number}.proof"
        file.write_text(vector["proof"])
        how = ["--consistency", file, "--old", tmp_path / "old"]
        if vector["kind"] == "inclusion":
            how = ["--inclusion", file, "--leaf", PROOFS["leaves"][vector["index"]]]
        code, said = alone("--key", PROOFS["log_key"], *how)
        assert (code, said.split()[0]) == ((0, "intact:") if vector["verdict"] == "good" else (4, "FAILED:"))
