"""Whoever holds the log's file: logs to attack, and what an attacker has in hand. The attacks stand in attacks_*.py.

An attack changes a copy of a log in place. It knows the file format, may have logs of the same name under a key of its
own, older copies, and, where the name says `stolen`, the log's key. What verification must say about each is not here.
"""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit import manifest, store
from audit.actor import Actor
from audit.carry import carry
from audit.checkpoint import Checkpoint, Signer, VerifierKey
from audit.entry import leaf
from audit.events import Event
from audit.keys import KeyPair
from audit.log import Log
from audit.merkle import Frontier
from audit.rotation import Predecessor, new_origin

EARLIER = 10
"""Entries of the older copy that each log has."""


@dataclass(frozen=True)
class Victim:
    """A log before it is attacked: a folder with its files."""

    name: str
    """What it is an example of."""
    folder: Path
    """`log.sqlite` and `high-water`, older copies `older.sqlite` and `older-mark`; and perhaps `log.sqlite-wal`."""
    signers: tuple[Signer, ...]
    """Its keys, the pinned one first."""
    witnessed: bytes
    """The newest checkpoint, as a witness keeps it."""
    people: tuple[KeyPair, ...]
    """Who can read it."""

    @property
    def pin(self) -> VerifierKey:
        """What the officer noted at installation."""
        return self.signers[0].key


def remarks(first: int, count: int) -> list[Event]:
    """Plain events with a number."""
    return [Event("note", Actor("ada", "steward"), detail={"number": first + n}, software="x") for n in range(count)]


def write_log(
    folder: Path, signers: tuple[Signer, ...], people: tuple[KeyPair, ...], size: int, before: bytes
) -> bytes:
    """Fill a folder with a log under several keys, in several segments, and with an older copy; its newest note."""
    recipients = [pair.recipient for pair in people]
    path, mark = folder / "log.sqlite", folder / "high-water"
    Log.create(path, signers[0], recipients, mark, predecessor=before).close()
    with Log(path, signers[0], recipients, mark) as log:
        log.append_many(remarks(0, EARLIER - 1))
    shutil.copy(path, folder / "older.sqlite")
    shutil.copy(mark, folder / "older-mark")
    for signer, heir in zip(signers, (*signers[1:], None), strict=True):
        with Log(path, signer, recipients, mark) as log:
            log.append_many(remarks(100, 3))
            log.append(remarks(200, 1)[0])
            log.append_many(remarks(300, size // len(signers) - 6))
            if heir is not None:
                log.rotate(heir, Event("keys.changed", Actor("ada", "operator")))
            note = log.checkpoint()
    return note


def victims(folder: Path, people: tuple[KeyPair, ...]) -> Iterator[Victim]:
    """The logs that are attacked: with two rotations, tall, begun anew, carried with manifests, alive with its WAL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "MILESTONE", 8)  # so that a small log has older checkpoints
        for name, size, keys in (("rotated", 30, 3), ("tall", 300, 1)):
            (folder / name).mkdir(parents=True)
            signers = tuple(Signer.generate(f"cloche/log/{name}") for _ in range(keys))
            yield Victim(name, folder / name, signers, write_log(folder / name, signers, people, size, b""), people)
        (folder / "restarted").mkdir()
        last = Checkpoint("cloche/log/before", 7, b"r" * 32)
        signers = (Signer.generate(new_origin(last)),)
        gone = Signer.generate("cloche/log/before").key
        before = Predecessor(signers[0].key.name, "stolen", last, gone).sign(signers[0])
        note = write_log(folder / "restarted", signers, people, 20, before)
        yield Victim("restarted", folder / "restarted", signers, note, people)
        shutil.copytree(folder / "restarted", folder / "carried", ignore=shutil.ignore_patterns("log.sqlite*"))
        items = [manifest.Item(bytes([mark]) * 32, b"c" * 32) for mark in range(1, 4)]
        sets = [manifest.to_bytes(manifest.leaves(items[:count])) for count in (0, 1, 3)]
        carry(folder / "restarted" / "log.sqlite", folder / "carried" / "log.sqlite", sets)
        yield Victim("carried", folder / "carried", signers, note, people)
        yield alive(folder, people)


def plain(folder: Path, people: tuple[KeyPair, ...]) -> Victim:
    """A log with nothing special about it, closed: 29 entries."""
    made = folder / "plain"
    made.mkdir(parents=True)
    signers = (Signer.generate("cloche/log/plain"),)
    return Victim("plain", made, signers, write_log(made, signers, people, 20, b""), people)


def alive(folder: Path, people: tuple[KeyPair, ...]) -> Victim:
    """A log as it lies there while a process writes: most of it in the write-ahead log."""
    made = folder / "being-written"
    made.mkdir(parents=True)
    signer = Signer.generate("cloche/log/alive")
    write_log(made, (signer,), people, 12, b"")
    with Log(made / "log.sqlite", signer, [pair.recipient for pair in people], made / "high-water") as log:
        for event in remarks(500, 6):
            log.append(event)
        note = log.checkpoint()
        shutil.copytree(made, folder / "alive", ignore=shutil.ignore_patterns("*-shm"))
    return Victim("alive", folder / "alive", (signer,), note, people)


class Attack:
    """A copy of a victim in an attacker's hands, and the attacker's dice."""

    def __init__(self, victim: Victim, folder: Path, dice: random.Random) -> None:
        shutil.copytree(victim.folder, folder)
        self.victim, self.folder, self.dice = victim, folder, dice
        self.path, self.mark = folder / "log.sqlite", folder / "high-water"
        self.wal = folder / "log.sqlite-wal"
        self._rows: list[tuple[int, bytes, bytes, bytes]] = []

    @property
    def rows(self) -> list[tuple[int, bytes, bytes, bytes]]:
        """Sequence, header, body and leaf hash of each entry, before the attack."""
        if not self._rows:
            connection = sqlite3.connect(self.path)
            self._rows = connection.execute("SELECT * FROM entries ORDER BY sequence").fetchall()
            connection.close()
        return self._rows

    def one(self, first: int = 0) -> int:
        """Any entry from `first` on."""
        return self.dice.randrange(first, len(self.rows))

    def sql(self, *statements: tuple) -> None:
        """Change the log as somebody does who owns the file: triggers off, then each (statement, values ...)."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.executescript(
            "PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF;"
            "DROP TRIGGER IF EXISTS entries_stay; DROP TRIGGER IF EXISTS entries_do_not_change;"
        )
        for statement, *values in statements:
            connection.execute(statement, values)
        connection.close()

    def put(self, *rows: tuple[int, bytes, bytes]) -> None:
        """Put entries in their places, leaf hashes made to fit."""
        self.sql(*[("REPLACE INTO entries VALUES (?, ?, ?, ?)", n, h, b, leaf(h, b)) for n, h, b in rows])

    def refit(self, signer: Signer | None = None) -> None:
        """Make frontier and subtrees follow from the entries, and sign that with a key, if there is one."""
        connection = sqlite3.connect(self.path)
        frontier, subtrees = Frontier(), []
        for (one,) in connection.execute("SELECT leaf FROM entries ORDER BY sequence").fetchall():
            subtrees += frontier.add(one)
        connection.close()
        self.sql(
            ("UPDATE head SET frontier = ?", frontier.to_bytes()),
            ("DELETE FROM subtrees",),
            *[("INSERT INTO subtrees VALUES (?, ?, ?)", *subtree) for subtree in subtrees],
        )
        if signer is not None:
            note = signer.sign(Checkpoint(signer.key.name, frontier.size, frontier.root()))
            self.sql(("UPDATE head SET note = ?", note))

    def value(self, query: str) -> bytes:
        """One value of the database."""
        connection = sqlite3.connect(self.path)
        found = connection.execute(query).fetchone()[0]
        connection.close()
        return found

    def flipped(self, data: bytes) -> bytes:
        """The bytes with one of them changed."""
        changed = bytearray(data)
        changed[self.dice.randrange(len(data))] ^= self.dice.randrange(1, 256)
        return bytes(changed)

    def foreign(self, name: str = "") -> Path:
        """A log of the same name, or of another, and of the same size under keys of the attacker's own."""
        folder = self.folder / ("another" if name else "foreign")
        if not folder.exists():
            folder.mkdir()
            signers = tuple(Signer.generate(name or one.key.name) for one in self.victim.signers[:1])
            write_log(folder, signers, self.victim.people, len(self.rows), self.before(signers[0]))
        return folder / "log.sqlite"

    def before(self, signer: Signer) -> bytes:
        """A note about a predecessor that fits the name, where the name needs one."""
        if "~" not in signer.key.name:
            return b""
        gone = VerifierKey("cloche/log/before", b"g" * 32)
        return Predecessor(signer.key.name, "stolen", Checkpoint(gone.name, 7, b"r" * 32), gone).sign(signer)

    def writer(self, signer: Signer | None = None) -> Log:
        """The log, open under the newest key, with a mark that the attacker put in the place of the right one."""
        aside = self.folder / "own-mark"
        note = self.value("SELECT note FROM head")
        aside.write_bytes(note.ljust(512, b"\0"))
        return Log(self.path, signer or self.victim.signers[-1], [pair.recipient for pair in self.victim.people], aside)


ATTACKS: dict[str, tuple[Callable[[Attack], object], tuple[str, ...]]] = {}
"""Name of an attack -> what it does, and which victims it is for; none named: all."""


def attack(*victims: str) -> Callable[[Callable[[Attack], object]], Callable[[Attack], object]]:
    """Enter a function into `ATTACKS`."""

    def enter(function: Callable[[Attack], object]) -> Callable[[Attack], object]:
        ATTACKS[function.__name__] = (function, victims)
        return function

    return enter
