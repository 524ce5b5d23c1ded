"""`cloche audit checkpoint`: what the appliance hands to its witness, as files, as text and as a QR code."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.officer.common import home_files, key_of
from appliance.cli.output import emit, json_option
from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.handout import Handout


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False, exists=True, writable=True),
    help="Directory for NAME.checkpoint and NAME.proof, such as a USB stick.",
)
@click.option("--since", type=click.IntRange(min=0), metavar="SIZE", help="Prove from the checkpoint of this size on.")
@click.option(
    "--witnessed", is_flag=True, help="Prove from the last cosigned checkpoint that was imported; exit 3 if none was."
)
@click.option(
    "--qr",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PNG",
    help="Write checkpoint and proof as a QR code, PNG or SVG; - draws it on the terminal.",
)
@json_option
@click.pass_obj
def checkpoint(settings: Settings, out: Path | None, since: int | None, witnessed: bool, qr: Path | None) -> None:
    """Write the log's newest checkpoint, and the proof that it continues what the witness knows.

    It reads the log and needs no passphrase. Text and QR code hold the same: the proof (C2SP tlog-witness), with the
    signed checkpoint in it. Without --since the proof starts from the last cosigned checkpoint that was imported
    (cloche audit import), else from the empty log. If the log was handed over to a new key since, the note of that is
    written beside it.

    \b
    Examples:
      cloche audit checkpoint --out /media/usb       then, on your machine: cloche audit witness
      cloche audit checkpoint --since 1200 --qr checkpoint.png
      cloche audit checkpoint --json | jq -r .checkpoint
    """
    from audit.checkpoint import VerifierKey
    from audit.erasures import read_list
    from audit.errors import BadInput, IntegrityFailure
    from audit.handout import prepare
    from audit.rotation import KeyChain
    from audit.witnessed import last_cosigned, readings_taken

    log, _, pin = home_files(settings)
    key = key_of(VerifierKey, str(pin))
    last = last_cosigned(settings.home, key.name) if since is None or witnessed else None
    if witnessed and since is not None:
        raise click.UsageError("--since and --witnessed exclude each other")
    if witnessed and last is None:
        raise BadInput("no cosigned checkpoint was imported yet", hint="cloche audit import VISIT, or --since SIZE")
    start = since if since is not None else (last.checkpoint.size if last else 0)
    made = prepare(log, start)
    size = made.checkpoint.size
    KeyChain.of(key, made.rotations).open(made.proof.note)
    if start > size:
        raise (IntegrityFailure if last else BadInput)(
            f"the log has {size:,} entries, fewer than {start:,}", where=str(log), hint="cloche audit verify"
        )
    name = re.sub(r"[^A-Za-z0-9._~-]", "-", made.checkpoint.origin.rsplit("/", 1)[-1]) + f"-{size}"
    text = made.proof.to_bytes().decode()
    listed = read_list(settings.home)
    files = _write(out, name, made, readings_taken(settings.home, key.name), listed) if out is not None else []
    if qr is not None and str(qr) != "-":
        from appliance.cli.officer.qr import picture

        picture(text, qr)
        files.append(qr)
    data = {
        "origin": made.checkpoint.origin,
        "size": size,
        "root": made.checkpoint.root.hex(),
        "since": start,
        "checkpoint": made.proof.note.decode(),
        "proof": text,
        "files": [str(path) for path in files],
    }
    emit(settings, data, text.removesuffix("\n"))
    if not settings.as_json:
        _draw(text, wanted=str(qr) == "-")
        for path in files:
            click.echo(f"written: {path}", err=True)


def _write(out: Path, name: str, made: "Handout", taken: dict[str, int], listed: bytes) -> list[Path]:
    """The files of --out: what there is is replaced, for the same name holds the same."""
    from audit.files import replace_file
    from audit.rotation import Rotation

    found = {"checkpoint": made.proof.note, "proof": made.proof.to_bytes()}
    for note in made.rotations:
        found[f"rotation-{Rotation.open(note).checkpoint.size}"] = note
    if made.predecessor:
        found["predecessor"] = made.predecessor
    if taken:
        found["receipt"] = json.dumps({"origin": made.checkpoint.origin, "readings": taken}, indent=1).encode() + b"\n"
    if listed:
        found["erasures"] = listed
    files = [out / f"{name}.{ending}" for ending in found]
    for path, data in zip(files, found.values(), strict=True):
        replace_file(path, data, mode=0o644)
    return files


def _draw(text: str, wanted: bool) -> None:
    """A QR code below the text: where it was asked for, or where a person's terminal is large enough for it."""
    if not wanted and not sys.stdout.isatty():
        return
    from appliance.cli.officer.qr import drawn
    from audit.errors import ClocheError

    try:
        picture = drawn(text)
    except ClocheError as error:
        if wanted:
            raise
        click.echo(f"No QR code: {error.what}. {error.hint}", err=True)
        return
    width = max(len(line) for line in picture.splitlines())
    if wanted or width <= shutil.get_terminal_size().columns:
        click.echo(picture)
    else:
        click.echo(f"A QR code would take {width} columns; --qr FILE.png writes it as a picture.", err=True)
