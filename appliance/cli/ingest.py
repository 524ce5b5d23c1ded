"""`cloche ingest`: images and captions come into the vault."""

from pathlib import Path

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9),
    default=0.2,
    show_default=True,
    help="Share of patients kept for evaluation.",
)
@click.option("--columns", default="", metavar="PART=NAME,...", help="Columns of image, text and patient.")
@click.option("--pattern", default="{}", show_default=True, help="How the image column becomes a path beside SOURCE.")
@click.option("--consent", multiple=True, metavar="TAG", help="Consent tag of the policy that all of these have.")
@click.option("--expires", default="", metavar="DATE", help="Last day on which that consent holds, as 2031-12-31.")
@click.option("--source", "origin", default="", metavar="NAME", help="System they come from, as the policy names it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
@click.pass_obj
def ingest(
    settings: Settings,
    source: Path,
    held_out: float,
    columns: str,
    pattern: str,
    consent: tuple[str, ...],
    expires: str,
    origin: str,
    dry_run: bool,
) -> None:
    """Bring images and captions into the vault, de-identified and encrypted.

    SOURCE is a JSONL, JSON, CSV or TSV file with image, caption and patient. A broken line refuses the whole file
    before anything is written. What is already in the vault is skipped.

    \b
    Examples:
      cloche ingest pairs.jsonl --dry-run
      cloche ingest captions.csv --consent broad-research --expires 2031-12-31 --source pacs-2019
      cloche ingest reports.csv --columns image=file,text=report,patient=mrn --pattern 'images/{}.png'
    """
    from dataclasses import asdict

    from appliance.intake.ingest import ingest as bring_in
    from appliance.intake.readers import Columns
    from appliance.intake.split import by_patient
    from appliance.progress import progress
    from audit.policy import Terms, check_date, check_source, tags_of

    names = Columns.parse(columns, pattern)
    with open_vault(settings, "steward") as (vault, actor), progress("ingesting") as told:
        report = bring_in(
            vault,
            source,
            actor,
            split=by_patient(vault, held_out),
            columns=names,
            terms=Terms(
                tags_of(consent, vault.policy()["tags"]),
                check_date(expires) if expires else "",
                check_source(origin),
                "",
            ),
            progress=told,
            dry_run=dry_run,
        )
    emit(
        settings,
        asdict(report),
        "\n".join(f"{k.replace('_', ' '):14} {v}" for k, v in asdict(report).items())
        + ("" if dry_run else "\nnext: cloche synth"),
    )
