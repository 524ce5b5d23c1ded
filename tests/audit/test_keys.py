"""Key files: what is written is what is read; a wrong passphrase or a damaged file is said so, never guessed."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, Signer, VerifierKey, open_note, open_text
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.keys import SUITES, Cost, KeyPair, Recipient, generate, unwrap, wrap

CHEAP = Cost(memory_kib=64, iterations=1, lanes=1)


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_a_pair_comes_back_from_its_files(tmp_path, suite):
    pair = generate("auditor", suite, label="DEMO - not for real data")
    pair.save(tmp_path / "a.key", b"secret", CHEAP)
    pair.recipient.save(tmp_path / "a.pub")
    assert KeyPair.load(tmp_path / "a.key", b"secret") == pair
    assert Recipient.load(tmp_path / "a.pub") == pair.recipient
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    for path in tmp_path.iterdir():
        assert "DEMO - not for real data" in path.read_text() and pair.private.hex() not in path.read_text()
    assert pair.private.hex() not in repr(pair)


def test_wrong_passphrases_kinds_and_existing_files(tmp_path):
    pair = generate("auditor", "X25519")
    pair.save(tmp_path / "a.key", b"secret", CHEAP)
    pair.recipient.save(tmp_path / "a.pub")
    with pytest.raises(Refused, match="passphrase is wrong"):
        KeyPair.load(tmp_path / "a.key", b"Secret")
    with pytest.raises(Refused, match="exists already"):
        pair.save(tmp_path / "a.key", b"other", CHEAP)
    with pytest.raises(Refused, match="empty"):
        pair.save(tmp_path / "b.key", b"", CHEAP)
    for path in (tmp_path / "a.pub", tmp_path / "missing", tmp_path):
        with pytest.raises(BadInput):
            KeyPair.load(path, b"secret")
    with pytest.raises(BadInput):
        Recipient.load(tmp_path / "a.key")
    with pytest.raises(BadInput):
        generate("x", "ROT13")


@pytest.mark.parametrize(
    "change",
    [
        {"public": "AAAA"},
        {"public": "A" * 43 + "="},
        {"public": 7},
        {"suite": "ROT13"},
        {"suite": []},
        {"key_id": "00" * 16},
        {"name": None, "key_id": None},
        {"private": {}},
        {"private": None},
    ],
)
def test_a_damaged_key_file_is_bad_input(tmp_path, change):
    pair = generate("auditor", "X25519")
    pair.save(tmp_path / "a.key", b"secret", CHEAP)
    found = json.loads((tmp_path / "a.key").read_text())
    (tmp_path / "a.key").write_text(json.dumps(found | change))
    with pytest.raises(BadInput):
        KeyPair.load(tmp_path / "a.key", b"secret")


@pytest.mark.parametrize("field", ["memory_kib", "iterations", "lanes"])
@pytest.mark.parametrize("value", [0, -1, 10**9, "x", None])
def test_parameters_out_of_range_are_refused_before_memory_is_asked_for(field, value):
    sealed = wrap(b"secret", b"passphrase", b"context", CHEAP)
    with pytest.raises(BadInput):
        unwrap(sealed | {field: value}, b"passphrase", b"context", "here")


def test_a_wrapped_secret_is_bound_to_its_context():
    sealed = wrap(b"secret", b"passphrase", b"context", CHEAP)
    assert unwrap(sealed, b"passphrase", b"context", "here") == b"secret"
    with pytest.raises(Refused):
        unwrap(sealed, b"passphrase", b"another", "here")


# -- checkpoints

SIGNER = Signer.generate("cloche/log/0123456789abcdef")


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_comes_back_from_its_note(size, root):
    checkpoint = Checkpoint(SIGNER.key.name, size, root)
    note = SIGNER.sign(checkpoint)
    assert open_note(note, SIGNER.key) == checkpoint
    assert len(note) <= 512, "it must fit into the high-water mark"


@given(st.data())
@settings(max_examples=200)
def test_a_changed_byte_of_a_note_is_an_integrity_failure(data):
    note = bytearray(SIGNER.sign(Checkpoint(SIGNER.key.name, 1234, b"\x07" * 32)))
    note[data.draw(st.integers(0, len(note) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityFailure):
        open_note(bytes(note), SIGNER.key)


@given(st.binary(max_size=400))
def test_any_bytes_are_no_note(data):
    with pytest.raises(IntegrityFailure):
        open_note(data, SIGNER.key)


def test_signatures_of_others_stand_beside_the_logs_own():
    checkpoint = Checkpoint(SIGNER.key.name, 1, b"\1" * 32)
    body, own = SIGNER.sign(checkpoint).split(b"\n\n")
    witness = Signer.generate("witness.example").sign(checkpoint).split(b"\n\n")[1]
    assert open_note(body + b"\n\n" + witness + own, SIGNER.key) == checkpoint
    assert open_note(body + b"\n\n" + own + witness, SIGNER.key) == checkpoint
    with pytest.raises(IntegrityFailure):
        open_note(body + b"\n\n" + witness, SIGNER.key)


def test_a_note_about_another_log_is_refused_even_with_a_good_signature():
    with pytest.raises(IntegrityFailure, match="another log"):
        open_note(SIGNER.sign(Checkpoint("cloche/log/other", 1, b"\1" * 32)), SIGNER.key)


def test_key_lines():
    line = SIGNER.key.to_text()
    assert VerifierKey.from_text(line + "\n") == SIGNER.key
    assert Signer.from_bytes(SIGNER.key.name, SIGNER.to_bytes()).key == SIGNER.key
    for bad in ("", "a+b", line[:-2], line.replace("+", "-", 1), "x" + line, line + "A", "a b" + line):
        with pytest.raises(BadInput):
            VerifierKey.from_text(bad)


def test_the_published_note_of_the_reference_implementation():
    """golang.org/x/mod/sumdb/note, note_test.go: key, text and signature that every implementation must agree on."""
    key = VerifierKey.from_text("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    text = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    note = text + f"\n— PeterNeumann {signature}\n".encode()
    assert open_text(note, key) == text
    private = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
    assert Signer.from_bytes("PeterNeumann", private).sign_text(text) == note
    with pytest.raises(IntegrityFailure):
        open_text(note.replace(b"answer", b"anSwer"), key)
