"""`cloche records check`: the check of all that the vault holds."""

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault
from audit.errors import IntegrityFailure


@click.command()
@click.option("--fast", is_flag=True, help="Compare the files' digests only; decrypt nothing.")
@json_option
@click.pass_context
def check(ctx: click.Context, fast: bool) -> None:
    """Check every object of the vault: is it there, is it what was stored, does its key open it.

    It is decrypted in the vault's own process and dropped there. Files that no row names, and rows that contradict each
    other, are found too. Each object that does not fit is named by its id, with exit code 4; the log keeps the counts.

    \b
    Examples:
      cloche records check
      cloche records check --fast --json
    """
    from dataclasses import asdict

    from appliance.progress import progress
    from audit.scrub import KINDS

    settings: Settings = ctx.obj
    with open_vault(settings, "steward") as (vault, actor), progress("checking") as report:
        checked = vault.check(actor, fast, report)
    what = f"{checked.objects} objects, {checked.bytes / 1e6:.1f} MB"
    said = [f"{one.id}  {one.kind:13} {KINDS[one.kind]}" for one in checked.findings]
    how = "as they were stored" if fast else "as they were stored, and their keys open them"
    said.append(f"{what}: {len(said)} do not fit" if said else f"{what}: all {how}")
    if checked.findings:
        click.echo("cloche: the vault was changed. Next: restore these objects from a backup", err=True)
    emit(settings, asdict(checked) | {"found": checked.counts}, "\n".join(said))
    ctx.exit(IntegrityFailure.exit_code if checked.findings else 0)
