"""Signed notes and checkpoints: one text, one spelling, one name; anything else is none."""

import base64

import pytest

from audit.checkpoint import Checkpoint, Signer, VerifierKey, open_note
from audit.errors import BadInput, IntegrityFailure
from tests.audit.standalone import STANDALONE

SIGNER = Signer.generate("cloche/log/notes")
GOOD = SIGNER.sign(Checkpoint(SIGNER.key.name, 17, b"r" * 32))


def refused_by_both(note):
    """Whether neither verifier takes the note for a checkpoint of the log."""
    keys = STANDALONE.Keys(STANDALONE.Key.of(SIGNER.key.to_text()), [])
    with pytest.raises(IntegrityFailure):
        open_note(note, SIGNER.key)
    with pytest.raises(STANDALONE.Broken):
        keys.checkpoint(note)


def test_a_good_note_is_read_by_both():
    assert open_note(GOOD, SIGNER.key) == Checkpoint(SIGNER.key.name, 17, b"r" * 32)
    assert STANDALONE.Keys(STANDALONE.Key.of(SIGNER.key.to_text()), []).checkpoint(GOOD) == (17, b"r" * 32)


def test_a_note_has_one_spelling():
    """The last digit of 68 bytes in base64 has four spare bits... of which the one spelling has none set."""
    assert GOOD.endswith(b"=\n")
    digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = GOOD[-3]
    other = GOOD[:-3] + bytes([digits[digits.index(last) + 1]]) + b"=\n"
    assert base64.b64decode(other.split()[-1]) == base64.b64decode(GOOD.split()[-1])
    refused_by_both(other)


@pytest.mark.parametrize("size", ["017", "-1", "+17", "1_7", " 17", "", "17.0", "1" * 20, "٣"])
def test_a_size_has_one_spelling(size):
    text = SIGNER.sign_text(GOOD.partition(b"\n\n")[0].replace(b"\n17\n", f"\n{size}\n".encode()) + b"\n")
    refused_by_both(text)


def test_a_checkpoint_under_another_name_is_none_of_this_log():
    """Signed by the log's key, for another log: the signature is good, the promise is not about this log."""
    refused_by_both(SIGNER.sign(Checkpoint("cloche/log/other", 17, b"r" * 32)))


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n\n",
        GOOD[:-1],
        GOOD.replace(b"\n\n", b"\n"),
        GOOD.replace("—".encode(), b"-"),
        GOOD.replace(b"notes ", b"note "),
        GOOD + b" " * 5000 + b"\n",
        GOOD.replace(b"\n\n", b"\n\xff\n\n"),
        b"\xff" + GOOD,
    ],
)
def test_what_is_no_signed_checkpoint(note):
    refused_by_both(note)


def test_a_line_of_another_key_may_stand_beside():
    stranger = Signer.generate("witness.example")
    both = GOOD + stranger.sign_text(GOOD.rpartition(b"\n\n")[0] + b"\n").rpartition(b"\n\n")[2]
    assert open_note(both, SIGNER.key).size == 17
    assert STANDALONE.Keys(STANDALONE.Key.of(SIGNER.key.to_text()), []).checkpoint(both)[0] == 17


def test_one_bad_signature_of_the_key_is_not_made_good_by_another():
    bad = GOOD.rpartition(b"\n\n")[2].replace(b" ", b" ", 1)
    forged = Signer.from_bytes(SIGNER.key.name, SIGNER.to_bytes()).sign_text(b"another text\n").rpartition(b"\n\n")[2]
    assert bad != forged
    refused_by_both(GOOD.rpartition(b"\n\n")[0] + b"\n\n" + forged + bad)


@pytest.mark.parametrize("change", ["hash", "type", "name", "short", "junk", "empty"])
def test_a_line_that_is_no_key(change):
    name, key_hash, data = SIGNER.key.to_text().split("+", 2)
    raw = base64.b64decode(data)
    line = {
        "hash": f"{name}+00000000+{data}",
        "type": f"{name}+{key_hash}+{base64.b64encode(bytes([4]) + raw[1:]).decode()}",
        "name": f"{name} x+{key_hash}+{data}",
        "short": f"{name}+{key_hash}+{base64.b64encode(raw[:-1]).decode()}",
        "junk": "junk",
        "empty": "",
    }[change]
    with pytest.raises(BadInput):
        VerifierKey.from_text(line)
    with pytest.raises(ValueError):
        STANDALONE.Key.of(line)
