"""``cloche demo``."""

from pathlib import Path

import click

from appliance.cli.output import emit, json_option
from appliance.settings import Settings
from appliance.starter.where import STARTER


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-output"),
    show_default=True,
    help="Where everything goes: hospital, home, keys, page.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=STARTER,
    help="Model directory to adapt, in place of the starter.",
)
@click.option(
    "--synthesizer", type=click.Path(path_type=Path), default=STARTER, help="Model directory that writes the triplets."
)
@click.option(
    "--judge", type=click.Path(path_type=Path), default=STARTER, help="Model directory, or GGUF file, that judges them."
)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Public key file of someone who may read the demo's log; without any, two demo keys are made.",
)
@click.option("--fast", is_flag=True, help="Small numbers, minutes less: shows that it works, not how well.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and where, and do nothing.")
@json_option
@click.pass_obj
def demo(
    settings: Settings,
    folder: Path,
    model: Path,
    synthesizer: Path,
    judge: Path,
    recipients: tuple[Path, ...],
    fast: bool,
    dry_run: bool,
) -> None:
    """See the whole main job on real images: a hospital, its model, its proof.

    Makes a simulated hospital from a real brain MRI template, brings it into an encrypted vault, lets a local model
    write and judge questions, trains, aligns, exports to GGUF, measures on held-out patients, signs, asks, and verifies
    the log. Interrupted anywhere, the same command goes on.

    \b
    Examples:
      cloche demo
      cloche demo --fast --dir /tmp/look
      cloche demo --model /models/Qwen2-VL-2B-Instruct --judge /models/judge.gguf
    """
    if dry_run:
        plan = {
            "folder": str(folder),
            "home": str(folder / "home"),
            "page": str(folder / "page.html"),
            "model": str(model),
            "synthesizer": str(synthesizer),
            "judge": str(judge),
            "fast": fast,
        }
        emit(settings, plan, "\n".join(f"{k:12} {v}" for k, v in plan.items()))
        return
    from appliance.demo.config import DemoConfig
    from appliance.demo.flow import run_demo
    from appliance.progress import progress

    results = run_demo(
        DemoConfig(folder.absolute(), model, synthesizer, judge, fast, recipients),
        progress,
        lambda line: click.echo(line, err=True),
    )
    held, general = results["figures"]["held-out"], results["figures"]["general"]
    strict = {m: held[m]["strict"]["mean"] for m in ("base", "candidate", "blank")}
    drawn = {m: general[m]["strict"]["mean"] for m in ("base", "candidate")}
    synthesis = results["synthesis"]
    said = (
        f"held-out patients  {strict['base']:6.1%} -> {strict['candidate']:6.1%}"
        f"   (blank images {strict['blank']:.1%}, majority {held['majority']:.1%})\n"
        f"general suite      {drawn['base']:6.1%} -> {drawn['candidate']:6.1%}\n"
        f"triplets right     {synthesis['right_all']:6.1%} of all, {synthesis['right_kept']:.1%} of kept\n"
        f"audit verify       {results['audit']}\n"
        f"page               {folder.absolute() / 'page.html'}"
    )
    emit(settings, results | {"page": str(folder.absolute() / "page.html")}, said)
