"""STREAM: every byte, the order and the end of a file are vouched for."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import stream
from audit.errors import IntegrityFailure

KEY = b"k" * 32
SEALED = stream.CHUNK_BYTES + 16


def sealed(data: bytes, pieces: int = 1) -> bytes:
    step = max(1, -(-len(data) // pieces))
    return b"".join(stream.seal(KEY, (data[i : i + step] for i in range(0, len(data), step))))


def opened(data: bytes, key: bytes = KEY) -> bytes:
    return b"".join(stream.open_chunks(key, io.BytesIO(data), "here"))


@pytest.fixture(scope="module")
def three() -> tuple[bytes, list[bytes]]:
    """Three chunks of different content, and the file's chunks."""
    plain = b"a" * stream.CHUNK_BYTES + b"b" * stream.CHUNK_BYTES + b"c" * 100
    data = sealed(plain)[len(stream.MAGIC) :]
    return plain, [data[:SEALED], data[SEALED : 2 * SEALED], data[2 * SEALED :]]


@given(st.binary(max_size=3000), st.integers(1, 7))
def test_what_goes_in_comes_out_however_it_is_cut(data, pieces):
    assert opened(sealed(data, pieces)) == data
    assert sealed(data, pieces) == sealed(data)


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [1, 2])
def test_lengths_around_a_chunk(chunks, extra):
    data = b"x" * (chunks * stream.CHUNK_BYTES + extra)
    found = sealed(data, 3)
    assert opened(found) == data
    assert len(found) == 8 + len(data) + 16 * (chunks + (extra > 0))


@given(st.data())
@settings(max_examples=60)
def test_a_changed_byte_is_found(data):
    found = bytearray(sealed(b"some words about nobody"))
    at = data.draw(st.integers(0, len(found) - 1))
    found[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityFailure):
        opened(bytes(found))


@given(st.integers(0, 46))
def test_a_cut_file_is_found(length):
    with pytest.raises(IntegrityFailure):
        opened(sealed(b"some words about nobody")[:length])


@pytest.mark.parametrize(
    "order", [(1, 0, 2), (0, 1), (0, 2), (0, 1, 1, 2), (0, 1, 2, 2), (2,), (0,), (), (0, 2, 1), (1, 2), (0, 0, 1, 2)]
)
def test_chunks_cannot_be_dropped_doubled_moved_or_cut_off(three, order):
    plain, chunks = three
    assert opened(stream.MAGIC + b"".join(chunks)) == plain
    with pytest.raises(IntegrityFailure):
        opened(stream.MAGIC + b"".join(chunks[i] for i in order))


def test_another_key_opens_nothing():
    with pytest.raises(IntegrityFailure):
        opened(sealed(b"x"), b"j" * 32)
