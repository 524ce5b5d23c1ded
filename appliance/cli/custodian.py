"""`cloche custodian`: the vault's own process under an account of its own, for an installed appliance."""

import os
import socket
from pathlib import Path

import click

from appliance.settings import CUSTODIAN, Settings, read_passphrase

CREDENTIAL = "passphrase"
"""Name of systemd's credential that holds the passphrase (LoadCredentialEncrypted)."""


@click.command()
@click.option(
    "--socket",
    "where",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to listen; the directory says who may connect.",
)
@click.pass_obj
def custodian(settings: Settings, where: Path) -> None:
    """Hold the appliance's keys and write its log, for every command of every user that may connect.

    systemd starts it under an account of its own, to which home and socket belong; the users' commands find it by
    CLOCHE_CUSTODIAN, need no passphrase then, and cannot read the home. The passphrase comes from systemd's credential
    "passphrase", or as for every command. It ends with SIGTERM.

    \b
    Examples:
      cloche --home /var/lib/cloche custodian --socket /run/cloche/custodian
      CLOCHE_CUSTODIAN=/run/cloche/custodian cloche --home /var/lib/cloche records
    """
    from audit.service import harden, listen

    harden()
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    file = Path(credentials, CREDENTIAL) if credentials else None
    passphrase = file.read_bytes().split(b"\n", 1)[0] if file and file.is_file() else read_passphrase()
    click.echo(f"listening on {where}; commands find it by {CUSTODIAN}={where}", err=True)
    listen(settings.home, passphrase, where, _tell_systemd)


def _tell_systemd() -> None:
    """Say that clients can connect, in sd_notify's way, where systemd asked for it."""
    named = os.environ.get("NOTIFY_SOCKET", "")
    if named:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"READY=1", "\0" + named[1:] if named.startswith("@") else named)
