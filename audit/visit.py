"""A visit: what the officer's machine sends to the appliance, on a stick.

It is a signed note of the witness: a label, the log's origin, and one line of JSON.

    cloche/visit/v1
    cloche/log/6f0c...
    {"cosigned": "...", "reads": [...], "witness": "..."}

    — cloche/witness/91ab... <signature>
"""

import json
from dataclasses import dataclass
from typing import Self

from audit.checkpoint import Signer, open_text
from audit.cosignature import WitnessKey, open_cosignature, split_note
from audit.errors import BadInput, IntegrityFailure
from audit.watched import Read

MOST_BYTES = 16 << 20
"""Bytes of a visit's file at most."""
_LABEL = "cloche/visit/v1"


@dataclass(frozen=True)
class Visit:
    """One visit."""

    origin: str
    """The log that it is about."""
    witness: WitnessKey
    """Who sends it."""
    cosigned: bytes
    """The last checkpoint of that log that the witness cosigned; empty where there is none."""
    reads: tuple[Read, ...]
    """Readings on the officer's machine that the appliance does not know of yet, in order."""

    def sign(self, signer: Signer) -> bytes:
        """The file, signed with the witness's key."""
        found = {
            "cosigned": self.cosigned.decode(),
            "reads": [one.to_dict() for one in self.reads],
            "witness": self.witness.to_text(),
        }
        line = json.dumps(found, sort_keys=True, separators=(",", ":"))  # ASCII: no control characters in a note
        return signer.sign_text(f"{_LABEL}\n{self.origin}\n{line}\n".encode())

    @classmethod
    def open(cls, data: bytes) -> Self:
        """The visit of a file, its signatures verified with the key that it names itself: hold that against a pin.

        Raises:
            BadInput: this is no visit.
            IntegrityFailure: it, or the cosignature in it, is not signed by that key, or is about another log.
        """
        try:
            label, origin, line = data.partition(b"\n\n")[0].decode().split("\n")
            found = json.loads(line)
            witness = WitnessKey.from_text(found["witness"])
            cosigned, reads = found["cosigned"].encode(), tuple(Read.from_dict(one) for one in found["reads"])
            numbers = [one.number for one in reads]
            if label != _LABEL or numbers != sorted(set(numbers)):
                raise ValueError("label or order")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadInput) as error:
            raise BadInput(
                "this is no visit of a witness", hint="on the officer's machine: cloche audit visit --state FILE"
            ) from error
        try:
            if len(split_note(data, MOST_BYTES)[1]) != 1:
                raise IntegrityFailure("a visit has one signature")
            open_text(data, witness.for_notes, MOST_BYTES)
        except IntegrityFailure as error:
            raise IntegrityFailure(
                "the visit is not signed by the witness that it names", where=witness.name
            ) from error
        if cosigned and open_cosignature(cosigned, witness)[0].origin != origin:
            raise IntegrityFailure("the visit holds the checkpoint of another log", where=witness.name)
        return cls(origin, witness, cosigned, reads)
