"""The witness: what the officer's machine remembers of a log, so that the log cannot take anything back.

It cosigns a checkpoint only if the pinned key has signed it and it continues the last one (C2SP tlog-witness). Its
state is one JSON file, mode 0600. The witness's own key lies in it under a passphrase, and signs all that decides what
is cosigned next; readings of the log that wait to be carried to the appliance stand beside it.
"""

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from audit import keys, merkle, witnessfile
from audit.checkpoint import Checkpoint, VerifierKey
from audit.cosignature import Cosigner, WitnessKey, open_cosignature, split_note
from audit.erasures import Erasures
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.files import replace_file
from audit.keys import COST, Cost
from audit.rotation import Predecessor, Rotation
from audit.visit import Visit
from audit.watched import Watched, utc
from audit.witnessfile import FORMAT, KIND

_CONTEXT = b"cloche/witness/v1/key\x00"


class WitnessState:
    """The state of one witness. Reading it, and noting a reading, need no passphrase; whatever signs does."""

    def __init__(self, path: Path, found: Mapping[str, Any], cosigner: Cosigner | None) -> None:
        """See `create`, `load` and `open`."""
        self.path = path
        """Its file."""
        self._cosigner = cosigner
        self._take(found)

    @classmethod
    def create(cls, path: Path, passphrase: bytes, cost: Cost = COST) -> Self:
        """Make a witness with a fresh key. Raises Refused where the file exists or the passphrase is empty."""
        cosigner = Cosigner.generate(f"cloche/witness/{secrets.token_hex(8)}")
        public = cosigner.key.to_text()
        private = keys.wrap(cosigner.to_bytes(), passphrase, _CONTEXT + public.encode(), cost)
        about = {"kind": KIND, "format": FORMAT, "public": public, "private": private, "logs": {}}
        found = witnessfile.signed(about, cosigner)
        keys.write_new(path, witnessfile.encode(found), mode=0o600)
        return cls(path, found, cosigner)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a state without its passphrase.

        Raises:
            BadInput: there is none, or it is damaged.
            Refused: others may read it, or a newer version made it.
            IntegrityFailure: somebody without the witness's key has changed what it signed.
        """
        return cls(path, witnessfile.read(path), None)

    @classmethod
    def open(cls, path: Path, passphrase: bytes) -> Self:
        """Read a state and unlock its key. Raises as `load`, and Refused where the passphrase is wrong."""
        found = witnessfile.read(path)
        public = WitnessKey.from_text(found["public"], str(path))
        private = keys.unwrap(found["private"], passphrase, _CONTEXT + found["public"].encode(), str(path))
        return cls(path, found, Cosigner.from_bytes(public.name, private))

    @property
    def origins(self) -> tuple[str, ...]:
        """The logs that it watches."""
        return tuple(self._logs)

    def watched(self, origin: str) -> Watched:
        """What it keeps about a log. Raises Refused where it watches no such log."""
        if origin not in self._logs:
            raise Refused(
                "this witness does not watch the log",
                where=repr(origin[:80]),
                hint="pin its key first: cloche audit witness --state FILE --pin log.pub",
            )
        return self._logs[origin]

    def last(self, origin: str) -> tuple[Checkpoint, int] | None:
        """The last checkpoint that it cosigned, and when (POSIX time); None before the first.

        Raises:
            Refused: it watches no such log.
            IntegrityFailure: the checkpoint that it keeps is not good.
        """
        note = self.watched(origin).cosigned
        return open_cosignature(note, self.key) if note else None

    # -- what it trusts

    def pin(self, key: VerifierKey) -> None:
        """Watch a log from now on. Raises Refused where the log is watched under another key."""
        with self._editing():
            known = self._logs.get(key.name)
            if known is not None and key not in known.chain.keys:
                raise Refused(
                    "this log is pinned to another key already",
                    where=known.chain.newest.fingerprint,
                    hint="if the log was handed over, give the note of it with --rotation; if it was restored or "
                    "its key was lost or stolen, adopt the new log with --adopt",
                )
            if known is None:
                self._logs[key.name] = Watched(key)

    def follow_rotation(self, note: bytes) -> VerifierKey:
        """Follow a log that was handed over to a new key, by the note that both keys have signed; returns the new key.

        Raises:
            Refused: it watches no such log.
            IntegrityFailure: the note is not good, the old key is not the newest that it trusts, or the old key has
                signed more than it says.
        """
        rotation = Rotation.open(note)
        with self._editing():
            origin, watched = rotation.new.name, self.watched(rotation.new.name)
            if rotation.new in watched.chain.keys:
                return rotation.new
            last = self.last(origin)
            if rotation.old != watched.chain.newest:
                raise IntegrityFailure(
                    "the log was handed over by a key that this witness does not trust", where=rotation.old.fingerprint
                )
            if last is not None and rotation.checkpoint.size <= last[0].size:
                raise IntegrityFailure(
                    f"the log was handed over at {rotation.checkpoint.size:,} entries, yet its old key signed "
                    f"{last[0].size:,} for this witness",
                    where=origin,
                )
            followed = replace(watched, rotations=(*watched.rotations, note))
            _ = followed.chain  # the notes must follow from each other
            self._logs[origin] = followed
        return rotation.new

    def follow_rotations(self, origin: str, notes: Iterable[bytes]) -> None:
        """Follow those of a log's rotations that go on from the newest key that it trusts. Raises as the above."""
        for note in notes:
            if Rotation.open(note).old == self.watched(origin).chain.newest:
                self.follow_rotation(note)

    def adopt(self, key: VerifierKey, predecessor_note: bytes, proof: Sequence[bytes] = ()) -> None:
        """Watch the new log of an appliance that began anew, and cosign for the one before it no more.

        Args:
            key: the new log's key, as read on the appliance by the officer.
            predecessor_note: what the new key has signed about the log before it.
            proof: where that names a larger checkpoint than this witness knows: the way there, a consistency proof.

        Raises:
            Refused: the log before it is not watched, or has a successor already.
            IntegrityFailure: the note is not good, or names a checkpoint that does not continue the last one.
        """
        before = Predecessor.open(predecessor_note, key)
        with self._editing():
            known = self._logs.get(key.name)
            if known is not None and known.predecessor == predecessor_note:
                return
            old = self.watched(before.checkpoint.origin)
            if known is not None or old.successor:
                raise Refused("the log, or the one before it, was adopted already", where=key.name)
            if before.key not in old.chain.keys:
                raise IntegrityFailure(
                    "the new log names another key for the one before it", where=before.key.fingerprint
                )
            last = self.last(before.checkpoint.origin)
            _continues(None if last is None else last[0], before.checkpoint, proof)
            self._logs[before.checkpoint.origin] = replace(old, successor=key.name)
            self._logs[key.name] = Watched(key, predecessor=predecessor_note)

    # -- what it signs

    def cosign(self, note: bytes, old_size: int, proof: Sequence[bytes], now: int | None = None) -> bytes:
        """Cosign a checkpoint; the state is durable before it returns. Source: C2SP tlog-witness, add-checkpoint.

        Args:
            note: the signed checkpoint.
            old_size: size of the checkpoint that `proof` starts from; 0 before the first.
            proof: the consistency proof from there; empty for an old size of 0, or for the same size.
            now: POSIX time; by default this machine's clock.

        Returns:
            The checkpoint with the log's signature and the cosignature.

        Raises:
            Refused: it watches no such log, the log has a successor, or the clock stands before the last cosignature.
            BadInput: the proof starts from another size than the last.
            IntegrityFailure: the pinned key has not signed it, or it does not continue the last checkpoint.
        """
        text, signatures = split_note(note)
        if b"\n\n" in text:
            raise IntegrityFailure("a checkpoint has an empty line")
        now = int(time.time()) if now is None else now
        with self._editing() as cosigner:
            origin = text.partition(b"\n")[0].decode()
            watched, chain = self.watched(origin), self.watched(origin).chain
            if watched.successor:
                raise Refused("another log goes on from this one", where=origin, hint=f"look at {watched.successor}")
            checkpoint = chain.open(note)
            last = self.last(origin)
            known = None if last is None else last[0]
            _never_back(known, checkpoint)
            if old_size != (known.size if known else 0):
                raise BadInput(
                    f"the proof starts from {old_size:,} entries, the witness knows {known.size if known else 0:,}",
                    where=origin,
                    hint=f"on the appliance: cloche audit checkpoint --out DIR --since {known.size if known else 0}",
                )
            _continues(known, checkpoint, proof)
            if last is not None and now < last[1]:
                raise Refused(
                    f"this machine's clock says {utc(now)}, yet the last cosignature was made at {utc(last[1])}",
                    where=origin,
                    hint="set the clock right, then type the same command",
                )
            key = chain.at(checkpoint.size)
            of_log = next(s.line for s in signatures if (s.name, s.key_hash) == (key.name, key.key_hash))
            made = text + b"\n" + of_log + cosigner.cosign(text, now)
            self._logs[origin] = replace(watched, cosigned=made)
        return made

    def keep_erasures(self, origin: str, data: bytes) -> int:
        """Keep the appliance's erasure list, for a restore; returns how many patients it names.

        Raises:
            Refused: it watches no such log. BadInput: it is no erasure list.
            IntegrityFailure: no log that is watched here signed it, or it lacks patients of the one that is kept.
        """
        listed = Erasures.open(data, "the erasure list")
        with self._editing():
            watched = self.watched(origin)
            if not listed.vouched(key for one in self._logs.values() for key in one.chain.keys):
                raise IntegrityFailure("the erasure list is not signed by a log that this witness watches")
            if watched.erasures and not Erasures.open(watched.erasures, "the state").within(listed):
                raise IntegrityFailure(
                    "rollback: the erasure list lacks patients whom this witness knows to be forgotten",
                    where=origin,
                    hint="if it is an old file, take a newer one; else keep the appliance as it is, and ask for help",
                )
            self._logs[origin] = replace(watched, erasures=data)
        return len(listed.erasures)

    def visit(self, origin: str) -> bytes:
        """What is to be carried to the appliance: last cosigned checkpoint and waiting readings, signed."""
        watched = self.watched(origin)
        return Visit(origin, self.key, watched.cosigned, watched.waiting).sign(self._unlocked().notes)

    # -- readings

    def add_read(self, origin: str, user: str, command: str, detail: Mapping[str, Any]) -> int:
        """Note a reading of a log on this machine; it needs no passphrase. Returns the reading's number.

        Raises:
            Refused: it watches no such log.
            BadInput: `detail` is no JSON, or too long.
        """
        at = utc(int(time.time()))
        with self._editing(sign=False):
            watched = self._logs[origin] = self.watched(origin).reading(at, user, command, detail)
        return watched.reads[-1].number

    def acknowledge(self, origin: str, number: int) -> None:
        """Note that the appliance has taken the readings up to `number`. Raises Refused where there are no such."""
        with self._editing(sign=False):
            self._logs[origin] = self.watched(origin).acknowledged(number)

    # -- its file

    def _unlocked(self) -> Cosigner:
        if self._cosigner is None:
            raise Refused("the witness's key is locked", where=str(self.path), hint="open it with its passphrase")
        return self._cosigner

    @contextmanager
    def _editing(self, sign: bool = True) -> Iterator[Any]:
        """Change the state as it stands on the disk now; written when the block ends, unless it raises.

        Nobody else changes it meanwhile: else one command could put back what another has moved on.
        """
        cosigner = self._unlocked() if sign else None
        with witnessfile.locked(self.path):
            found = witnessfile.read(self.path)
            self._take(found)
            yield cosigner
            logs = {origin: watched.to_dict() for origin, watched in self._logs.items()}
            changed = {**found, "logs": logs}
            if cosigner is not None:
                changed = witnessfile.signed(changed, cosigner)
            replace_file(self.path, witnessfile.encode(changed), mode=0o600)

    def _take(self, found: Mapping[str, Any]) -> None:
        self.key = WitnessKey.from_text(found["public"], str(self.path))
        """Its public key."""
        self._logs = {origin: Watched.from_dict(one) for origin, one in found["logs"].items()}
        if self._cosigner is not None and self._cosigner.key != self.key:
            raise IntegrityFailure("the witness state now holds another key", where=str(self.path))


def _never_back(known: Checkpoint | None, checkpoint: Checkpoint) -> None:
    """Raises IntegrityFailure for a rollback, or for a second tree of the size that is known."""
    hint = "keep the appliance's disk as it is, and ask for help"
    if known is not None and checkpoint.size < known.size:
        raise IntegrityFailure(
            f"rollback: the checkpoint has {checkpoint.size:,} entries, the witness knows {known.size:,}",
            where=checkpoint.origin,
            hint=f"if it is an old file, take a newer one; if the log has no more entries now, {hint}",
        )
    if known is not None and checkpoint.size == known.size and checkpoint.root != known.root:
        raise IntegrityFailure(
            f"fork: the log has signed two different trees of {known.size:,} entries", where=known.origin, hint=hint
        )


def _continues(known: Checkpoint | None, checkpoint: Checkpoint, proof: Sequence[bytes]) -> None:
    """Raises IntegrityFailure unless `proof` shows that the checkpoint continues the known one."""
    _never_back(known, checkpoint)
    if known is None or known.size == 0:
        good = not proof and (checkpoint.size > 0 or checkpoint.root == merkle.EMPTY_ROOT)
    else:
        good = merkle.verify_consistency(known.size, checkpoint.size, known.root, checkpoint.root, proof)
    if not good:
        raise IntegrityFailure(
            f"the consistency proof does not lead from {known.size if known else 0:,} to {checkpoint.size:,} entries",
            where=checkpoint.origin,
            hint="copy checkpoint and proof once more; if that does not help, the log was changed: ask for help",
        )
