"""How a question is put to the log: verified first, then read with the officer's key, and the answer qualified."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.officer.common import home_files, note_read, verdict_of
from appliance.settings import Settings, key_passphrase

if TYPE_CHECKING:
    from audit.keys import KeyPair
    from audit.reading import Logged
    from audit.verify import Verdict

KEY = click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your private key file, NAME.key.",
)


class Reading:
    """A log that was verified, and its events for who holds a key."""

    def __init__(self, path: Path, verdict: "Verdict", pair: "KeyPair", key_file: Path) -> None:
        self.path = path
        """The log's file."""
        self.verdict = verdict
        """What verification found; only what it vouches for is read."""
        self.total = self.sealed = 0
        """Events that were passed, and those of them that are sealed to other keys."""
        self._pair, self._key_file = pair, key_file

    def events(self) -> "Iterator[Logged]":
        """The events up to the first change, in order."""
        from audit.errors import Refused
        from audit.reading import read

        for logged in read(self.path, self._pair, self.verdict.size) if self.verdict.size else ():
            self.total += 1
            self.sealed += logged.event is None
            yield logged
        if self.total and self.sealed == self.total:
            raise Refused(
                "nothing in this log is sealed to this key", where=str(self._key_file), hint="take the auditor's key"
            )


@contextmanager
def reading(
    settings: Settings, log: Path | None, key_pin: str | None, key_file: Path, asked: Mapping[str, Any]
) -> Iterator[Reading]:
    """Verify a log, note that it is read, and give its events; say at the end what the answer stands on.

    Args:
        log: a carried copy; None: the appliance's own.
        key_pin: the log's public key, as the person gave it.
        key_file: the private key that reads.
        asked: what was asked, for `note_read`: ``command``, and its filters.

    Raises:
        Refused: the passphrase is wrong, or nothing is sealed to this key.
        IntegrityFailure: at the end of the block, once what came before the change was shown.
    """
    from audit.errors import IntegrityFailure
    from audit.keys import KeyPair

    path = log or home_files(settings)[0]
    pair = KeyPair.load(key_file, key_passphrase())
    verdict = verdict_of(settings, log, key_pin, None)
    note_read(settings, log, verdict, asked)
    found = Reading(path, verdict, pair, key_file)
    yield found
    if found.sealed:
        click.echo(f"{found.sealed:,} of {found.total:,} events are sealed to other keys.", err=True)
    if verdict.state != "intact":
        raise IntegrityFailure(verdict.sentence, where=str(path), hint="keep the disk as it is, and ask for help")
    click.echo(verdict.sentence, err=True)


def outside(settings: Settings, path: Path) -> Path:
    """A file that is about to be written; nothing readable may lie in the appliance's home. Raises Refused."""
    from audit.errors import Refused

    if path.resolve().is_relative_to(settings.home.resolve()):
        raise Refused("nothing readable is written into the appliance", where=str(path), hint="name a place outside")
    return path
