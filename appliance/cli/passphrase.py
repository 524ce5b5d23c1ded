"""`cloche passphrase`: another passphrase for the appliance's keys."""

from pathlib import Path

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault, read_new_passphrase


@click.command()
@click.option(
    "--new-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the new passphrase on its first line, mode 0600. Without it, it is asked for twice.",
)
@json_option
@click.pass_obj
def passphrase(settings: Settings, new_file: Path | None) -> None:
    """Change the appliance's passphrase. That it was changed stands in the log; neither passphrase does.

    The old one comes from CLOCHE_PASSPHRASE_FILE, or is asked for. Nobody else may use the appliance meanwhile.
    Older backups still open with the old passphrase: if somebody else knows it, destroy or replace them.

    \b
    Examples:
      cloche passphrase
      CLOCHE_PASSPHRASE_FILE=old cloche passphrase --new-file new
    """
    with open_vault(settings, "operator", alone=True) as (vault, actor):
        vault.ceremonies.change_passphrase(read_new_passphrase(new_file), actor)
    says = "the passphrase is changed; older backups still open with the old one"
    emit(settings, {"changed": True}, says)
