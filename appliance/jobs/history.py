"""What a run left: its settings, its metrics step by step, and how two runs differ."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.curves import Curve, Panel
from appliance.jobs.common import RESEARCH, Desk, lines_of, objects_of_run
from audit.errors import BadInput
from audit.rows import Run

Metrics = list[dict[str, float]]
"""One row a step."""


ALIGNMENT = (
    ("Reward", ("reward", "similarity", "held_exact"), "mean"),
    ("Groups whose completions all earned the same", ("zero_std_share",), "share of groups"),
    ("Entropy of the policy", ("entropy",), "nats a token"),
    ("KL to the base without adapter", ("kl",), "nats a token"),
    ("Length of completions", ("length",), "tokens"),
    ("Completions cut off", ("clipped",), "share"),
    ("Tokens whose ratio was clipped", ("clipped_low", "clipped_high"), "share"),
    (
        "Curriculum",
        ("progress", "prefix_share", "threshold", "difficulty_target", "weight"),
        "progress, share shown, threshold, difficulty due, weight",
    ),
    ("Likelihood of the given prefix", ("prefix_nll",), "nats a token"),
    ("Domain constraint", ("domain_kl", "domain_js"), "KL in nats, JS in bits"),
    ("Speed", ("tokens_per_second",), "tokens a second"),
)
"""What is drawn of an alignment beside its rewards: title, metrics, unit."""


def metrics_of(desk: Desk, run: Run) -> Metrics:
    """A run's metrics, out of the vault; reading them is a use that the log tells. Empty where there are none yet."""
    held = str(run.result.get("metrics", ""))
    if not held:
        return []
    with desk.vault.use([held], RESEARCH, desk.actor, "runs", {"run": run.id}) as opened:
        return [json.loads(line) for line in lines_of(opened.read(held))]


def curve_of(run: Run, metrics: Metrics, metric: str) -> Curve:
    """One metric over the steps; steps without it are left out. Raises BadInput naming those that there are."""
    points = [
        (float(row["step"] + 1), float(row[metric]))
        for row in metrics
        if isinstance(row.get(metric), int | float) and math.isfinite(row[metric])
    ]
    if not points:
        known = ", ".join(sorted({key for row in metrics for key in row} - {"step"})) or "none yet"
        raise BadInput(
            f"{run.id} has no metric {metric!r}; it has {known}", where="runs plot", hint="cloche runs show RUN"
        )
    return Curve(run.id, tuple(points))


def panels_of(runs: Sequence[Run], several: Sequence[Metrics]) -> list[Panel]:
    """Everything there is to draw of some alignments; what none of them measured is left out.

    A curve is called by its metric, and by its run too where there are several runs.
    """
    panels = []
    parts = sorted({key for rows in several for row in rows for key in row if key.endswith(("/mean", "/std"))})
    spread = ("Each reward and its spread in a group", ("reward_std", *parts), "mean and standard deviation")
    for title, metrics, unit in (*ALIGNMENT[:1], spread, *ALIGNMENT[1:]):
        curves = []
        for metric in metrics:
            for run, rows in zip(runs, several, strict=True):
                if any(isinstance(row.get(metric), int | float) and math.isfinite(row[metric]) for row in rows):
                    name = metric.replace("_", " ") if len(runs) == 1 else f"{metric.replace('_', ' ')} {run.id}"
                    curves.append(Curve(name, curve_of(run, rows, metric).points))
        if curves:
            panels.append(Panel(title, tuple(curves), unit))
    return panels


def summary(metrics: Metrics) -> dict[str, float]:
    """Figures of a whole run: steps, first, last and lowest loss, time, tokens a second, peak memory."""
    if not metrics:
        return {}
    found: dict[str, float] = {"steps": len(metrics)}
    for name in ("loss", "held_loss", "held_exact", "reward"):
        values = [row[name] for row in metrics if name in row]
        if values:
            best = min(values) if "loss" in name else max(values)
            found |= {f"{name}_first": values[0], f"{name}_last": values[-1], f"{name}_best": best}
    spent = sum(row.get("seconds", 0.0) for row in metrics)
    rates = [row["tokens_per_second"] * row["seconds"] for row in metrics if "reward" in row and "seconds" in row]
    read = sum(rates) if rates else sum(row.get("all_tokens", row.get("tokens", 0)) for row in metrics)
    found["seconds"] = spent
    if spent > 0 and read:
        found["tokens_per_second"] = read / spent
    if peaks := [row["peak_mb"] for row in metrics if "peak_mb" in row]:
        found["peak_mb"] = max(peaks)
    if skipped := sum(row.get("skipped", 0) for row in metrics):
        found["skipped"] = skipped
    return found


def about(desk: Desk, run: Run, metrics: Metrics) -> dict[str, Any]:
    """Everything that `cloche runs show` says, as plain values."""
    kept = objects_of_run(desk, run, "checkpoint")
    return {
        "id": run.id,
        "kind": run.kind,
        "state": run.state,
        "created": run.created,
        "finished": run.finished,
        "seed": run.seed,
        "config": dict(run.config),
        "manifest": run.manifest_root,
        "summary": summary(metrics),
        "checkpoints": [{"object": o.id, "bytes": o.size, "created": o.created} for o in kept],
        "model": run.result.get("model", ""),
        "result": {k: v for k, v in run.result.items() if k not in ("last", "model", "metrics")},
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Settings that two runs do not share, by dotted name; None where one has none."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[prefix + key] = (a, b)
    return found


def shared_metric(several: Sequence[Metrics]) -> str:
    """What the curves of some runs can be drawn of: the loss where all have one, else the reward, else a common one."""
    common = set.intersection(*({k for row in rows for k in row} for rows in several)) - {"step"} if several else set()
    return next((name for name in ("loss", "reward") if name in common), min(common, default="loss"))
