"""`cloche audit absent`: prove that a model was never served a patient's data, and check such a proof."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.officer.common import PIN, home_files, key_of
from appliance.cli.officer.tables import say, table
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

if TYPE_CHECKING:
    from audit.absence import Absence
    from audit.checkpoint import VerifierKey

_NOT_SAID = (
    "What this does not say: nothing about the base weights and what they saw elsewhere, nothing about data that came\n"
    "in under another identifier of the same person that was never linked, and nothing about what left the appliance."
)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("patient", required=False)
@click.option("--model", metavar="MODEL", help="The model's id, or that of its GGUF; a beginning of 4 letters will do.")
@click.option("--out", type=_FILE, metavar="PROOF", help="Write the proof here; it needs no key but the log's public.")
@click.option("--check", type=_FILE, metavar="PROOF", help="Check a proof, on any machine; takes --key-pin.")
@PIN
@json_option
@click.pass_obj
def absent(
    settings: Settings,
    patient: str | None,
    model: str | None,
    out: Path | None,
    check: Path | None,
    key_pin: str | None,
) -> None:
    """Prove that a patient's data is in no data set behind a model: synthesizer, training, alignment, warm start.

    PATIENT is the appliance's pseudonym; - asks for the hospital's number. Each manifest in the model's ancestry is
    checked whole: its leaves are sorted, so that the patient's mark would stand between two neighbours, which are
    shown. Where the patient is in one of them there is no proof, and the exit code is 3. The proof file holds the
    leaf lists (keyed marks and salted digests, no name), the patient's mark, and the log's signature.

    \b
    Examples:
      cloche audit absent P-7Q2MZKX3RA --model model-8sdqk2mz7p --out absent.json
      cloche audit absent - --model model-8sdq --out absent.json
      cloche audit absent --check absent.json --key-pin log.pub
      python docs/verify_standalone.py --key log.pub --absence absent.json
    """
    from audit.absence import MOST_BYTES, verify
    from audit.errors import BadInput, storage

    if check is not None:
        if patient or model or out:
            raise click.UsageError("--check goes with --key-pin alone")
        pin = _pin(settings, key_pin)
        with storage(check):
            if not check.is_file() or check.stat().st_size > MOST_BYTES:
                raise BadInput("there is no such proof, or it is too large for one", where=str(check))
            data = check.read_bytes()
        _tell(settings, verify(data, pin), check)
        return
    if not patient or not model:
        raise click.UsageError("give PATIENT and --model, or --check PROOF")
    _prove(settings, patient, model, out)


def _prove(settings: Settings, patient: str, model: str, out: Path | None) -> None:
    from audit.absence import verify
    from audit.errors import Refused
    from audit.newfile import new_file

    if out is not None and (out.exists() or out.is_symlink()):  # before anything is logged
        raise Refused("the file exists already", where=str(out), hint="name another, or move it away")
    with open_vault(settings, "officer") as (vault, actor):
        name = vault.pseudonym(_number()) if patient == "-" else patient
        data = vault.prove_absence([name], model, actor)
        found = verify(data, vault.log_key)
        unknown = [one for one in found.patients if not vault.catalogue.records(patient=one)]
    if unknown:
        click.echo(f"No record of {', '.join(unknown)} ever came in: see that it is the right pseudonym.", err=True)
    if out is not None:
        with new_file(out) as file:
            file.write(data)
    _tell(settings, found, out)


def _number() -> str:
    """The hospital's number, from the terminal without echo, or the first line of stdin; never an argument."""
    import sys
    from getpass import getpass

    return getpass("The hospital's number: ") if sys.stdin.isatty() else sys.stdin.readline().strip()


def _pin(settings: Settings, key_pin: str | None) -> "VerifierKey":
    from audit.checkpoint import VerifierKey

    return key_of(VerifierKey, key_pin or str(home_files(settings)[2]))


def _tell(settings: Settings, found: "Absence", path: Path | None) -> None:
    from dataclasses import asdict

    if settings.as_json:
        emit(settings, {**asdict(found), "file": str(path) if path else None}, "")
        return
    say(f"{', '.join(found.patients)} is in none of the {len(found.roots)} data sets behind {found.model}.")
    if found.digest:
        say(f"Its GGUF has SHA-256 {found.digest}")
    rows = [
        (g.root[:16], f"{g.leaves - 2:,}", f"{g.entry:,}", g.patient, g.before[:12], g.mark[:12], g.after[:12],
         f"{g.place:,}-{g.place + 1:,}")
        for g in found.gaps
    ]  # fmt: skip
    columns = ("data set", "#members", "#entry", "patient", "mark before", "the mark", "mark after", "#places")
    table(columns, rows, f"Where the mark would stand, in a log of {found.size:,} entries")
    click.echo(f"\n{_NOT_SAID}")
    if path is not None:
        click.echo(f"\nproof: {path}", err=True)
