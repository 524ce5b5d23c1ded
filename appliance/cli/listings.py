"""The data steward's lists: models and runs, as the catalogue has them; no contents."""

from typing import Any

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault


@click.command()
@json_option
@click.pass_obj
def models(settings: Settings) -> None:
    """List the models, with what each was made from.

    \b
    Examples:
      cloche models
      cloche models --json
    """
    with open_vault(settings, "steward") as (vault, _):
        rows = [
            {
                "id": m.id,
                "kind": m.kind,
                "state": m.note.get("state", ""),
                "parent": m.parent_model,
                "manifest": m.manifest_root,
                "created": m.created,
            }
            for m in vault.catalogue.models()
        ]
    emit(
        settings,
        rows,
        "\n".join(
            f"{r['id']}  {r['kind']:8} {r['state']:10} from {r['parent'] or 'the base':20}"
            f"  data {r['manifest'][:12]}  {r['created']}"
            for r in rows
        )
        or "no models; next: cloche train",
    )


@click.command()
@json_option
@click.pass_obj
def runs(settings: Settings) -> None:
    """List the runs, finished and interrupted; an interrupted one goes on with the same command.

    \b
    Examples:
      cloche runs
      cloche runs --json
    """
    with open_vault(settings, "steward") as (vault, _):
        rows: list[dict[str, Any]] = [
            {
                "id": r.id,
                "kind": r.kind,
                "state": r.state,
                "seed": r.seed,
                "manifest": r.manifest_root,
                "created": r.created,
                "finished": r.finished,
            }
            for r in vault.catalogue.runs()
        ]
    emit(
        settings,
        rows,
        "\n".join(f"{r['id']}  {r['kind']:9} {r['state']:8} {r['created']}  data {r['manifest'][:12]}" for r in rows)
        or "no runs; next: cloche synth",
    )
