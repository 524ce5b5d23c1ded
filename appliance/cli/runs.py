"""`cloche runs`: what ran, with which settings, how it went, and how two runs differ."""

from pathlib import Path
from typing import Any

import click

from appliance.cli.desk import desk_of
from appliance.cli.lazy import Entry, LazyGroup
from appliance.cli.output import emit, json_option
from appliance.settings import Settings, open_vault

COMMANDS = {
    "list": Entry("appliance.cli.runs:list_", "Commands", "List the runs, finished and interrupted."),
    "show": Entry("appliance.cli.runs:show", "Commands", "Show a run: settings, data, figures, model."),
    "compare": Entry("appliance.cli.runs:compare", "Commands", "Say how two runs differ, in settings and figures."),
    "plot": Entry("appliance.cli.runs:plot", "Commands", "Draw the curves of runs on one axis."),
    "answers": Entry("appliance.cli.runs:answers", "Commands", "Read what a policy answered, and its rewards."),
}


@click.group(cls=LazyGroup, contents=COMMANDS, invoke_without_command=True)
@json_option
@click.pass_context
def runs(ctx: click.Context) -> None:
    """List the runs, finished and interrupted; show, compare and plot them.

    \b
    Examples:
      cloche runs
      cloche runs --json
      cloche runs show run-4f8a21c0de
    """
    if ctx.invoked_subcommand is None:
        _list(ctx.obj)


@click.command("list")
@json_option
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the runs, finished and interrupted; an interrupted one goes on with the same command.

    \b
    Examples:
      cloche runs list
      cloche runs list --json
    """
    _list(settings)


def _list(settings: Settings) -> None:
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


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--config",
    "as_config",
    is_flag=True,
    help="Print its settings as TOML, for --config of `cloche train` or `align`.",
)
@json_option
@click.pass_obj
def show(settings: Settings, run_id: str, as_config: bool) -> None:
    """Show a run: settings, data, figures of its metrics, peak memory, speed, checkpoints, model.

    \b
    Examples:
      cloche runs show run-4f8a21c0de
      cloche runs show run-4f8a21c0de --config > run.toml
    """
    from appliance.curves import sparkline
    from appliance.jobs.history import about, metrics_of, shared_metric

    with open_vault(settings, "steward") as opened, desk_of(opened, "runs") as desk:
        run = desk.vault.catalogue.run(run_id)
        if as_config:
            from appliance.cli.options import as_toml
            from appliance.jobs.saved import settings_of

            found = settings_of(run)
            emit(settings, found, f"# {run.id}: cloche {run.kind} --config run.toml\n{as_toml(found)}".rstrip())
            return
        metrics = metrics_of(desk, run)
        data = about(desk, run, metrics)
    drawn = ""
    if metrics:
        name = shared_metric([metrics])
        drawn = f"\n{name:20}{sparkline([row[name] for row in metrics if name in row])}"
    flat = [(k, v) for k, v in data.items() if not isinstance(v, dict | list)]
    nested = [
        (f"{k}.{name}", f"{len(v)} files" if name == "base_files" else v)
        for k in ("config", "summary", "result")
        for name, v in data[k].items()
    ]
    kept = [("checkpoint", f"{c['created']}, {c['bytes']:,} bytes") for c in data["checkpoints"]]
    emit(settings, data, "\n".join(f"{k:32}{_said(v)}" for k, v in (*flat, *nested, *kept)) + drawn)


@click.command()
@click.argument("one", metavar="RUN")
@click.argument("other", metavar="RUN")
@json_option
@click.pass_obj
def compare(settings: Settings, one: str, other: str) -> None:
    """Say how two runs differ: settings that are not the same, figures side by side, curves below each other.

    \b
    Examples:
      cloche runs compare run-4f8a21c0de run-91b2e07aa3
      cloche runs compare run-4f8a21c0de run-91b2e07aa3 --json
    """
    from appliance.curves import sparkline
    from appliance.jobs.history import differences, metrics_of, shared_metric, summary

    with open_vault(settings, "steward") as opened, desk_of(opened, "runs") as desk:
        both = [desk.vault.catalogue.run(name) for name in (one, other)]
        several = [metrics_of(desk, run) for run in both]
    changed = differences({"kind": both[0].kind, **both[0].config}, {"kind": both[1].kind, **both[1].config})
    changed |= differences({"manifest": both[0].manifest_root}, {"manifest": both[1].manifest_root})
    figures = [summary(metrics) for metrics in several]
    metric = shared_metric(several)
    rows = [("", *(run.id for run in both)), *((k, *map(_said, v)) for k, v in changed.items())]
    if len(rows) == 1:
        rows.append(("settings and data", "the same", "the same"))
    rows += [(k, *(_said(f.get(k, "-")) for f in figures)) for k in dict.fromkeys([*figures[0], *figures[1]])]
    lines = [f"{name:28}{a:>26}{b:>26}" for name, a, b in rows]
    curves = [[row[metric] for row in metrics if metric in row] for metrics in several]
    lines += [f"{run.id} {metric} {sparkline(v)}" for run, v in zip(both, curves, strict=True) if v]
    emit(
        settings,
        {
            "runs": [run.id for run in both],
            "differences": {k: list(v) for k, v in changed.items()},
            "summaries": figures,
        },
        "\n".join(lines),
    )


@click.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@click.option("--metric", help="What to draw. Default: the loss; of alignments reward, entropy, curriculum and others.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="SVG or PNG file; without it a line of blocks is printed.",
)
@json_option
@click.pass_obj
def plot(settings: Settings, names: tuple[str, ...], metric: str | None, out: Path | None) -> None:
    """Draw the curves of runs on one axis. A curve holds figures of training and names no record.

    Of alignments everything is drawn that shows whether they work: reward, groups that taught nothing, entropy, KL,
    length, and the curriculum.

    \b
    Examples:
      cloche runs plot run-4f8a21c0de
      cloche runs plot run-4f8a21c0de run-91b2e07aa3 --metric held_loss -o curves.svg
    """
    if out is not None and out.suffix.lower() not in (".svg", ".png"):
        raise click.UsageError("-o names a file that ends in .svg or .png")
    from appliance.curves import Panel, png, sparkline, svg
    from appliance.jobs.history import curve_of, metrics_of, panels_of, shared_metric

    with open_vault(settings, "steward") as opened, desk_of(opened, "runs") as desk:
        several = [desk.vault.catalogue.run(name) for name in names]
        metrics = [metrics_of(desk, run) for run in several]
    panels = panels_of(several, metrics) if not metric and all(run.kind == "align" for run in several) else []
    data: dict[str, Any]
    if panels:
        title = "alignment over steps"
        data = {"panels": {p.title: {c.name: [list(at) for at in c.points] for c in p.curves} for p in panels}}
    else:
        chosen = metric or shared_metric(metrics)
        curves = tuple(curve_of(run, rows, chosen) for run, rows in zip(several, metrics, strict=True))
        title = f"{chosen} over steps"
        data = {"metric": chosen, "curves": {c.name: [list(at) for at in c.points] for c in curves}}
        panels = [Panel(title, curves, chosen)]
    if out is None:
        whole = "panels" in data
        lines = [
            (c.name if whole else f"{c.name} {p.unit}", [v for _, v in c.points]) for p in panels for c in p.curves
        ]
        emit(settings, data, "\n".join(f"{name} {v[0]:.4g} {sparkline(v)} {v[-1]:.4g}" for name, v in lines))
        return
    from train.gguf.files import replaced

    with replaced(out) as path:
        if out.suffix.lower() == ".png":
            path.write_bytes(png(panels, 2 if len(panels) == 1 else 1))
        else:
            path.write_text(svg(title, panels))
    emit(settings, data | {"out": str(out)}, f"wrote {out}")


def _said(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--step", type=click.IntRange(1), help="Only this step's; default: the last one's.")
@click.option("--all", "every", is_flag=True, help="Every step's.")
@json_option
@click.pass_obj
def answers(settings: Settings, run_id: str, step: int | None, every: bool) -> None:
    """Read what the policy answered in a run of alignment, with what each answer earned: cheats are found here first.

    The questions and answers are about records; they are shown to you, and the log says so.

    \b
    Examples:
      cloche runs answers run-4f8a21c0de
      cloche runs answers run-4f8a21c0de --step 3
      cloche runs answers run-4f8a21c0de --all --json
    """
    from appliance.jobs.completions import completions_of
    from audit.errors import BadInput
    from audit.printable import printable

    with open_vault(settings, "steward") as opened, desk_of(opened, "runs") as desk:
        run = desk.vault.catalogue.run(run_id)
        rows = list(completions_of(desk, run))
    last = rows[-1]["step"] if rows else 0
    wanted = [r for r in rows if every or r["step"] == (last if step is None else step - 1)]
    if not wanted:
        raise BadInput(f"{run_id} has no answers of that step", where="runs answers", hint=f"cloche runs show {run_id}")
    lines = []
    for row in wanted:
        taught = "" if row["kept"] else ", replaced: all earned the same"
        lines.append(f"step {row['step'] + 1}, {row['record']}{taught}\n  asked   {row['asked']}")
        lines.append(f"  wanted  {row['wanted']}" + (f"\n  given   {row['given']}" if row["given"] else ""))
        for said, reward, advantage in zip(row["said"], row["rewards"], row["advantages"], strict=True):
            lines.append(f"  {reward:6.3f} {advantage:+6.2f}  {said}")
    emit(settings, wanted, "\n".join(printable(one) for line in lines for one in line.split("\n")))
