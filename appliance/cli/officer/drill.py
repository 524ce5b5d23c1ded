"""`cloche audit drill`: the recipients prove that their keys still read the log, before it matters."""

from datetime import UTC, datetime
from pathlib import Path

import click

from appliance.cli.lazy import Entry, LazyGroup
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, key_passphrase, open_vault

_HEADING = "Steps"
COMMANDS: dict[str, Entry] = {
    "challenge": Entry("appliance.cli.officer.drill:challenge", _HEADING, "On the appliance: write a challenge."),
    "answer": Entry("appliance.cli.officer.drill:answer", _HEADING, "On your own machine: answer it with your key."),
    "record": Entry("appliance.cli.officer.drill:record", _HEADING, "On the appliance: check and record the answer."),
}
"""The three steps of a drill."""
_OUT = click.argument("out", type=click.Path(path_type=Path, dir_okay=False))


@click.command(cls=LazyGroup, contents=COMMANDS)
def drill() -> None:
    """Prove that the recipients' keys still read the log: challenge on the box, answer at home, record on the box."""


@click.command()
@_OUT
@json_option
@click.pass_obj
def challenge(settings: Settings, out: Path) -> None:
    """Write a challenge to all recipients: a fresh secret, sealed to each. The file needs no protection.

    \b
    Examples:
      cloche audit drill challenge /media/usb/drill.json
    """
    from audit.keys import write_new

    with open_vault(settings, "officer") as (vault, _):
        made = vault.ceremonies.challenge(_now())
        names = [one.name for one in vault.recipients]
    write_new(out, made, mode=0o644)
    data = {"challenge": str(out), "recipients": names}
    emit(settings, data, f"challenge for {', '.join(names)}: {out}\nNext, with each key: cloche audit drill answer")


@click.command()
@click.argument("challenge", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your private key file, NAME.key.",
)
@_OUT
@json_option
@click.pass_obj
def answer(settings: Settings, challenge: Path, key_file: Path, out: Path) -> None:
    """Answer a challenge with a private key. It needs no appliance; the passphrase is the private key's.

    \b
    Examples:
      cloche audit drill answer drill.json --key auditor.key auditor.answer
    """
    from audit.drill import Challenge
    from audit.keys import KeyPair, write_new

    given = Challenge.from_bytes(challenge.read_bytes(), str(challenge))
    pair = KeyPair.load(key_file, key_passphrase())
    write_new(out, given.answer(pair).to_bytes(), mode=0o644)
    data = {"answer": str(out), "name": pair.recipient.name, "challenged_at": given.made, "origin": given.origin}
    emit(settings, data, f"{pair.recipient.name} can read the log {given.origin}: answer in {out}")


@click.command()
@click.argument("answer", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@json_option
@click.pass_obj
def record(settings: Settings, answer: Path) -> None:
    """Check an answer and record the drill in the log. To record one again does nothing.

    \b
    Examples:
      cloche audit drill record auditor.answer
    """
    with open_vault(settings, "officer") as (vault, actor):
        who, fresh = vault.ceremonies.record_drill(answer.read_bytes(), actor, _now())
    data = {"name": who["name"], "key_id": who["key_id"], "recorded": fresh}
    emit(settings, data, f"{who['name']} has drilled" + ("" if fresh else ": that stands in the log already"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
