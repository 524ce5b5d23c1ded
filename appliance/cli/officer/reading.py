"""How a question is put to the log: verified first, then read with the officer's key, and the answer qualified."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from appliance.cli.officer.common import LOG, PIN, WITNESS_STATE, home_files, verdict_of
from appliance.settings import Settings, key_passphrase, open_vault

if TYPE_CHECKING:
    from audit.keys import KeyPair
    from audit.reading import Logged
    from audit.verify import Verdict
    from audit.witness import WitnessState

_KEY = click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your private key file, NAME.key.",
)
_WITNESS = click.option(
    "--witness",
    envvar=WITNESS_STATE,
    show_envvar=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Your witness's state: the log is held against it, and that you read is noted in it.",
)
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True)
class Source:
    """Which log is asked, and with what."""

    log: Path | None
    """A carried copy; None: the appliance's own."""
    key_pin: str | None
    """The log's public key, as the person gave it."""
    witness: Path | None
    """The state of the officer's witness, or a checkpoint kept elsewhere."""
    key_file: Path
    """The private key that reads."""


def source(function: Decorated) -> Decorated:
    """Options of every question: LOG, --key, --key-pin, --witness, given to the command as one `Source`."""

    @functools.wraps(function)
    def gathered(*given: Any, **options: Any) -> Any:
        parts = {name: options.pop(name) for name in Source.__dataclass_fields__}
        return function(*given, source=Source(**parts), **options)

    return cast(Decorated, LOG(PIN(_WITNESS(_KEY(gathered)))))


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

        self.total = self.sealed = 0
        for logged in read(self.path, self._pair, self.verdict.size) if self.verdict.size else ():
            self.total += 1
            self.sealed += logged.event is None
            yield logged
        if self.total and self.sealed == self.total:
            raise Refused(
                "nothing in this log is sealed to this key", where=str(self._key_file), hint="take the auditor's key"
            )


@contextmanager
def reading(settings: Settings, source: Source, asked: Mapping[str, Any]) -> Iterator[Reading]:
    """Verify a log, note that it is read, and give its events; say at the end what the answer stands on.

    Args:
        settings: which appliance.
        source: which log, and with which key.
        asked: what was asked, for `note_read`: ``command``, and its filters.

    Raises:
        Refused: the passphrase is wrong, or nothing is sealed to this key.
        IntegrityFailure: at the end of the block, once what came before the change was shown.
    """
    from audit.errors import IntegrityFailure
    from audit.keys import KeyPair

    path = source.log or home_files(settings)[0]
    pair = KeyPair.load(source.key_file, key_passphrase())
    verdict = verdict_of(settings, source.log, source.key_pin, source.witness)
    note_read(settings, source, verdict, asked)
    found = Reading(path, verdict, pair, source.key_file)
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


def note_read(settings: Settings, source: Source, verdict: "Verdict", asked: Mapping[str, Any]) -> None:
    """Note that a log is about to be read, before anything of it is decrypted.

    On the box that is an event. On the officer's machine it goes into the witness's state, and from there with the next
    visit into the log; where no state is named, the person is told that nothing was noted.

    Args:
        settings: which appliance.
        source: which log is read.
        verdict: on it: its origin, and how many entries are read.
        asked: the command's name and its filters, JSON values.

    Raises:
        Refused: the witness does not watch this log, or its state can be read by others.
    """
    detail = {**asked, "entries_read": verdict.size}
    command = f"audit {detail.pop('command', 'read')}"
    state = state_of(source)
    if source.log is None and verdict.state != "intact":
        click.echo("This reading is not noted: a log that was changed takes no event any more.", err=True)
    elif source.log is None:
        from audit.events import Event

        with open_vault(settings, "officer") as (vault, actor):
            vault.record(Event("audit.read", actor, activity=command, detail=detail))
    elif state is None:
        click.echo("This reading is not noted: --witness names no witness's state.", err=True)
    else:
        from audit.actor import Actor

        state.add_read(verdict.origin, Actor.current("officer").user, command, detail)


def state_of(source: Source) -> "WitnessState | None":
    """The witness's state that --witness names; None where it names none, or a mere checkpoint."""
    from audit.witness import WitnessState

    if source.witness is None or not source.witness.read_bytes().lstrip().startswith(b"{"):
        return None
    return WitnessState.load(source.witness)
