"""What `cloche audit witness` is offered: a checkpoint in one of its forms, and the files that came with it."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audit.proofs import ConsistencyProof

_DATABASE = b"SQLite format 3\x00"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Offer:
    """A checkpoint to be cosigned; nothing of it is verified."""

    note: bytes
    """The signed checkpoint."""
    proof: "ConsistencyProof | None" = None
    """The way there, as it was written; None where it is to be computed, or none was given."""
    log: Path | None = None
    """A carried copy of the log, to compute the proof from."""
    rotations: tuple[bytes, ...] = ()
    """Notes of the key's rotations, in order."""
    receipt: Path | None = None
    """The appliance's receipt for readings, if one came with it."""
    erasures: bytes = b""
    """The appliance's erasure list, if one came with it."""

    @property
    def origin(self) -> str:
        """The log that it names; the witness verifies it."""
        return self.note.partition(b"\n")[0].decode("utf-8", "replace")

    def way(self, known: int) -> "ConsistencyProof":
        """The consistency proof, from the `known` size where it is computed here.

        Raises:
            BadInput: there is none, and one is needed.
        """
        from audit.checkpoint import Checkpoint
        from audit.errors import BadInput
        from audit.handout import prepare
        from audit.proofs import ConsistencyProof

        if self.log is not None:
            return prepare(self.log, known, self.note).proof
        if self.proof is not None:
            return self.proof
        if known and Checkpoint.from_body(self.note.partition(b"\n\n")[0]).size > known:
            raise BadInput(
                f"a proof is missing: the witness knows the log to {known:,} entries",
                hint="give the .proof file, or a carried copy of the log, after the checkpoint",
            )
        return ConsistencyProof(known, (), self.note)

    def readings(self) -> dict[str, int]:
        """Number of the last reading that the appliance has of each witness. Raises BadInput for a damaged receipt."""
        from audit.errors import BadInput

        if self.receipt is None:
            return {}
        try:
            found = json.loads(self.receipt.read_bytes())
            numbers = {str(name): int(number) for name, number in found["readings"].items()}
            if found["origin"] != self.origin:
                raise ValueError("origin")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput("this is no receipt for readings of this log", where=str(self.receipt)) from error
        return numbers


def offered(path: Path, proof_path: Path | None) -> Offer:
    """Read an offer: NAME.checkpoint with what lies beside it, a proof's text, `-`, or a carried log.

    Raises:
        BadInput: a file cannot be read, is none of these, or the proof is about another checkpoint.
    """
    if str(path) == "-":
        return _of_text(sys.stdin.buffer.read(_MOST_BYTES), proof_path)
    if is_log(path):
        from audit.handout import prepare

        found = prepare(path, 0)
        return Offer(found.proof.note, None, path, found.rotations, erasures=found.erasures)
    from audit.erasures import MOST_BYTES

    beside = path.with_suffix(".proof")
    if proof_path is None and beside != path and beside.is_file():
        proof_path = beside
    made = _of_text(read(path), proof_path)
    notes = sorted(path.parent.glob(f"{path.stem}.rotation-*"), key=lambda one: (len(one.name), one.name))
    receipt = path.with_suffix(".receipt")
    listed = path.with_suffix(".erasures")
    erasures = read(listed, MOST_BYTES) if listed.is_file() else b""
    rotations = (*made.rotations, *(read(one) for one in notes))
    return replace(made, rotations=rotations, receipt=receipt if receipt.is_file() else None, erasures=erasures)


def is_log(path: Path) -> bool:
    """Whether a file is a database, so a carried log. Raises BadInput where it cannot be read."""
    return read(path, len(_DATABASE)) == _DATABASE


def read(path: Path, most_bytes: int = _MOST_BYTES) -> bytes:
    """The first bytes of a file. Raises BadInput where it cannot be read."""
    from audit.errors import BadInput

    try:
        with path.open("rb") as file:
            return file.read(most_bytes)
    except OSError as error:
        raise BadInput(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def _of_text(data: bytes, proof_path: Path | None) -> Offer:
    """A checkpoint's note, or a proof's text with the note in it."""
    from audit.errors import BadInput
    from audit.handout import prepare
    from audit.proofs import ConsistencyProof

    if b"\n\n" not in data:
        raise BadInput("this is no signed checkpoint", hint="on the appliance: cloche audit checkpoint --out DIR")
    if data.startswith(b"old "):
        proof = ConsistencyProof.from_bytes(data)
        return Offer(proof.note, proof)
    if proof_path is None:
        return Offer(data)
    if is_log(proof_path):
        return Offer(data, None, proof_path, prepare(proof_path, 0, data).rotations)
    proof = ConsistencyProof.from_bytes(read(proof_path))
    if proof.note.rpartition(b"\n\n")[0] != data.rpartition(b"\n\n")[0]:
        raise BadInput("the proof is about another checkpoint", where=str(proof_path))
    return Offer(data, proof)
