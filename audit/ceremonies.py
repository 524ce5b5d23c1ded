"""Ceremonies: who may read the log, which key signs it, and the proof that people have their keys.

Each change is an event of the log, and stands in the bag as an intent before it is committed, so that no moment of a
crash parts the two (see `bag` and `settle`). Changes need the keys to themselves (see `hold`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from audit import drill
from audit.actor import Actor
from audit.bag import FORGET, LOG_KEY, RECIPIENTS, BagFile, Intent
from audit.checkpoint import Checkpoint, Signer
from audit.erasures import Forgetting
from audit.errors import BadInput, Refused
from audit.events import Event
from audit.hold import Hold
from audit.keys import COST, Cost, Recipient
from audit.log import Log
from audit.sealing import check_recipients
from audit.settle import settle


class Ceremonies:
    """What can be done about the keys of an open appliance; arguments and results are plain values."""

    def __init__(self, home: Path, file: BagFile, hold: Hold, log: Log, close: Callable[[], None]) -> None:
        """Of a custodian, which `close` closes."""
        self._home, self._file, self._hold, self._log, self._close = home, file, hold, log, close

    def add_recipient(self, found: Mapping[str, str], actor: Actor) -> int:
        """Let one more read what is logged from now on; return the sequence of the event about it.

        Args:
            found: `Recipient.to_dict` of the newcomer.
            actor: who adds it.

        Raises:
            Refused: it is a recipient already, there are sixteen, or the keys are not held alone.
            BadInput: the key is damaged, or of another suite than the others'.
        """
        newcomer = Recipient.from_dict(dict(found), "the new recipient")
        if any(one.key_id == newcomer.key_id for one in self._file.bag.recipients):
            raise Refused("this key reads the log already", where=newcomer.name, hint="cloche audit recipient list")
        return self._change_recipients("recipient added", newcomer, (*self._file.bag.recipients, newcomer), actor)

    def retire_recipient(self, named: str, actor: Actor) -> tuple[dict[str, str], int]:
        """Let one read no more of what is logged from now on; what it could read so far it still can.

        Args:
            named: its name, or the beginning of its key id, 8 digits at least.
            actor: who retires it.

        Returns:
            `Recipient.to_dict` of the one that was retired, and the sequence of the event about it.

        Raises:
            BadInput: there is none of that name, or there are several.
            Refused: fewer than two would remain, or the keys are not held alone.
        """
        leaver = _named(named, self._file.bag.recipients)
        remaining = tuple(one for one in self._file.bag.recipients if one != leaver)
        return leaver.to_dict(), self._change_recipients("recipient retired", leaver, remaining, actor)

    def rotate_key(self, actor: Actor) -> tuple[str, str]:
        """Hand the log over to a fresh key of its own; the old and the new public key, as lines. Raises Refused."""
        self.require_alone()
        old, new = self._log.key, Signer.generate(self._log.key.name)
        before, after = (sha256(key.to_text().encode()).hexdigest() for key in (old, new.key))
        detail = {"change": "log key handed over", "before": before, "after": after}
        event = Event("keys.changed", actor, activity="rotate-key", detail=detail)
        self._change(Intent(LOG_KEY, log_key=new.to_bytes()), lambda: self._log.rotate(new, event))
        return old.to_text(), new.key.to_text()

    def change_passphrase(self, new: bytes, actor: Actor, cost: Cost = COST) -> None:
        """Seal the keys under another passphrase, once that is in the log. Raises Refused, EnvironmentProblem."""
        self.require_alone()
        if not new:
            raise Refused("the passphrase is empty", hint="type the same command and give one")
        self._log.append(Event("keys.changed", actor, activity="passphrase", detail={"change": "passphrase changed"}))
        self._file.change_passphrase(new, cost)

    def forget(self, wanted: Forgetting, events: Sequence[Event]) -> int:
        """Commit the events of a forgetting, and do it; see `Custodian.forget`, which alone may call this."""
        self.require_alone()
        size = Checkpoint.from_body(self._log.checkpoint().partition(b"\n\n")[0]).size
        intent = Intent(FORGET, size, forgetting=wanted)
        return self._change(intent, lambda: self._log.append_many(events)[0])

    def challenge(self, at: str) -> bytes:
        """A fresh challenge to every recipient, as a file; `at` is the time, UTC. See `drill`."""
        made, checks = drill.Challenge.make(self._log.key.name, self._file.bag.recipients, at)
        self._drills.open(made, checks)
        return made.to_bytes()

    def record_drill(self, answer: bytes, actor: Actor, at: str) -> tuple[dict[str, str], bool]:
        """Check an answer's file and record it in the log.

        Returns:
            `Recipient.to_dict` of who answered, and False where that was recorded before.

        Raises:
            BadInput: it is no answer. Refused: it is wrong, nobody asked for it, or the key was retired.
        """
        given = drill.Answer.from_bytes(answer, "the answer")
        who = next((one for one in self._file.bag.recipients if one.key_id == given.key_id), None)
        if who is None:
            raise Refused(
                "this key reads the log no more", where=given.key_id.hex(), hint="cloche audit recipient list"
            )
        detail = {"name": who.name, "key_id": who.key_id.hex(), "challenge": given.challenge.hex()}

        def record(made: str) -> None:
            self._log.append(Event("keys.drilled", actor, activity="drill", detail={**detail, "challenged_at": made}))

        return who.to_dict(), self._drills.settle(given, at, record)

    def drilled(self) -> dict[str, str]:
        """Key id (hex) -> when its last drill was recorded, UTC. Raises IntegrityFailure."""
        return self._drills.drilled()

    @property
    def _drills(self) -> drill.Book:
        return drill.Book(self._home / "audit" / drill.BOOK_FILE, lambda data: self._file.bag.mark("drills", data))

    def _change_recipients(self, change: str, who: Recipient, after: tuple[Recipient, ...], actor: Actor) -> int:
        self.require_alone()
        check_recipients(after)
        detail = {
            "change": change,
            "name": who.name,
            "key_id": who.key_id.hex(),
            "recipients": {one.key_id.hex(): one.name for one in after},
            "before": _digest(self._file.bag.recipients),
            "after": _digest(after),
        }
        event = Event("keys.changed", actor, activity="recipient", detail=detail)
        size = Checkpoint.from_body(self._log.checkpoint()).size
        return self._change(Intent(RECIPIENTS, size, after), lambda: self._log.change_recipients(after, event))

    def _change(self, intent: Intent, commit: Callable[[], int]) -> int:
        """Put an intent into the bag, let the log decide, and settle. An exception closes the custodian."""
        try:
            self._file.write(replace(self._file.bag, intent=intent), wipe=intent.about == FORGET)
            sequence = commit()
            settle(self._home, self._file)
        except BaseException:
            # Whether the log took it or not: who opens the appliance next finishes it or takes it back. Until then
            # nothing more may be logged from here.
            self._close()
            raise
        return sequence

    def require_alone(self) -> None:
        """Raises Refused unless no other process has the keys open."""
        if not self._hold.alone:
            raise Hold.refusal()


def _named(named: str, recipients: Sequence[Recipient]) -> Recipient:
    """The recipient of a name, or of the beginning of a key id. Raises BadInput."""
    found = [one for one in recipients if one.name == named]
    if not found and len(named) >= 8:
        found = [one for one in recipients if one.key_id.hex().startswith(named.lower())]
    if len(found) == 1:
        return found[0]
    says = f"{len(found)} recipients are called {named!r}: give the key id" if found else f"no recipient is {named!r}"
    raise BadInput(says, hint="cloche audit recipient list shows names and key ids")


def _digest(recipients: Sequence[Recipient]) -> str:
    """SHA-256 over the sorted key ids, hex: the list before and after a change."""
    return sha256(b"".join(sorted(one.key_id for one in recipients))).hexdigest()
