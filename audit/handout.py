"""What a log hands to its witness: its newest checkpoint, the way there from an older one, the fate of its key."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from audit import store
from audit.checkpoint import Checkpoint
from audit.errors import BadInput, IntegrityFailure, storage
from audit.proofs import ConsistencyProof, Tree


@dataclass(frozen=True)
class Handout:
    """What a witness needs, and nothing else of a log."""

    checkpoint: Checkpoint
    """The checkpoint; who signed it is the witness's to verify."""
    proof: ConsistencyProof
    """The way there, with the checkpoint's note."""
    rotations: tuple[bytes, ...]
    """Notes of the key's rotations, in order."""
    predecessor: bytes
    """The note about the log that this one goes on from; empty if none."""
    erasures: bytes = b""
    """The erasure list in a carried copy; empty if none."""


def prepare(log_path: Path, since: int, note: bytes = b"") -> Handout:
    """Read a handout out of a log, or out of a carried copy of it.

    Args:
        log_path: the log's database.
        since: size that the witness knows; 0 if none. Where it is larger than the log, the proof is empty, and the
            witness will refuse it as a rollback.
        note: the checkpoint to prove; by default the newest.

    Raises:
        IntegrityFailure: the log is damaged, or is not the one that the checkpoint is about.
    """
    with storage(log_path):
        connection = store.reader(log_path)
        try:
            return _prepare(connection, since, note)
        except BadInput as error:
            raise IntegrityFailure("a signed note is no checkpoint", where=str(log_path)) from error
        finally:
            connection.close()


def _prepare(connection: sqlite3.Connection, since: int, note: bytes) -> Handout:
    note = note or store.head(connection).note
    checkpoint = Checkpoint.from_body(note.rpartition(b"\n\n")[0] + b"\n")
    tree = Tree(connection)
    if tree.size < checkpoint.size or tree.root(checkpoint.size) != checkpoint.root:
        raise IntegrityFailure(
            f"the log's {tree.size:,} entries are not those of its checkpoint of {checkpoint.size:,}",
            hint="cloche audit verify",
        )
    hashes = tree.consistency(since, checkpoint.size) if since <= checkpoint.size else []
    proof = ConsistencyProof(since, tuple(hashes), note)
    rotations, before = tuple(store.rotations(connection)), store.predecessor(connection)
    return Handout(checkpoint, proof, rotations, before, store.erasures(connection))
