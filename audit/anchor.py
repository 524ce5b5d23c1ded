"""What a log is held against from outside: a checkpoint that was kept elsewhere, and whose word it is."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audit import store
from audit.checkpoint import Checkpoint, VerifierKey
from audit.cosignature import WitnessKey
from audit.errors import BadInput, IntegrityFailure
from audit.rotation import KeyChain
from audit.witness import WitnessState
from audit.witnessed import cosigned
from audit.witnessfile import KIND


@dataclass(frozen=True)
class Anchor:
    """A checkpoint of a log, kept out of its reach."""

    checkpoint: Checkpoint | None
    """What the log must still contain; None where a witness knows the log and has not cosigned it yet."""
    key: VerifierKey
    """The key that the log is to be verified with."""
    cosigned_at: int | None
    """POSIX time of the cosignature; None where no witness's cosignature was verified."""
    witness: str = ""
    """Name of that witness's key."""


def read(path: Path, log_path: Path, pinned: VerifierKey | None, known: Sequence[WitnessKey]) -> Anchor:
    """The anchor that a file gives: a witness's state, a cosigned checkpoint, or a plain signed checkpoint.

    Args:
        path: the file.
        log_path: the log that it is about; its name says which log of a state is meant, and its notes of rotations
            which key signed a checkpoint.
        pinned: the log's public key; a state knows it itself.
        known: the witnesses whose cosignature counts.

    Raises:
        BadInput: the file cannot be read, or there is no pinned key.
        IntegrityFailure: its signatures are not good, or the witness does not watch this log.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"the witness's file cannot be read: {error.strerror}", where=str(path)) from error
    if data.lstrip()[:1] == b"{" and KIND.encode() in data:
        return _of_state(WitnessState.load(path), log_path, pinned)
    if pinned is None:
        raise BadInput("a witnessed checkpoint says nothing without the log's key", hint="give it with --key-pin")
    checkpoint = _chain(log_path, pinned).open(data)
    found = cosigned(data, known)
    return Anchor(checkpoint, pinned, found.time if found else None, found.witness if found else "")


def _of_state(state: WitnessState, log_path: Path, pinned: VerifierKey | None) -> Anchor:
    """The anchor that a witness's own state gives for a log."""
    origin = _origin(log_path) if pinned is None else pinned.name
    if origin not in state.origins:
        if len(state.origins) != 1:
            raise IntegrityFailure(
                "the log bears a name that this witness does not know",
                where=f"{origin[:80]!r}, {len(state.origins)} logs in {state.path.name}",
                hint="cloche audit witness --show lists those it knows",
            )
        origin = state.origins[0]  # it can only be meant to be this one: verification will say what is wrong
    key = state.watched(origin).chain.newest
    if pinned is not None and pinned not in (key, *_chain(log_path, key).keys):
        raise IntegrityFailure(
            "the log's public key here is not the one that the witness has pinned",
            where=f"fingerprint {pinned.fingerprint}, not {key.fingerprint}",
            hint="keep the appliance's disk as it is, and ask for help",
        )
    last = state.last(origin)
    return Anchor(last[0] if last else None, key, last[1] if last else None, state.key.name if last else "")


def _origin(log_path: Path) -> str:
    """The name that a log gives itself; nothing is concluded from it but which pin to take."""
    try:
        connection = store.reader(log_path)
        try:
            return VerifierKey.from_text(store.head(connection).key.decode("ascii")).name
        finally:
            connection.close()
    except (sqlite3.Error, OSError, ValueError, BadInput, IntegrityFailure):
        return ""


def _chain(log_path: Path, pinned: VerifierKey) -> KeyChain:
    """The keys of a log as its rotations say; the pinned one alone where they cannot be read: verification says why."""
    try:
        connection = store.reader(log_path)
        try:
            return KeyChain.of(pinned, store.rotations(connection))
        finally:
            connection.close()
    except (sqlite3.Error, OSError, IntegrityFailure):
        return KeyChain.of(pinned, ())
