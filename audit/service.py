"""The process that holds an appliance's keys: it alone opens objects and writes the log, for clients on a socket.

Started for one client by `remote.RemoteVault.open` (a socket pair; it ends with its client), or by systemd under an
account of its own (`python -m audit.service HOME`, a listening socket). Every call names its peer's account to the
kernel, not to us: an event can only name the user who asks.
"""

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from audit import wire
from audit.actor import Actor, name_of
from audit.errors import BadInput, EnvironmentProblem, Refused
from audit.events import Event
from audit.forgetting import Forgotten, Plan
from audit.home import share
from audit.rows import NewObject, StoredObject
from audit.scrub import Checked, Step
from audit.vault import Opened, Vault

CALLS = {
    "backup", "checkpoint", "commit", "delete", "discard", "end", "forget", "import_visit", "keep", "link", "log_key",
    "mark", "more", "open", "permitted", "plan_forgetting", "policy", "prove_absence", "pseudonym", "read",
    "recipients", "scrub", "scrub_more", "seal", "set_consent", "set_policy",
}  # fmt: skip
"""What a client may ask for, beside the ceremonies."""
CEREMONIES = {
    "add_recipient", "challenge", "change_passphrase", "drilled", "record_drill", "retire_recipient", "rotate_key",
}  # fmt: skip
MARKS = {"fingerprint", "manifest"}
"""What a client may have keyed digests for."""
_PR_SET_DUMPABLE = 4
_LISTENERS = 16


class _Arriving:
    """The pieces of an object as the client sends them. No generator: it would be closed where the writing fails."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._over = channel, False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        while not self._over:
            head, body = wire.receive(self._channel)
            self._over = bool(head.get("last"))
            if body:
                return body
        raise StopIteration

    def drain(self) -> None:
        """Take in what is still under way: it must not be taken for the next call."""
        for _ in self:
            pass


class Attendant:
    """One client's connection: its uses, its half-read objects, its objects that are not kept yet."""

    def __init__(self, channel: socket.socket, vault: Vault) -> None:
        self._channel, self._vault = channel, vault
        self._peer = peer_of(channel)
        self._uses: dict[int, tuple[ExitStack, Opened]] = {}
        self._readings: dict[int, Iterator[bytes]] = {}
        self._sealed: dict[str, StoredObject] = {}
        self._scrubbing: Iterator[Step | Checked] = iter(())
        self._count = 0

    def serve(self) -> None:
        """Answer until the client goes; then end its uses and delete what it did not keep."""
        try:
            while True:
                try:
                    answer, data = self._answer(*wire.receive(self._channel))
                except OSError:
                    raise  # no such error of the vault's gets here: `errors.storage` turns them into ours
                except Exception as error:
                    answer, data = wire.of_error(error), b""
                wire.send(self._channel, answer, data)
        except OSError:
            pass  # the client is gone, however it ended
        finally:
            for stack, _ in self._uses.values():
                stack.close()
            self._vault.discard(self._sealed)
            self._channel.close()

    def _answer(self, head: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
        name, arguments = str(head.get("call")), head.get("arguments", {})
        ceremony = name.removeprefix("ceremonies.")
        if name in CALLS:
            found = getattr(self, f"_{name}")(**arguments)
            return found if isinstance(found, tuple) else ({"ok": found}, b"")
        if name != ceremony and ceremony in CEREMONIES:
            self._check(arguments.get("actor"))
            return {"ok": getattr(self._vault.ceremonies, ceremony)(**arguments)}, b""
        raise BadInput("the vault knows no such call", where=name[:40])

    def _check(self, actor: Actor | None) -> None:
        """See that who acts is who asks."""
        if actor is not None and actor.user != self._peer:
            raise Refused("an event names somebody else than who asks", where=self._peer)

    # -- calls: what the client's methods of the same names do, see `vault` and `remote`

    def _commit(self, events: list[Event]) -> list[int]:
        for actor, activity in dict.fromkeys((event.actor, event.activity) for event in events):
            self._check(actor)
            self._vault.guard.permit(actor, activity)
        return self._vault.record_many(events)

    def _seal(self, kind: str, patient: str, note: dict[str, Any]) -> StoredObject:
        arriving = _Arriving(self._channel)
        try:
            stored = self._vault.seal(NewObject(kind, arriving, patient, note=note))
        except Exception:
            arriving.drain()
            raise
        self._sealed[stored.id] = stored
        return stored

    def _keep(self, ids: list[str], parents: list[list[str]], actor: Actor, activity: str) -> None:
        self._check(actor)
        rows = [self._sealed[object_id] for object_id in ids]
        items = [
            NewObject(stored.kind, b"", stored.patient or None, tuple(from_), stored.note)
            for stored, from_ in zip(rows, parents, strict=True)
        ]
        self._vault.keep(rows, items, actor, activity)
        for object_id in ids:
            del self._sealed[object_id]

    def _discard(self, ids: list[str]) -> None:
        mine = [object_id for object_id in ids if self._sealed.pop(object_id, None)]
        self._vault.discard(mine)

    def _open(self, ids: list[str], purpose: str, actor: Actor, activity: str, detail: dict[str, Any]) -> int:
        self._check(actor)
        stack = ExitStack()
        opened = stack.enter_context(self._vault.use(ids, purpose, actor, activity, detail))
        self._count += 1
        self._uses[self._count] = stack, opened
        return self._count

    def _end(self, use: int) -> None:
        stack, _ = self._uses.pop(use)
        stack.close()

    def _read(self, use: int, object_id: str) -> tuple[dict[str, Any], bytes]:
        if use not in self._uses:
            raise Refused("the use of this object is not in the log, or is over", where=object_id)
        self._count += 1
        self._readings[self._count] = self._uses[use][1].chunks(object_id)
        return self._more(self._count)

    def _more(self, reading: int) -> tuple[dict[str, Any], bytes]:
        chunk = next(self._readings[reading], None)
        if chunk is None:
            del self._readings[reading]
        return {"ok": None if chunk is None else reading}, chunk or b""

    def _scrub(self, actor: Actor, fast: bool) -> Step | Checked | None:
        self._check(actor)
        self._scrubbing = self._vault.checking(actor, fast)
        return self._scrub_more()

    def _scrub_more(self) -> Step | Checked | None:
        return next(self._scrubbing, None)

    def _delete(self, ids: list[str], actor: Actor, activity: str) -> None:
        self._check(actor)
        self._vault.delete(ids, actor=actor, activity=activity)

    def _import_visit(self, visit: bytes, actor: Actor, new_witness: bool) -> Any:
        self._check(actor)
        return self._vault.import_visit(visit, actor, new_witness=new_witness)

    def _policy(self) -> dict[str, Any]:
        return self._vault.policy()

    def _set_policy(self, policy: bytes, actor: Actor) -> dict[str, Any]:
        self._check(actor)
        return self._vault.set_policy(policy, actor)

    def _permitted(self, ids: list[str], why: str) -> tuple[dict[str, Any], bytes]:
        return {"ok": self._vault.permitted(ids, why)}, b""

    def _set_consent(self, ids: list[str], actor: Actor, said: dict[str, Any]) -> int:
        self._check(actor)
        return self._vault.set_consent(ids, actor, **said)

    def _link(self, one: str, other: str, actor: Actor, undo: bool) -> list[str]:
        self._check(actor)
        return list(self._vault.link(one, other, actor, undo=undo))

    def _backup(self, actor: Actor, to: str) -> tuple[dict[str, Any], bytes]:
        self._check(actor)
        self._count += 1
        self._readings[self._count] = self._vault.backup(actor, to)
        return self._more(self._count)

    def _plan_forgetting(self, patient: str, actor: Actor) -> Plan:
        self._check(actor)
        return self._vault.plan_forgetting(patient, actor)

    def _forget(self, patient: str, actor: Actor, keep_models: str) -> Forgotten:
        self._check(actor)
        return self._vault.forget(patient, actor, keep_models=keep_models)

    def _prove_absence(self, patients: list[str], model: str, actor: Actor) -> bytes:
        self._check(actor)
        return self._vault.prove_absence(patients, model, actor)

    def _checkpoint(self) -> bytes:
        return self._vault.checkpoint()

    def _log_key(self) -> dict[str, Any]:
        return {"name": self._vault.log_key.name, "public": self._vault.log_key.public}

    def _recipients(self) -> list[Any]:
        return list(self._vault.recipients)

    def _pseudonym(self, hospital_number: str) -> str:
        return self._vault.pseudonym(hospital_number)

    def _mark(self, label: str, data: bytes) -> bytes:
        if label not in MARKS:
            raise Refused("this mark is the vault's own: it is what tells its files from forged ones", where=label[:40])
        return self._vault.mark(label, data)


def peer_of(channel: socket.socket) -> str:
    """Name of the account on the other end, as the kernel knows it (SO_PEERCRED)."""
    layout = struct.Struct("3i")
    _, uid, _ = layout.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size))
    return name_of(uid)


def harden() -> None:
    """Keep keys out of core dumps and away from other processes of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's: it closes the socket when it is ready


def attend(channel: socket.socket) -> None:
    """Serve one client that opens the vault with its first message, and end with it."""
    try:
        head, passphrase = wire.receive(channel)
        try:
            vault = Vault.open(Path(head["home"]), passphrase, alone=bool(head["alone"]))
        except Exception as error:
            wire.send(channel, wire.of_error(error))
            return
        del passphrase
        wire.send(channel, {"ok": None})
    except OSError:
        return
    with vault:
        Attendant(channel, vault).serve()


def listen(home: Path, passphrase: bytes, where: Path, ready: Callable[[], None] = lambda: None) -> None:
    """Serve every client that connects, until SIGTERM: an installed appliance's custodian.

    Args:
        home: the appliance.
        passphrase: its passphrase.
        where: path of the socket; its directory says who may connect.
        ready: called once clients can connect.
    """
    with Vault.open(home, passphrase) as vault, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        try:
            where.unlink(missing_ok=True)
            door.bind(str(where))
            os.chmod(where, 0o660)
            door.listen(_LISTENERS)
        except OSError as error:
            raise EnvironmentProblem(
                f"the custodian cannot listen: {error.strerror or error}",
                where=str(where),
                hint="name a --socket of up to 100 letters in a directory of this account",
            ) from error
        share(home)
        ready()
        while True:
            channel, _ = door.accept()
            threading.Thread(target=Attendant(channel, vault).serve, daemon=True).start()


def main(arguments: list[str]) -> int:
    """`python -m audit.service --channel FD`, for one client; the other way is `cloche custodian`."""
    harden()
    attend(socket.socket(fileno=int(arguments[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
