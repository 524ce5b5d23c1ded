"""`cloche forget`: a patient's data made unreadable for good."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

if TYPE_CHECKING:
    from audit.forgetting import Plan
    from audit.vault import Vault

REMAINS = (
    "What cannot be undone: what models learned. A kept model, and every copy of a model that left the appliance, "
    "still has it.\n"
    "What stays: the sealed log (a retention duty), pseudonyms and dates in the catalogue, and whatever left as a "
    "disclosure.\n"
    "Older backups still open with the passphrase: replace them (cloche backup), and carry the new erasure list to "
    "the witness (cloche audit carry)."
)
"""Said after a plan and after the deed."""


@click.command()
@click.argument("patient")
@click.option("--dry-run", is_flag=True, help="Say what would go and which models are touched, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for a confirmation.")
@click.option("--keep-models", metavar="REASON", default="", help="Keep the models that learned from it; why.")
@click.option("--retire-models", is_flag=True, help="Retire them and delete their files (this is the default).")
@click.option("--retrain-plan", is_flag=True, help="Print the commands that make the models again, and their cost.")
@json_option
@click.pass_obj
def forget(
    settings: Settings,
    patient: str,
    dry_run: bool,
    yes: bool,
    keep_models: str,
    retire_models: bool,
    retrain_plan: bool,
) -> None:
    """Forget a patient: destroy the key, delete what others share with it, retire the models that learned from it.

    PATIENT is the appliance's pseudonym; - asks for the hospital's number (or reads it from standard input). Linked
    identities are forgotten together. It is in the log before anything is destroyed, and it cannot be undone. Nobody
    else may use the appliance meanwhile; a dry run may run beside others.

    \b
    Examples:
      cloche forget P-3F7KQ2M5XA --dry-run --retrain-plan
      cloche forget -
      cloche forget P-3F7KQ2M5XA --yes --keep-models "ethics board, 3 May 2026"
    """
    if keep_models and retire_models:
        raise click.UsageError("--keep-models and --retire-models contradict each other")
    from appliance.jobs.retrain import plan_lines
    from appliance.jobs.retrain import retrain_plan as planned

    number = _number() if patient == "-" else ""
    with open_vault(settings, "steward", alone=not dry_run) as (vault, actor):
        name = vault.pseudonym(number) if number else patient
        plan = vault.plan_forgetting(name, actor)
        steps = planned(vault.catalogue.run(one) for one in plan.runs) if retrain_plan else ()
        more = plan_lines(steps) if retrain_plan else []
        found = {**asdict(plan), "retrain": [asdict(step) for step in steps]}
        if plan.forgotten_at:
            says = f"{plan.patients[0]} was forgotten at {plan.forgotten_at}; nothing is left to do"
            emit(settings, {**found, "done": False}, says)
            return
        told = _told(vault, plan, keep_models)
        if dry_run:
            says = "\n".join(("would forget " + told, *more, REMAINS))
            emit(settings, {**found, "done": False}, says)
            return
        if not yes:
            _confirm(told)
        done = vault.forget(name, actor, keep_models=keep_models)
    says = "\n".join(("forgot " + told, f"it stands in the log as entry {done.entry:,}", *more, REMAINS))
    emit(settings, {**found, "done": True, "entry": done.entry, "kept": done.kept}, says)


def _number() -> str:
    """The hospital's number, typed unseen, or the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline()
    from getpass import getpass

    return getpass("The hospital's number of the patient: ")


def _confirm(told: str) -> None:
    from audit.errors import Refused

    if not sys.stdin.isatty():
        raise Refused(
            "nobody is there to confirm what cannot be undone",
            hint="look at it with --dry-run, then type the same command with --yes",
        )
    click.echo("would forget " + told, err=True)
    click.confirm("This cannot be undone. Forget?", abort=True, err=True)


def _told(vault: "Vault", plan: "Plan", keep: str) -> str:
    """The plan for a person."""
    kinds: dict[str, int] = {}
    for one in plan.shared:
        kind = vault.catalogue.object(one).kind
        kinds[kind] = kinds.get(kind, 0) + 1
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    fate = f"kept ({keep})" if keep else f"retired, {len(plan.weights)} files deleted"
    lines = [
        ", ".join(plan.patients),
        f"  unreadable for good: {len(plan.own)} objects of the patient's",
        f"  deleted, as text or features of the patient are in them: {len(plan.shared)} shared objects"
        + (f" ({counted})" if counted else ""),
        f"  other patients whose share of that work is lost: {len(plan.others)} (their records stay)",
        f"  models that learned from the patient: {len(plan.models)}"
        + (f", {fate}: {', '.join(plan.models)}" if plan.models else ""),
        f"  runs that are gone on with no more: {', '.join(plan.runs) or 'none'}",
    ]
    if plan.older:
        lines.append(f"  of an older format: {plan.older} shared objects are deleted, but have no key to be destroyed")
    return "\n".join(lines)
