"""`cloche audit`: the compliance officer reads, verifies and reports, on the box or on a laptop of their own."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, read_passphrase

if TYPE_CHECKING:
    from audit.checkpoint import Checkpoint, VerifierKey
    from audit.lineage import Node
    from audit.reading import Logged
    from audit.verify import Verdict

_LOG = click.argument("log", required=False, type=click.Path(path_type=Path, dir_okay=False))
_PIN = click.option(
    "--key-pin",
    metavar="KEY",
    help="The log's public key, as noted when the appliance was installed: the line itself, or a file that holds it.",
)


@click.group()
def audit() -> None:
    """Read, verify and report what was done with data."""


@audit.command()
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default=True,
    help="Directory for NAME.key (private, keep it) and NAME.pub (public, for the appliance).",
)
@click.option(
    "--suite",
    type=click.Choice(["MLKEM768-X25519", "X25519"]),
    default="MLKEM768-X25519",
    show_default=True,
    help="The first resists a later quantum computer, too.",
)
@click.option("--label", default="", help='A remark kept in both files, such as "spare, in the safe".')
@json_option
@click.pass_obj
def keygen(settings: Settings, name: str, out: Path, suite: str, label: str) -> None:
    """Make a key pair that can read the log. Do it on your own machine; the appliance gets NAME.pub only.

    The private key is sealed under a passphrase: CLOCHE_PASSPHRASE_FILE, or asked for.

    \b
    Examples:
      cloche audit keygen auditor --out ~/keys
      cloche audit keygen recovery --out /media/usb --label "safe, 2nd floor"
    """
    from audit.errors import BadInput
    from audit.keys import generate

    if not name or "/" in name or name.startswith("."):
        raise BadInput("a key's name is a plain file name", where=name, hint="cloche audit keygen auditor")
    if not out.is_dir():
        raise BadInput("there is no such directory", where=str(out), hint=f"mkdir -p {out}")
    pair = generate(name, suite, label)
    private, public = out / f"{name}.key", out / f"{name}.pub"
    pair.save(private, read_passphrase(confirm=True))
    try:
        pair.recipient.save(public)
    except BaseException:
        private.unlink()  # one half is of no use, and stands in the way of the next try
        raise
    made = {"private": str(private), "public": str(public), "suite": suite, "key_id": pair.recipient.key_id.hex()}
    emit(
        settings, made, f"private: {private}  (never onto the appliance)\npublic:  {public}\nkey id:  {made['key_id']}"
    )


@audit.command()
@_LOG
@_PIN
@click.option(
    "--witness",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A checkpoint of this log that you noted earlier and kept elsewhere.",
)
@json_option
@click.pass_obj
def verify(settings: Settings, log: Path | None, key_pin: str | None, witness: Path | None) -> None:
    """Verify every entry of the log with its public key alone. Exit code 0: intact; 4: it was changed.

    LOG is a carried copy; without it, the log of the appliance.

    \b
    Examples:
      cloche audit verify
      cloche audit verify carried.sqlite --key-pin log.pub --witness last-visit.checkpoint
      cloche audit verify --json | jq .size
    """
    verdict = _verdict(settings, log, key_pin, witness)
    emit(settings, verdict.to_dict(), verdict.sentence)
    if verdict.state != "intact":
        raise click.exceptions.Exit(4)


@audit.command()
@_LOG
@_PIN
@click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your private key file, NAME.key.",
)
@click.option("--kind", help="Only events of this kind, such as object.used.")
@click.option("--patient", help="Only events about this patient (the appliance's pseudonym).")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N of them.")
@click.option("--fhir", is_flag=True, help="Print a FHIR R4 Bundle of AuditEvents.")
@json_option
@click.pass_obj
def show(
    settings: Settings,
    log: Path | None,
    key_pin: str | None,
    key_file: Path,
    kind: str | None,
    patient: str | None,
    last: int | None,
    fhir: bool,
) -> None:
    """Decrypt the log's events and list them. The passphrase is the private key's.

    The log is verified first; of one that was changed, the events before the change are shown, and the exit code is 4.

    \b
    Examples:
      cloche audit show --key auditor.key
      cloche audit show carried.sqlite --key auditor.key --patient P-7Q2MZKX3RA --json
    """
    from collections import deque

    from audit.errors import IntegrityFailure, Refused
    from audit.keys import KeyPair
    from audit.reading import read

    path = log or _home(settings)[0]
    pair = KeyPair.load(key_file, read_passphrase())
    verdict = _verdict(settings, log, key_pin, None)
    events: deque[Logged] = deque(maxlen=last)
    sealed = total = 0
    for logged in read(path, pair, verdict.size) if verdict.size else ():
        total += 1
        if logged.event is None:
            sealed += 1
        elif (kind is None or logged.event.kind == kind) and (patient is None or patient in logged.event.patients):
            events.append(logged)
    if total and sealed == total:
        raise Refused("nothing in this log is sealed to this key", where=str(key_file), hint="take the auditor's key")
    _print_events(settings, events, fhir)
    if sealed:
        click.echo(f"{sealed:,} of {total:,} events are sealed to other keys.", err=True)
    if verdict.state != "intact":
        raise IntegrityFailure(verdict.sentence, where=str(path), hint="keep the disk as it is, and ask for help")
    click.echo(verdict.sentence, err=True)


@audit.command()
@click.argument("name", metavar="RECORD|OBJECT|MODEL")
@json_option
@click.pass_obj
def trace(settings: Settings, name: str) -> None:
    """Show what a record became, and what a model or an object was made from.

    A beginning of the id is enough where it is unique. It reads the catalogue, needs no passphrase and shows no data.

    \b
    Examples:
      cloche audit trace rec-k3v8q2mz7p
      cloche audit trace model-8sdq --json
    """
    from audit.catalogue import Catalogue
    from audit.home import CATALOGUE, check
    from audit.lineage import trace as trace_lineage

    check(settings.home)
    catalogue = Catalogue(settings.home / CATALOGUE)
    try:
        lineage = trace_lineage(catalogue, name)
    finally:
        catalogue.close()
    lines = ["made from", *_tree(lineage.origins), "", "became", *_tree(lineage.results)]
    emit(settings, lineage.to_dict(), "\n".join(lines))


def _verdict(settings: Settings, log: Path | None, key_pin: str | None, witness: Path | None) -> "Verdict":
    """Verify the named log, or the appliance's with its own pin and high-water mark."""
    from audit.checkpoint import open_note
    from audit.errors import BadInput
    from audit.verify import verify as verify_log

    if log is None:
        path, high_water, pin = _home(settings)
        key = _pinned(key_pin) if key_pin else (_pinned(str(pin)) if pin.is_file() else None)
    else:
        if not log.is_file():
            raise BadInput("there is no such log", where=str(log), hint="cloche audit verify --help")
        path, high_water, key = log, None, _pinned(key_pin) if key_pin else None
    seen: Checkpoint | None = None
    if witness is not None:
        if key is None:
            raise BadInput("a witnessed checkpoint says nothing without the log's key", hint="give it with --key-pin")
        seen = open_note(witness.read_bytes(), key)
    return verify_log(path, key, high_water, seen)


def _home(settings: Settings) -> tuple[Path, Path, Path]:
    """Log, high-water mark and pinned key of the appliance."""
    from audit.home import HIGH_WATER, LOG, PIN, check

    check(settings.home)
    return settings.home / LOG, settings.home / HIGH_WATER, settings.home / PIN


def _pinned(named: str) -> "VerifierKey":
    """The key that a line, or a file with that line, gives."""
    from audit.checkpoint import VerifierKey
    from audit.errors import BadInput

    path = Path(named)
    try:
        text = path.read_text(encoding="ascii") if "+" not in named or path.is_file() else named
    except (OSError, ValueError) as error:
        raise BadInput("the pinned key cannot be read", where=named, hint="give keys/log.pub or its line") from error
    return VerifierKey.from_text(text, where=named)


def _print_events(settings: Settings, events: Iterable[Any], fhir: bool) -> None:
    """Events as a table, as JSON, or as a FHIR bundle."""
    if fhir:
        resources = [{"resource": logged.event.to_fhir()} for logged in events]
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": resources}
        emit(Settings(settings.home, as_json=True), bundle, "")
        return
    if settings.as_json:
        emit(settings, [{"sequence": one.sequence, **one.event.to_dict()} for one in events], "")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("entry", "when (UTC)", "who", "what", "purpose", "patients", "objects", "part of"):
        table.add_column(column, justify="right" if column == "entry" else "left", no_wrap=column != "patients")
    for logged in events:
        event = logged.event
        cells = (
            f"{logged.sequence:,}",
            event.at[:19].replace("T", " "),
            f"{event.actor.user} ({event.actor.role})",
            event.kind if event.outcome == "success" else f"{event.kind} ({event.outcome})",
            event.purpose,
            _few(event.patients),
            str(len(event.objects) or ""),
            event.activity,
        )
        table.add_row(*(Text(cell) for cell in cells))  # Text: what the log says is never taken for markup
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _few(names: tuple[str, ...]) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tree(top: "Node") -> list[str]:
    """A tree of lineage in lines."""
    lines: list[str] = []

    def add(node: "Node", lead: str, mark: str, below: str) -> None:
        facts = [node.patient, node.created[:19].replace("T", " "), "see above" if node.repeated else ""]
        lines.append(f"{lead}{mark}{node.kind} {node.id}  {'  '.join(filter(None, facts))}".rstrip())
        last = len(node.relatives) - 1
        for i, relative in enumerate(node.relatives):
            end = i == last and not node.left_out
            add(relative, lead + below, "└─ " if end else "├─ ", "   " if end else "│  ")
        if node.left_out:
            lines.append(f"{lead}{below}└─ and {node.left_out:,} more")

    add(top, "", "", "")
    return lines
