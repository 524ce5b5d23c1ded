"""`cloche audit keygen`: the keys of those who may read the log."""

from pathlib import Path

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, key_passphrase


@click.command()
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

    The private key is sealed under a passphrase: CLOCHE_KEY_PASSPHRASE_FILE, or asked for.

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
    pair.save(private, key_passphrase(confirm=True))
    try:
        pair.recipient.save(public)
    except BaseException:
        private.unlink()  # one half is of no use, and stands in the way of the next try
        raise
    made = {"private": str(private), "public": str(public), "suite": suite, "key_id": pair.recipient.key_id.hex()}
    emit(
        settings, made, f"private: {private}  (never onto the appliance)\npublic:  {public}\nkey id:  {made['key_id']}"
    )
