"""Commands of hospital IT: is the machine ready, and what does the appliance hold."""

from dataclasses import asdict

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings

SIGNS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "missing": ("MISSING", "red")}
"""Word and colour of each state of a finding."""


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Check that this machine has all that Cloche needs; exit 6 if something is missing.

    Looks at Python, memory, disk, packages, llama.cpp, the GGUF converter, the starter model and the appliance's
    directory. It asks for no passphrase, changes nothing and uses no network.

    \b
    Examples:
      cloche doctor
      cloche --home /srv/cloche doctor
      cloche doctor --json
    """
    from appliance.doctor import examine

    findings = examine(ctx.obj)
    ready = all(finding.state != "missing" for finding in findings)
    lines = []
    for finding in findings:
        word, colour = SIGNS[finding.state]
        lines.append(f"{click.style(f'{word:8}', fg=colour)}{finding.name}: {finding.says}")
        if finding.next:
            lines.append(f"{'':8}Next: {finding.next}")
    lines.append("ready" if ready else "not ready: see the lines marked MISSING")
    emit(ctx.obj, {"ready": ready, "findings": [asdict(finding) for finding in findings]}, "\n".join(lines))
    ctx.exit(0 if ready else 6)


@click.command()
@json_option
@click.pass_context
def status(ctx: click.Context) -> None:
    """Say what the appliance holds, without its passphrase.

    Counts only, read from what stands unencrypted: nothing about a patient. The log is counted, not verified; that is
    `cloche audit verify`.

    \b
    Examples:
      cloche status
      cloche --home /srv/cloche status --json
    """
    from appliance.doctor import overview

    settings: Settings = ctx.obj
    held = overview(settings)
    lines = [
        f"appliance: {held.home}, made by version {held.made_by}",
        f"vault:     {held.objects:,} encrypted objects, {held.object_bytes / 1e6:,.1f} MB",
        f"audit log: {held.log_entries:,} entries (not verified here: cloche audit verify)",
        f"disk:      {held.free_bytes / 1e9:,.1f} GB free",
    ]
    emit(settings, {**asdict(held), "home": str(held.home)}, "\n".join(lines))
