"""The vault as everybody else sees it: the same calls, while keys, objects and log are in a process of their own.

    with RemoteVault.open(home, passphrase) as vault:
        with vault.use([record.image], "HRESCH", actor, "train") as opened:
            picture = opened.read(record.image)

If that process dies, every call fails from then on, and no plaintext is left to ask for.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import audit
from audit import wire
from audit.actor import Actor
from audit.catalogue import Catalogue
from audit.ceremonies import Ceremonies
from audit.checkpoint import VerifierKey
from audit.errors import EnvironmentProblem, Refused
from audit.events import Event
from audit.forgetting import Forgotten, Plan
from audit.home import CATALOGUE, check
from audit.keys import Recipient
from audit.objects import pieces
from audit.rows import NewObject, StoredObject
from audit.scrub import Checked, Step
from audit.vault import Opened, Vault
from audit.witnessed import Imported


class Channel:
    """A connection to the vault's process; one call at a time."""

    def __init__(self, connection: socket.socket, process: subprocess.Popen[bytes] | None) -> None:
        self._connection, self._process = connection, process
        self._lock, self._owner = threading.Lock(), os.getpid()

    def ask(self, call: str, data: Iterable[bytes] | None = None, /, **arguments: Any) -> Any:
        """The answer to a call. Raises what the vault raised, or EnvironmentProblem where its process is gone."""
        return self.read(call, data, **arguments)[0]

    def read(self, call: str, data: Iterable[bytes] | None = None, /, **arguments: Any) -> tuple[Any, bytes]:
        """The answer to a call, and the raw bytes with it."""
        if os.getpid() != self._owner:
            raise Refused("the vault belongs to the process that opened it", hint="open it again after the fork")
        with self._lock:
            try:
                wire.send(self._connection, {"call": call, "arguments": arguments})
                if data is not None:
                    self._stream(data)
                return self._received()
            except OSError as error:
                raise EnvironmentProblem(
                    "the vault's own process is gone: it was stopped, or ran out of memory",
                    hint="type the same command again; it goes on where it was",
                ) from error

    def hello(self, passphrase: bytes, home: Path, alone: bool) -> None:
        """Open the vault on the other side. Raises as `Vault.open`."""
        try:
            wire.send(self._connection, {"home": str(home), "alone": alone}, passphrase)
            self._received()
        except OSError as error:
            raise EnvironmentProblem("the vault's own process did not start", hint="cloche doctor") from error

    def close(self) -> None:
        """End the connection, and wait for a process that serves it alone."""
        if os.getpid() != self._owner:
            return
        self._connection.close()
        if self._process is not None:
            self._process.wait()

    def _stream(self, data: Iterable[bytes]) -> None:
        """Send an object's bytes, whatever the pieces are that they come in."""
        try:
            for piece in data:
                for at in range(0, len(piece), wire.PIECE_BYTES):
                    wire.send(self._connection, {}, piece[at : at + wire.PIECE_BYTES])
        except BaseException:
            self._connection.close()  # the other side must not take a half for the whole: it discards what came
            raise
        wire.send(self._connection, {"last": True})

    def _received(self) -> tuple[Any, bytes]:
        head, body = wire.receive(self._connection)
        if "error" in head:
            raise wire.to_error(head)
        return head["ok"], body


class RemoteVault(Vault):
    """A vault whose keys are in another process."""

    def __init__(self, home: Path, channel: Channel) -> None:
        """See `open`. Nothing of `Vault.__init__` is wanted: there are no keys here, and no files to sweep."""
        self.home = home
        self._channel = channel
        self.catalogue = Catalogue(home / CATALOGUE)

    @classmethod
    def open(cls, home: Path, passphrase: bytes, *, alone: bool = False) -> Self:
        """Open an appliance through a process of its own. Raises as `Vault.open`, and EnvironmentProblem."""
        home = Path(os.path.abspath(home))
        check(home)
        channel = _start()
        try:
            channel.hello(passphrase, home, alone)
            return cls(home, channel)
        except BaseException:
            channel.close()
            raise

    @classmethod
    def connect(cls, home: Path, where: Path) -> Self:
        """Use the custodian of an installed appliance, which has its passphrase already.

        Raises:
            EnvironmentProblem: nobody listens there, or this user may not connect.
        """
        home = Path(os.path.abspath(home))
        check(home)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(where))
        except OSError as error:
            connection.close()
            raise EnvironmentProblem(
                f"the custodian cannot be reached: {error.strerror}",
                where=str(where),
                hint="systemctl status cloche-custodian; ask hospital IT whether your account belongs to its group",
            ) from error
        return cls(home, Channel(connection, None))

    def close(self) -> None:
        """End the connection; a process that was started for it ends, too."""
        self._channel.close()
        self.catalogue.close()

    # -- in

    def seal(self, item: NewObject) -> StoredObject:
        """See `Vault.seal`; the data goes over the socket in pieces."""
        note = dict(item.note)
        found = self._channel.ask("seal", pieces(item.data), kind=item.kind, patient=item.patient or "", note=note)
        return cast(StoredObject, found)

    def keep(self, rows: Sequence[StoredObject], items: Sequence[NewObject], actor: Actor, activity: str) -> None:
        """See `Vault.keep`."""
        ids, parents = [stored.id for stored in rows], [list(item.parents) for item in items]
        self._channel.ask("keep", ids=ids, parents=parents, actor=actor, activity=activity)

    def discard(self, object_ids: Iterable[str]) -> None:
        """See `Vault.discard`. Where the process is gone, it has discarded them itself."""
        try:
            self._channel.ask("discard", ids=list(object_ids))
        except EnvironmentProblem:
            return

    # -- out

    @contextmanager
    def use(
        self,
        object_ids: Iterable[str],
        purpose: str,
        actor: Actor,
        activity: str,
        detail: Mapping[str, Any] | None = None,
    ) -> Iterator[Opened]:
        """See `Vault.use`."""
        ids = list(dict.fromkeys(object_ids))
        use = self._channel.ask(
            "open", ids=ids, purpose=purpose, actor=actor, activity=activity, detail=dict(detail or {})
        )
        opened = Opened(self.catalogue.objects_named(ids), lambda one: self._chunks(use, one))
        try:
            yield opened
        finally:
            opened.close()
            self._channel.ask("end", use=use)

    def _chunks(self, use: int, object_id: str) -> Iterator[bytes]:
        yield from self._pieces("read", use=use, object_id=object_id)

    def _pieces(self, call: str, **arguments: Any) -> Iterator[bytes]:
        reading, chunk = self._channel.read(call, **arguments)
        while reading is not None:
            yield chunk
            reading, chunk = self._channel.read("more", reading=reading)

    def delete(self, object_ids: Iterable[str], *, actor: Actor, activity: str) -> None:
        """See `Vault.delete`."""
        self._channel.ask("delete", ids=list(object_ids), actor=actor, activity=activity)

    # -- policy, consent, identities

    def policy(self) -> dict[str, Any]:
        """See `Vault.policy`."""
        return dict(self._channel.ask("policy"))

    def set_policy(self, data: bytes, actor: Actor) -> dict[str, Any]:
        """See `Vault.set_policy`."""
        return dict(self._channel.ask("set_policy", policy=data, actor=actor))

    def permitted(self, record_ids: Iterable[str], purpose: str) -> tuple[list[str], dict[str, int]]:
        """See `Vault.permitted`."""
        return cast(tuple[list[str], dict[str, int]], self._channel.ask("permitted", ids=list(record_ids), why=purpose))

    def set_consent(self, record_ids: Iterable[str], actor: Actor, **said: Any) -> int:
        """See `Vault.set_consent`."""
        return int(self._channel.ask("set_consent", ids=list(record_ids), actor=actor, said=said))

    def link(self, one: str, other: str, actor: Actor, *, undo: bool = False) -> tuple[str, ...]:
        """See `Vault.link`."""
        return tuple(self._channel.ask("link", one=one, other=other, actor=actor, undo=undo))

    def backup(self, actor: Actor, to: str) -> Iterator[bytes]:
        """See `Vault.backup`."""
        return self._pieces("backup", actor=actor, to=to)

    def plan_forgetting(self, patient: str, actor: Actor) -> Plan:
        """See `Vault.plan_forgetting`."""
        return cast(Plan, self._channel.ask("plan_forgetting", patient=patient, actor=actor))

    def forget(self, patient: str, actor: Actor, *, keep_models: str = "") -> Forgotten:
        """See `Vault.forget`."""
        asked = {"patient": patient, "actor": actor, "keep_models": keep_models}
        return cast(Forgotten, self._channel.ask("forget", **asked))

    def checking(self, actor: Actor, fast: bool) -> Iterator[Step | Checked]:
        """See `Vault.checking`."""
        step = self._channel.ask("scrub", actor=actor, fast=fast)
        while step is not None:
            yield step
            step = self._channel.ask("scrub_more")

    # -- log and names

    def record_many(self, events: Sequence[Event]) -> list[int]:
        """See `Vault.record_many`."""
        return list(self._channel.ask("commit", events=list(events)))

    def import_visit(self, data: bytes, actor: Actor, *, new_witness: bool = False) -> Imported:
        """See `Vault.import_visit`: the vault's process itself verifies the visit, as its events name others."""
        return cast(Imported, self._channel.ask("import_visit", visit=data, actor=actor, new_witness=new_witness))

    def attest(self, text: bytes) -> bytes:
        """Not to be had from outside: the vault's process signs only what it made sure of itself. Raises Refused."""
        raise Refused("the log's key signs no statement from outside")

    def prove_absence(self, patients: Sequence[str], model: str, actor: Actor) -> bytes:
        """See `Vault.prove_absence`."""
        return bytes(self._channel.ask("prove_absence", patients=list(patients), model=model, actor=actor))

    def checkpoint(self) -> bytes:
        """See `Vault.checkpoint`."""
        return bytes(self._channel.ask("checkpoint"))

    @property
    def log_key(self) -> VerifierKey:
        """See `Vault.log_key`."""
        return VerifierKey(**self._channel.ask("log_key"))

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """See `Vault.recipients`."""
        return tuple(self._channel.ask("recipients"))

    @property
    def ceremonies(self) -> Ceremonies:
        """See `Vault.ceremonies`."""
        return cast(Ceremonies, _Ceremonies(self._channel))

    def pseudonym(self, hospital_number: str) -> str:
        """See `Vault.pseudonym`."""
        return str(self._channel.ask("pseudonym", hospital_number=hospital_number))

    def mark(self, label: str, data: bytes) -> bytes:
        """See `Vault.mark`."""
        return bytes(self._channel.ask("mark", label=label, data=data))


class _Ceremonies:
    """The ceremonies of the vault's process: each call by the name of its method."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        def ask(*positional: Any, **arguments: Any) -> Any:
            names = getattr(Ceremonies, name).__code__.co_varnames[1:]
            return self._channel.ask(f"ceremonies.{name}", **dict(zip(names, positional, strict=False)), **arguments)

        return ask


def _start() -> Channel:
    """Start a process for this one alone; they share a socket that has no name."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "audit.service", "--channel", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us: the process ends when we close the socket
                env={**os.environ, "PYTHONPATH": str(Path(audit.__path__[0]).parent)},
            )
        except OSError as error:
            ours.close()
            raise EnvironmentProblem(
                f"the vault's own process cannot be started: {error.strerror}", hint="cloche doctor"
            ) from error
    return Channel(ours, process)
