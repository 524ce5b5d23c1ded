"""`cloche audit heartbeat`: a sign of life, so that silence means something."""

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault


@click.command()
@json_option
@click.pass_obj
def heartbeat(settings: Settings) -> None:
    """Write a heartbeat into the log: nothing happened, and the log is alive. For a timer, once an hour or a day.

    Where heartbeats are due and none stands between two entries, the machine was off or the log was not written. The
    passphrase comes from CLOCHE_PASSPHRASE_FILE.

    \b
    Examples:
      cloche audit heartbeat
      OnCalendar=hourly, ExecStart=cloche audit heartbeat      (a systemd timer)
    """
    from audit.events import Event

    with open_vault(settings, "service") as (vault, actor):
        sequence = vault.record(Event("heartbeat", actor, activity="heartbeat"))
        size = sequence + 1
    emit(settings, {"sequence": sequence, "size": size}, f"heartbeat: entry {sequence:,}")
