"""`cloche train`: its settings are the fields of SftConfig and LoraConfig, its plan comes before its work."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from appliance.cli.desk import CACHE, DRY, MODEL, desk_of
from appliance.cli.options import fields_of, options, resumed, values_in
from appliance.cli.output import emit, json_option
from appliance.jobs.defaults import REHEARSED
from appliance.settings import Settings, open_vault

SFT, LORA = fields_of("train.sft_config", "SftConfig"), fields_of("train.lora", "LoraConfig")
NAMES = {"patience": "early-stop"}
"""Fields whose option is called otherwise."""
SHAPE = [replace(one, name=f"lora_{one.name}") if one.name == "dropout" else one for one in LORA if one.name != "alpha"]
"""Fields of the adapter's shape; `--alpha` is written out, as its default follows the rank."""


def _from_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take a saved run's settings as this command line's defaults."""
    if path is None:
        return
    known = {one.name: one.name for one in (*SFT, *SHAPE) if one.name}
    known |= {option.replace("-", "_"): name for name, option in NAMES.items()}
    known |= {"model": "model_dir"} | {
        k: k for k in ("alpha", "rehearse", "precision", "max_visual_tokens", "base", "feature_cache_gb")
    }
    ctx.default_map = {**(ctx.default_map or {}), **values_in(path, known)}


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
    "--precision",
    type=click.Choice(["nf4", "int8", "bf16", "fp32"]),
    default="nf4",
    show_default=True,
    help="How the language model's Linears are held.",
)
@click.option("--max-visual-tokens", type=click.IntRange(1), help="Visual tokens an image at most; the family's own.")
@click.option(
    "--rehearse",
    type=click.IntRange(0),
    default=REHEARSED,
    show_default=True,
    help="Questions about drawn general pictures mixed in, against forgetting.",
)
@click.option("--alpha", type=click.FloatRange(0, min_open=True), help="Scale of the adapter. Default: twice the rank.")
@options(SHAPE, {"vision": "train-vision"})
@options(SFT, NAMES)
@CACHE
@click.option("--base", help="Refuse a model directory whose digest is another than this.")
@click.option("--resume", is_flag=True, help="Go on with the run that was interrupted, with its settings.")
@click.option("--yes", is_flag=True, help="Begin even where the plan says that it takes very long or may not fit.")
@DRY
@json_option
@click.pass_context
def train(ctx: click.Context, /, model_dir: Path, resume: bool, yes: bool, dry_run: bool, **given: Any) -> None:
    """Teach a model the newest synthetic tasks: single-stage QLoRA, 4-bit base, features once.

    What was interrupted goes on with the same command, or with --resume. docs/training.md leads through it.

    \b
    Examples:
      cloche train
      cloche train --model /models/Qwen2-VL-2B-Instruct --epochs 1 --dry-run
      cloche train --held-out 0.1 --early-stop 3 --learning-rate 2e-4
      cloche train --config run.toml --seed 2
      cloche train --resume
    """
    from appliance.jobs.learn import train as learn
    from appliance.jobs.plan import asked, plan
    from appliance.jobs.saved import interrupted, settings_of
    from train.distributed import here

    settings: Settings = ctx.obj
    with open_vault(settings, "steward") as opened, desk_of(opened, "training") as desk:
        going_on = interrupted(desk, "train") if resume else None
        if going_on:
            given |= resumed(ctx, settings_of(going_on), given)
        check_base(model_dir, given.pop("base"))
        rehearse, precision, budget = (given.pop(k) for k in ("rehearse", "precision", "max_visual_tokens"))
        feature_cache_gb = given.pop("feature_cache_gb")
        config = _config(given)
        planned = plan(desk, model_dir, config, rehearse, precision, budget, feature_cache_gb)
        if dry_run:
            first = f"would take {planned.steps:,} steps; nothing is done\n"
            notes = "".join(f"\nbeware: {reason}; it needs --yes" for reason in planned.reasons)
            emit(settings, planned.data(), first + planned.table() + notes)
            return
        desk.tell(planned.short())
        if planned.reasons and not yes and sys.stdin.isatty():
            yes = click.confirm(f"{'; '.join(planned.reasons)}. Begin?", err=True)
        asked(planned.reasons, yes, "cloche train --yes")
        run = learn(desk, model_dir, config, rehearse, precision, budget, feature_cache_gb, going_on)
    if not here().first:
        return  # of several processes one speaks
    emit(
        settings,
        {"run": run.id, **run.result},
        f"{run.id}: {run.result['steps']} steps, {_last(run.result['last'])}, "
        f"model {run.result['model']}\nnext: cloche align, or cloche export",
    )


def _last(metrics: Mapping[str, float]) -> str:
    return f"loss {metrics['loss']:.3f}" if "loss" in metrics else "the last of them skipped"


def _config(given: Mapping[str, Any]) -> Any:
    """The settings classes of what was given. Raises BadInput naming the flag that is out of bounds."""
    from train.lora import LoraConfig
    from train.sft_config import SftConfig

    shape = {one.name.removeprefix("lora_"): given[one.name] for one in SHAPE}
    alpha = given["alpha"] if given["alpha"] is not None else 2 * given["rank"]
    whole = int(alpha) if float(alpha).is_integer() else alpha
    return SftConfig(**{one.name: given[one.name] for one in SFT}, lora=LoraConfig(**shape, alpha=whole))


def check_base(model_dir: Path, wanted: str | None) -> None:
    """Refuse a directory that is no model, or another one than is wanted."""
    from audit.errors import Refused
    from train.gguf.files import digest_of
    from train.models.directory import check_directory

    check_directory(model_dir)
    if wanted and digest_of(model_dir) != wanted:
        raise Refused(
            "this is another model than the run's",
            where=str(model_dir),
            hint="name the run's model with --model; cloche models show DIR tells a directory's digest",
        )
