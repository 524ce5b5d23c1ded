"""Cosignatures hold to C2SP's letter: read back here by a second reader that shares nothing with `audit`."""

import base64
import hashlib
import re
import struct

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, Signer, VerifierKey, open_note
from audit.cosignature import LATEST, Cosigner, WitnessKey, open_cosignature, split_note
from audit.errors import BadInput, IntegrityFailure

LOG = Signer.from_bytes("cloche/log/test", bytes(range(32)))
WITNESS = Cosigner.from_bytes("cloche/witness/test", bytes(range(32, 64)))
CHECKPOINT = Checkpoint(LOG.key.name, 1204, hashlib.sha256(b"root").digest())
NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="+"), min_size=1, max_size=80)


def cosigned(checkpoint=CHECKPOINT, time=1_700_000_000, log=LOG, witness=WITNESS):
    return log.sign(checkpoint) + witness.cosign(checkpoint.body(), time)


def second_reader(note: bytes, vkey: str) -> tuple[str, int, bytes, int]:
    """C2SP signed-note and tlog-cosignature, written from the specification alone: origin, size, root, time."""
    name, hash_hex, encoded = vkey.split("+", 2)
    material = base64.b64decode(encoded, validate=True)
    key_id = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]
    assert key_id.hex() == hash_hex and material[0] == 0x04 and len(material) == 33
    cut = note.rindex(b"\n\n")
    text, signatures = note[: cut + 1], note[cut + 2 :].decode().splitlines()
    for line in signatures:
        dash, signer, blob = line.split(" ")
        data = base64.b64decode(blob, validate=True)
        assert dash == "\u2014"
        if signer == name and data[:4] == key_id:
            (time,) = struct.unpack(">Q", data[4:12])
            message = b"cosignature/v1\ntime " + str(time).encode() + b"\n" + text
            Ed25519PublicKey.from_public_bytes(material[1:]).verify(data[12:], message)
            origin, size, root = text.decode().split("\n")[:3]
            return origin, int(size), base64.b64decode(root), time
    raise AssertionError("no signature of the witness")


def plain_reader(note: bytes, vkey: str) -> None:
    """The same for the log's own signature, type 0x01."""
    name, hash_hex, encoded = vkey.split("+", 2)
    material = base64.b64decode(encoded)
    assert material[0] == 0x01 and hashlib.sha256(f"{name}\n".encode() + material).hexdigest()[:8] == hash_hex
    text, _, signatures = note.rpartition(b"\n\n")
    line = next(one for one in signatures.decode().splitlines() if one.split(" ")[1] == name)
    data = base64.b64decode(line.split(" ")[2])
    assert data[:4].hex() == hash_hex
    Ed25519PublicKey.from_public_bytes(material[1:]).verify(data[4:], text + b"\n")


@given(NAMES, NAMES, st.integers(0, 10**18), st.binary(min_size=32, max_size=32), st.integers(0, LATEST))
def test_a_cosignature_comes_back_and_a_second_reader_agrees(log_name, witness_name, size, root, time):
    log, witness = Signer(log_name, LOG._private), Cosigner(witness_name, WITNESS._private)
    checkpoint = Checkpoint(log_name, size, root)
    note = cosigned(checkpoint, time, log, witness)
    assert open_cosignature(note, witness.key) == (checkpoint, time)
    assert open_note(note, log.key) == checkpoint
    assert second_reader(note, witness.key.to_text()) == (log_name, size, root, time)
    plain_reader(note, log.key.to_text())
    assert WitnessKey.from_text(witness.key.to_text()) == witness.key


def test_the_line_is_the_one_of_the_specification():
    line = cosigned().splitlines(keepends=True)[-1].decode()
    found = re.fullmatch("— cloche/witness/test ([A-Za-z0-9+/=]+)\n", line)
    data = base64.b64decode(found[1])
    assert len(data) == 4 + 8 + 64 and data[4:12] == (1_700_000_000).to_bytes(8, "big")
    assert data[:4] == hashlib.sha256(b"cloche/witness/test\n\x04" + WITNESS.key.public).digest()[:4]


def test_the_second_reader_can_say_no():
    bad = cosigned().replace(b"\n1204\n", b"\n1205\n")
    with pytest.raises(InvalidSignature):
        second_reader(bad, WITNESS.key.to_text())
    with pytest.raises(InvalidSignature):
        plain_reader(bad, LOG.key.to_text())


def test_the_example_of_the_specification_is_parsed():
    """C2SP tlog-cosignature's own example: the key is not published, its form is."""
    note = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
        "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5"
        "nNo0xUe+mbIUBkBIfZ+qnA==\n"
    ).encode()
    text, signatures = split_note(note)
    assert [one.name for one in signatures] == ["example.com/behind-the-sofa", "witness.example.com/w1"]
    assert int.from_bytes(signatures[1].signature[:8], "big") == 1679315147 and len(signatures[1].signature) == 72
    assert Checkpoint.from_body(text).size == 20852163


def test_a_changed_byte_anywhere_is_refused():
    note = cosigned()
    for spot in range(len(note)):
        changed = bytearray(note)
        changed[spot] ^= 1
        own = spot > note.rindex(b"\xe2\x80\x94")
        if own or spot < note.index(b"\n\n"):
            with pytest.raises(IntegrityFailure):
                open_cosignature(bytes(changed), WITNESS.key)


@pytest.mark.parametrize(
    "damage",
    [
        lambda note: note + b"garbage\n",
        lambda note: note + b"\n",
        lambda note: note[:-1],
        lambda note: note + note.splitlines(keepends=True)[-1],
        lambda note: note.replace(b"\n\n", b"\n"),
        lambda note: note.replace(b"cloche/log/test\n1204", b"cloche/log/test\r\n1204"),
        lambda note: note.replace("— cloche/witness".encode(), "—  cloche/witness".encode()),
        lambda note: note.replace("— cloche/witness".encode(), b"- cloche/witness"),
        lambda note: note[:-4] + b"\xff\xfe=\n",
        lambda note: note + b"x" * 5000,
        lambda note: b"",
        lambda note: LOG.sign(CHECKPOINT),
        lambda note: LOG.sign_text(b"no checkpoint\n") + WITNESS.cosign(b"no checkpoint\n", 1),
        lambda note: LOG.sign(CHECKPOINT) + Cosigner.generate(WITNESS.key.name).cosign(CHECKPOINT.body(), 1),
    ],
)
def test_what_is_no_cosigned_checkpoint_is_refused(damage):
    with pytest.raises(IntegrityFailure):
        open_cosignature(damage(cosigned()), WITNESS.key)


def test_two_cosignatures_of_one_witness_are_refused_and_of_two_witnesses_are_not():
    twice = cosigned() + WITNESS.cosign(CHECKPOINT.body(), 1_800_000_000)
    with pytest.raises(IntegrityFailure, match="twice"):
        open_cosignature(twice, WITNESS.key)
    other = Cosigner.generate("cloche/witness/other")
    both = cosigned() + other.cosign(CHECKPOINT.body(), 5)
    assert open_cosignature(both, WITNESS.key)[1] == 1_700_000_000 and open_cosignature(both, other.key)[1] == 5


def test_a_time_past_the_last_one_is_refused():
    body = CHECKPOINT.body()
    data = WITNESS.key.key_hash + b"\xff" * 8 + WITNESS.sign(f"cosignature/v1\ntime {2**64 - 1}\n".encode() + body)
    note = LOG.sign(CHECKPOINT) + f"— {WITNESS.key.name} {base64.b64encode(data).decode()}\n".encode()
    with pytest.raises(IntegrityFailure):
        open_cosignature(note, WITNESS.key)


@given(st.binary(max_size=300))
def test_no_bytes_end_in_a_traceback(data):
    for note in (data, cosigned()[:120] + data, data + cosigned()):
        try:
            split_note(note)
            open_cosignature(note, WITNESS.key)
        except IntegrityFailure:
            pass


@pytest.mark.parametrize("name", ["a\nb", "a b", "a+b", "", "é", "a\u2028b", "x" * 81, "a\tb"])
def test_a_hostile_name_is_no_key(name):
    with pytest.raises(BadInput):
        WitnessKey(name, WITNESS.key.public)


def test_a_logs_key_is_no_witnesss_key_and_the_other_way_round():
    with pytest.raises(BadInput, match="witness"):
        WitnessKey.from_text(LOG.key.to_text())
    with pytest.raises(BadInput, match="a log"):
        VerifierKey.from_text(WITNESS.key.to_text())
    assert WITNESS.key.for_notes.key_hash != WITNESS.key.key_hash
