"""Proofs out of the database: equal to those over all leaves, and good against signed checkpoints only."""

import re
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import merkle, store
from audit.checkpoint import open_note
from audit.errors import BadInput, IntegrityFailure
from audit.proofs import ConsistencyProof, InclusionProof, Tree

SIZES = (1, 2, 3, 255, 256, 257, 511, 512, 513, 700)


@pytest.fixture
def connection(kit, event):
    with kit.open() as log:
        log.append_many([event(number) for number in range(699)])  # and the opening: 700 entries
    opened = store.reader(kit.path)
    yield opened
    opened.close()


def stored_leaves(connection):
    return [leaf for (leaf,) in connection.execute("SELECT leaf FROM entries ORDER BY sequence")]


def test_every_proof_is_the_one_over_all_leaves(connection):
    leaves, tree = stored_leaves(connection), Tree(connection)
    assert tree.size == 700
    for size in SIZES:
        part = leaves[:size]
        assert tree.root(size) == merkle.root(part)
        for index in {0, 1, 254, 255, 256, 400, 511, 512, size - 1} & set(range(size)):
            found = tree.inclusion(index, size)
            assert found == merkle.inclusion_proof(part, index)
            assert merkle.verify_inclusion(leaves[index], index, size, found, merkle.root(part))
        for first in [one for one in SIZES if one <= size]:
            found = tree.consistency(first, size)
            assert found == merkle.consistency_proof(part, first)
            assert merkle.verify_consistency(first, size, merkle.root(leaves[:first]), merkle.root(part), found)
    assert tree.root(0) == merkle.EMPTY_ROOT and tree.consistency(0, 700) == []


def test_a_proof_reads_few_rows(connection):
    """O(log n): no statement may walk the log, and each reads a tile at most."""
    read = []
    connection.set_trace_callback(read.append)
    Tree(connection).inclusion(3, 700)
    ranges = [re.search(r">= (\d+) AND \w+ < (\d+)", query) for query in read if "count(*)" not in query]
    widths = [int(found[2]) - int(found[1]) for found in ranges if found]
    assert len(widths) == len(ranges) <= 20 and max(widths) <= 128 and sum(widths) <= 2 * 256


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (0, 701), (701, 702)])
def test_what_is_not_there_has_no_proof(connection, index, size):
    with pytest.raises(BadInput):
        Tree(connection).inclusion(index, size)


@pytest.mark.parametrize(("first", "second"), [(-1, 5), (6, 5), (0, 701), (700, 701)])
def test_sizes_out_of_order_have_no_proof(connection, first, second):
    with pytest.raises(BadInput):
        Tree(connection).consistency(first, second)


def test_a_hole_in_the_tree_is_named(kit, connection):
    connection.close()
    writing = sqlite3.connect(kit.path)
    writing.execute("DELETE FROM subtrees WHERE place = 0")
    writing.commit()
    writing.close()
    reading = store.reader(kit.path)
    with pytest.raises(IntegrityFailure, match="holes"):
        Tree(reading).inclusion(600, 700)
    reading.close()


def test_a_proof_file_holds_all_that_a_stranger_needs(kit, connection):
    note = store.head(connection).note
    checkpoint = open_note(note, kit.signer.key)
    made = InclusionProof(5, tuple(Tree(connection).inclusion(5, checkpoint.size)), note)
    read = InclusionProof.from_bytes(made.to_bytes())
    assert read == made
    assert made.to_bytes().startswith(b"c2sp.org/tlog-proof@v1\nindex 5\n")
    leaf = stored_leaves(connection)[5]
    assert merkle.verify_inclusion(leaf, read.index, checkpoint.size, read.hashes, checkpoint.root)
    step = ConsistencyProof(300, tuple(Tree(connection).consistency(300, 700)), note)
    assert ConsistencyProof.from_bytes(step.to_bytes()) == step and step.to_bytes().startswith(b"old 300\n")


proofs = st.lists(st.binary(min_size=32, max_size=32), max_size=12).map(tuple)
notes = st.binary(min_size=1).filter(lambda data: not data.startswith(b"\n"))


@given(st.integers(0, 2**60), proofs, notes)
def test_what_is_written_is_what_is_read(number, hashes, note):
    assert InclusionProof.from_bytes(InclusionProof(number, hashes, note).to_bytes()).hashes == hashes
    assert ConsistencyProof.from_bytes(ConsistencyProof(number, hashes, note).to_bytes()).old_size == number


@given(st.binary(max_size=300))
def test_any_other_bytes_are_bad_input(data):
    for kind in (InclusionProof, ConsistencyProof):
        with pytest.raises(BadInput):
            kind.from_bytes(data)


HASH = b"A" * 43 + b"="


@pytest.mark.parametrize(
    "data",
    [
        b"old 01\n\nnote\n",
        b"old -1\n\nnote\n",
        b"old 1 \n\nnote\n",
        b"old 1\n" + HASH[:-1] + b"\n\nnote\n",
        b"old 1\n" + HASH + b" \n\nnote\n",
        b"old 1\n" + b"A" * 42 + b"B=\n\nnote\n",  # a second spelling of the same bytes
        b"old 1\n" + (HASH + b"\n") * 64 + b"\nnote\n",
        b"old 1\n\n",
        b"old 1\n",
    ],
)
def test_a_proof_has_one_spelling(data):
    with pytest.raises(BadInput):
        ConsistencyProof.from_bytes(data)
