"""`cloche align`: GRPO, with the curriculum, the rewards and the domain constraint that the steward names."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from appliance.cli.desk import CACHE, DRY, MODEL, desk_of
from appliance.cli.options import fields_of, options, resumed, values_in, was_typed
from appliance.cli.output import emit, json_option
from appliance.cli.train import check_base
from appliance.settings import Settings, open_vault

GRPO = fields_of("train.rl.config", "GrpoConfig")
CURRICULUM = fields_of("train.rl.curriculum", "CurriculumConfig")
AROUND = fields_of("appliance.jobs.align", "AlignSettings")
NAMES = {"patience": "collapse-after", "rewards": "reward", "reward_weights": "reward-weight"}
"""Fields whose option is called otherwise."""
_SEVERAL = frozenset({"rewards", "reward_weights"})
_WRITTEN = frozenset({
    "rewards", "reward_weights", "curriculum", "domain", "form", "precision", "max_new_tokens"
})  # fmt: skip
"""Fields whose options are written out below."""


def _from_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take a saved run's settings as this command line's defaults."""
    if path is None:
        return
    known = {one.name: one.name for one in (*GRPO, *CURRICULUM, *AROUND)}
    known |= {option.replace("-", "_"): name for name, option in NAMES.items()}
    known |= {"model": "model_dir"} | {k: k for k in ("rcpa", "form", "base", "feature_cache_gb")}
    ctx.default_map = {**(ctx.default_map or {}), **values_in(path, known, _SEVERAL)}


@click.command()
@MODEL
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    is_eager=True,
    expose_value=False,
    callback=_from_file,
    help="Settings of a run, as `cloche runs show RUN --config` writes them; flags given here win.",
)
@click.option(
    "--reward",
    "rewards",
    multiple=True,
    default=("exact",),
    show_default=True,
    help="What completions earn, as `cloche rewards list` names it; may be given several times.",
)
@click.option(
    "--reward-weight",
    "reward_weights",
    type=click.FloatRange(0),
    multiple=True,
    help="Weight of each --reward, in the same order. Default: all weigh one.",
)
@click.option(
    "--domain",
    metavar="NAME|FILE",
    default="",
    help="Hold answers to those for the transformed image, as this table of `cloche domains list` says.",
)
@click.option(
    "--rcpa/--no-rcpa",
    default=False,
    show_default=True,
    help="Begin answers with a part of the reason, and ask for more as the run goes on (the curriculum's options).",
)
@click.option(
    "--form",
    type=click.Choice(["short", "reasoned"]),
    help="Ask for the short answer, or for the reason and then the answer. Default: reasoned with --rcpa, else short.",
)
@click.option(
    "--precision",
    type=click.Choice(["nf4", "int8", "bf16", "fp32"]),
    help="How the language model's Linears are held. Default: as the training held them.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    help="Tokens of a completion at most. Default: 16, with a reason 96.",
)
@options([one for one in (*AROUND, *GRPO) if one.name not in _WRITTEN], NAMES)
@options(CURRICULUM, {})
@CACHE
@click.option("--base", help="Refuse a model directory whose digest is another than this.")
@click.option("--resume", is_flag=True, help="Go on with the run that was interrupted, with its settings.")
@click.option("--yes", is_flag=True, help="Begin even where the plan says that it takes very long or may not fit.")
@DRY
@json_option
@click.pass_context
def align(ctx: click.Context, /, model_dir: Path, resume: bool, yes: bool, dry_run: bool, **given: Any) -> None:
    """Align the trained model by rewards: GRPO on the kept triplets, with RCPA and a domain's knowledge if asked.

    What was interrupted goes on with the same command, or with --resume. A run whose training collapses stops by
    itself and says why and what to change. docs/alignment.md leads through it.

    \b
    Examples:
      cloche align
      cloche align --domain brain-mri --reward exact --reward brevity --reward-weight 1 --reward-weight 0.2
      cloche align --rcpa --steps 200 --curriculum-steps 100 --dry-run
      cloche align --reward rules:rules.toml --reward exact
      cloche align --resume
    """
    from appliance.jobs.align import align as run_align
    from appliance.jobs.align_plan import align_plan
    from appliance.jobs.plan import asked
    from appliance.jobs.saved import interrupted, settings_of

    settings: Settings = ctx.obj
    with open_vault(settings, "steward") as opened, desk_of(opened, "aligning") as desk:
        going_on = interrupted(desk, "align") if resume else None
        if going_on:
            given |= resumed(ctx, settings_of(going_on), given)
        check_base(model_dir, given.pop("base"))
        feature_cache_gb = given.pop("feature_cache_gb")
        config, around = _config(ctx, given)
        planned = align_plan(desk, model_dir, config, around, going_on)
        if dry_run:
            first = f"would take {planned.steps:,} steps; nothing is done\n"
            notes = "".join(f"\nbeware: {reason}; it needs --yes" for reason in planned.reasons)
            emit(settings, planned.data(), first + planned.table() + notes)
            return
        desk.tell(planned.short())
        if planned.reasons and not yes and sys.stdin.isatty():
            yes = click.confirm(f"{'; '.join(planned.reasons)}. Begin?", err=True)
        asked(planned.reasons, yes, "cloche align --yes")
        run = run_align(desk, model_dir, config, around, feature_cache_gb, going_on)
    stopped = run.result.get("stopped")
    said = f"\nstopped: {stopped['words']}" if stopped else ""
    then = "" if stopped and stopped["kind"] != "solved" else ", then cloche export"
    emit(
        settings,
        {"run": run.id, **run.result},
        f"{run.id}: {run.result['steps']} steps, reward {run.result['last'].get('reward', 0):.2f}, "
        f"model {run.result['model']}{said}\nnext: cloche runs plot {run.id} -o curves.svg{then}",
    )


def _config(ctx: click.Context, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """The settings classes of what was given. Raises BadInput naming the flag that is out of bounds, or without use."""
    from appliance.jobs.align import AlignSettings
    from audit.errors import BadInput
    from train.rl.config import GrpoConfig
    from train.rl.curriculum import CurriculumConfig

    idle = [] if given["rcpa"] else [one.name for one in CURRICULUM if was_typed(ctx, one.name)]
    if idle:
        raise BadInput(
            f"--{idle[0].replace('_', '-')} is a setting of the curriculum, which is off",
            where="alignment settings",
            hint="add --rcpa, or leave it out",
        )
    curriculum = CurriculumConfig(**{one.name: given[one.name] for one in CURRICULUM}) if given["rcpa"] else None
    form: Literal["short", "reasoned"] = given["form"] or ("reasoned" if curriculum else "short")
    several = {name: tuple(given[name]) for name in _SEVERAL}
    plain = {k: v for k, v in given.items() if k not in _SEVERAL}
    plain["max_new_tokens"] = given["max_new_tokens"] or {"short": 16, "reasoned": 96}[form]
    config = GrpoConfig(
        **{one.name: plain[one.name] for one in GRPO if one.name in plain}, reward_weights=several["reward_weights"]
    )
    around = AlignSettings(
        **{one.name: plain[one.name] for one in AROUND if one.name in plain and one.name not in ("curriculum", "form")},
        rewards=several["rewards"],
        curriculum=curriculum,
        form=form,
    )
    return config, around
