"""Finish what was begun about the appliance's keys, or take it back: the log says which.

Every step can be done twice, and the intent leaves the bag last: whoever is killed on the way, the next one to open the
appliance comes to the same end. The caller holds the keys alone.
"""

from dataclasses import replace
from pathlib import Path

from audit import store
from audit.bag import FORGET, LOG_KEY, ORIGIN, Bag, BagFile
from audit.entry import KEYS, Header
from audit.errors import IntegrityFailure, storage
from audit.files import replace_file
from audit.home import HIGH_WATER, LOG, PIN, flush
from audit.rotation import Rotation

RECIPIENT_FILES, NEXT, OLD = Path("keys", "recipients"), Path("audit", "next"), Path("audit", "old")
"""In the home: copies of the recipients' public keys, a log in the making, and the logs before this one."""
_WAL, _SHARED = "-wal", "-shm"


def settle(home: Path, file: BagFile) -> None:
    """Finish the intent in the bag, or take it back.

    Raises:
        IntegrityFailure: the log, which must say whether it came to pass, is gone or damaged.
        EnvironmentProblem: the disk refuses; the intent stays.
    """
    bag, intent = file.bag, file.bag.intent
    if intent is None:
        return
    settled = replace(bag, intent=None)
    if intent.about == ORIGIN:
        _move(home, intent.kept_as)
    elif intent.about == FORGET:
        if _came_to_pass(home / LOG, bag):
            settled = forgotten(home, bag)
    elif _came_to_pass(home / LOG, bag):
        settled = replace(
            settled,
            log_key=intent.log_key if intent.about == LOG_KEY else bag.log_key,
            recipients=bag.recipients if intent.about == LOG_KEY else intent.recipients,
        )
    publish(home, settled)
    file.write(settled, wipe=intent.about == FORGET)


def forgotten(home: Path, bag: Bag) -> Bag:
    """Do what the forgetting in the bag's intent says; the bag without it, with the new vault key."""
    from audit.erasing import erase

    assert bag.intent is not None and bag.intent.forgetting is not None  # noqa: S101 asked by settle only
    sweep(home)  # the half of a bag that a killed process has left holds the old vault key
    erase(home, bag, bag.intent.forgetting, bag.intent.size)
    return replace(bag, vault_key=bag.intent.forgetting.vault_key, intent=None)


def publish(home: Path, bag: Bag) -> None:
    """Bring the public copies in the home in line with the bag: the log's key, and the recipients'."""
    wanted = {home / PIN: bag.signer().key.to_text().encode() + b"\n"}
    for number, recipient in enumerate(bag.recipients, 1):
        wanted[home / RECIPIENT_FILES / f"{number}.pub"] = recipient.to_bytes()
    for path, data in wanted.items():
        if not path.is_file() or path.read_bytes() != data:
            replace_file(path, data, mode=0o644)
    for path in (home / RECIPIENT_FILES).glob("*.pub"):
        if path not in wanted:
            path.unlink()


def sweep(home: Path) -> None:
    """Delete the halves of files that killed processes have left; the caller holds the keys alone."""
    with storage(home):
        for directory in (home / "keys", home / RECIPIENT_FILES, home / "audit", home / OLD):
            for path in directory.glob(".*.new*"):  # and what SQLite has put beside it
                path.unlink()


def kept_files(home: Path, kept_as: str) -> tuple[Path, Path, Path]:
    """Where an old log is kept: its database, its high-water mark, and its public key."""
    return tuple(home / OLD / f"{kept_as}.{end}" for end in ("sqlite", "high-water", "pub"))  # type: ignore[return-value]


def _came_to_pass(log: Path, bag: Bag) -> bool:
    """Whether the log holds what the bag's intent is about."""
    assert bag.intent is not None  # noqa: S101 asked by settle only
    if not log.is_file():
        raise IntegrityFailure("the log is gone", where=str(log), hint="restore the last backup beside it")
    with storage(log):
        connection = store.reader(log)
        try:
            heir = bag.heir()
            if heir is not None:
                return any(Rotation.open(note).new == heir.key for note in store.rotations(connection))
            # Nobody else was writing: the event is the entry after those that were there, or an opening before it.
            if bag.intent.about == FORGET:  # its events are one commit
                return bool(
                    connection.execute("SELECT 1 FROM entries WHERE sequence >= ?", (bag.intent.size,)).fetchone()
                )
            query = "SELECT header FROM entries WHERE sequence >= ? ORDER BY sequence LIMIT 2"
            headers = [Header.from_bytes(row[0]) for row in connection.execute(query, (bag.intent.size,))]
            return any(header.class_ == KEYS for header in headers)
        finally:
            connection.close()


def _move(home: Path, kept_as: str) -> None:
    """Put the old log away and the new one in its place."""
    log, mark, made = home / LOG, home / HIGH_WATER, home / NEXT
    kept, kept_mark, _ = kept_files(home, kept_as)
    with storage(home / "audit"):
        if (made / LOG.name).exists():  # as long as it is there, what stands in its place is the old one
            # The -wal first: beside the new log, SQLite would take it for the new log's.
            for path, to in ((_beside(log, _WAL), _beside(kept, _WAL)), (log, kept), (mark, kept_mark)):
                _put_away(path, to)
            _beside(log, _SHARED).unlink(missing_ok=True)
            flush(home / OLD)
            (made / LOG.name).rename(log)
        if (made / HIGH_WATER.name).exists():
            (made / HIGH_WATER.name).rename(mark)
        flush(home / "audit")
        if made.exists():
            made.rmdir()


def _put_away(path: Path, to: Path) -> None:
    """Rename a file; what is there already was put there by who was killed, and `path` made by a reader since."""
    if to.exists():
        path.unlink(missing_ok=True)
    elif path.exists():
        path.rename(to)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)
