"""docs/results.md and its pictures, from the files of finished runs; what a person wrote there between marks stays."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.curves import Curve, Panel, svg
from appliance.results.arms import ARMS, CURRICULUM, DOMAIN, RCPA, Arm, Sizes
from appliance.results.files import atomically
from train.evaluation.statistics import bootstrap

NOTES = ("<!-- notes: written by hand, kept when the page is made again -->", "<!-- end of notes -->")
"""What a person thinks of the figures stands between these."""
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}
"""Student's t for a 95 % interval, by degrees of freedom."""
MATCHES = ("sft", "rcpa", "sft-grpo")
"""Arms whose accuracy all must reach where general losses are compared."""


@dataclass(frozen=True)
class Finished:
    """What there is of an arm."""

    arm: Arm
    """Which."""
    runs: tuple[Mapping[str, Any], ...]
    """Its files, by seed."""

    @property
    def accuracies(self) -> list[float]:
        """Of each seed, in percent."""
        return [100 * _mean(run["right"]) for run in self.runs]

    def at(self, accuracy: float) -> list[float]:
        """General loss where each run first reached an accuracy (in percent); runs that never did are left out."""
        found = [
            next((p["general"] for p in run["points"] if 100 * p["accuracy"] >= accuracy), None) for run in self.runs
        ]
        return [one for one in found if one is not None]


def write(folder: Path, sizes: Sizes, docs: Path) -> None:
    """Make the page of everything that is finished."""
    done = {arm.name: _finished(folder, arm) for arm in ARMS}
    done = {name: one for name, one in done.items() if one.runs}
    if not done:
        return
    base = json.loads((folder / "base.json").read_text())
    page = docs / "results.md"
    notes = _notes(page.read_text() if page.exists() else "")
    atomically(page, _page(done, base, sizes, notes).encode())
    for name, title, panels in _pictures(done):
        atomically(docs / "images" / f"align-{name}.svg", svg(title, panels).encode())


def _finished(folder: Path, arm: Arm) -> Finished:
    files = sorted(folder.glob(f"{arm.name}-[0-9]*.json"))
    return Finished(arm, tuple(sorted((json.loads(f.read_text()) for f in files), key=lambda run: int(run["seed"]))))


def _page(done: Mapping[str, Finished], base: Mapping[str, Any], sizes: Sizes, notes: str) -> str:
    count = len(base["right"])
    seeds = sorted({run["seed"] for one in done.values() for run in one.runs})
    command = f"make results-align{' QUICK=1' if sizes.name == 'quick' else ''}"
    parts = [
        "# Alignment: what the experiment showed",
        f"Made by `{command}` from {sum(len(one.runs) for one in done.values())} finished runs, seeds "
        f"{', '.join(map(str, seeds))}. Simulated patients of the demo hospital; nothing here is a medical result. "
        "Figures stand as they came, also where a published direction does not show.",
        _task(base, sizes, count),
        "## Does GRPO starve where RCPA does not?",
        _table(done, CURRICULUM, base),
        "![Held-out accuracy and groups without a signal](images/align-curriculum.svg)",
        "![RCPA less each of its parts](images/align-parts.svg)",
        _differences(done, base, "rcpa", [arm for arm in CURRICULUM if arm.name != "rcpa"]),
        "## Does knowledge in the objective help?",
        "All five begin with the same supervised learning of the same labels.",
        _table(done, DOMAIN, base),
        "![Held-out accuracy under the domain constraint](images/align-domain.svg)",
        _differences(done, base, "mirror", [arm for arm in DOMAIN if arm.name != "mirror"]),
        "## What we think of it",
        f"{NOTES[0]}\n{notes}\n{NOTES[1]}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _task(base: Mapping[str, Any], sizes: Sizes, count: int) -> str:
    grpo = sizes.grpo
    return (
        "**The task.** Asked for plane, side and tone of a lesion, the model must say, for example, *By its outline "
        "this slice is axial. The answer is axial left bright.* (`appliance/results/task.py`): eight answers, right only "
        f"as a whole. {sizes.labels} labelled slices of training patients to learn from, {count} of the {base['held_out']} "
        "slices of held-out patients and slabs to be judged by.\n\n"
        "**The base** is the starter after a short preliminary phase: eight labels, one of each answer, each beside "
        f"{sizes.own} copies of what the starter said itself. It knows the words and seldom uses them: it solves "
        f"{_mean(base['right']):.1%} greedily and {base['sampled']:.1%} of its samples; in {base['mixed']:.0%} of "
        f"groups of {grpo.group} samples some are right and some wrong, and only these teach plain GRPO anything. All arms "
        "begin there.\n\n"
        f"**The arms** run the code of `train/rl` (`appliance/results/arms.py`): {sizes.steps} steps of {grpo.prompts} "
        f"groups of {grpo.group}, groups that teach nothing replaced once, LoRA of rank 16 at a rate of "
        f"{grpo.learning_rate:g}. RCPA's pre-alignment takes {sizes.pre_alignment} of them; its threshold rises from "
        f"{RCPA.delta_min:g} to {RCPA.delta_max:g} of token F1, the NLL of prefixes weighs {RCPA.prefix_nll:g}. GRPO "
        f"alone is paid for exact answers. SFT learns the same labels in {sizes.sft.epochs} passes, before GRPO in "
        f"{sizes.start.epochs}."
    )


def _table(done: Mapping[str, Finished], arms: Sequence[Arm], base: Mapping[str, Any]) -> str:
    target = _target(done)
    rows = [
        f"| arm | seeds | held-out accuracy, mean ± sd | each seed | 95 % over patients | groups without a signal | "
        f"general loss after (base {base['general']:.3f}) | at {target:g} % accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        one = done.get(arm.name)
        if one is None:
            rows.append(f"| {arm.title} | 0 | not yet run | | | | | |")
            continue
        found = bootstrap(
            [r for run in one.runs for r in run["right"]], [p for _ in one.runs for p in base["patients"]]
        )
        flat = [_mean([row["zero_std_share"] for row in run["rows"]]) for run in one.runs if run["rows"]]
        matched = one.at(target)
        rows.append(
            f"| {arm.title} | {len(one.runs)} | {_spread(one.accuracies, '.1f')} % | "
            f"{', '.join(f'{a:.0f}' for a in one.accuracies)} | {100 * found.low:.0f} to {100 * found.high:.0f} | "
            f"{f'{_mean(flat):.0%}' if flat else ''} | {_spread([run['general'] for run in one.runs], '.3f')} | "
            f"{f'{_mean(matched):.3f} ({len(matched)} of {len(one.runs)})' if matched else 'never there'} |"
        )
    return "\n".join(rows)


def _differences(done: Mapping[str, Finished], base: Mapping[str, Any], name: str, others: Sequence[Arm]) -> str:
    """What an arm has more than each other one, over the seeds that both have."""
    if name not in done:
        return ""
    mine = {run["seed"]: run["right"] for run in done[name].runs}
    rows = [f"| {done[name].arm.title} against | points more, mean over seeds | 95 % over seeds | 95 % over patients |"]
    rows.append("|---|---|---|---|")
    for arm in others:
        theirs = {run["seed"]: run["right"] for run in (done[arm.name].runs if arm.name in done else ())}
        both = sorted(mine.keys() & theirs.keys())
        if not both:
            continue
        apart = [[100.0 * (a - b) for a, b in zip(mine[s], theirs[s], strict=True)] for s in both]
        found = bootstrap([d for each in apart for d in each], [p for _ in both for p in base["patients"]])
        means = [_mean(each) for each in apart]
        half = T95.get(len(means) - 1, 2.5) * _sd(means) / math.sqrt(len(means)) if len(means) > 1 else None
        over = "one seed" if half is None else f"{_mean(means) - half:+.1f} to {_mean(means) + half:+.1f}"
        rows.append(f"| {arm.title} | {_mean(means):+.1f} | {over} | {found.low:+.1f} to {found.high:+.1f} |")
    return "\n".join(rows)


def _target(done: Mapping[str, Finished]) -> float:
    """The highest accuracy, in steps of 5 %, that those who are compared all reach."""
    best = [
        min(max(100 * p["accuracy"] for p in run["points"]) for run in done[name].runs)
        for name in MATCHES
        if name in done
    ]
    return max(5.0, 5 * math.floor(min(best) / 5)) if best else 5.0


def _pictures(done: Mapping[str, Finished]) -> list[tuple[str, str, list[Panel]]]:
    named = {
        "grpo": "GRPO",
        "grpo-dense": "dense",
        "rcpa": "RCPA",
        "sft-grpo": "SFT, GRPO",
        "sft": "SFT",
        "sft-kl": "SFT+KL",
    }
    parts = {"rcpa": "RCPA", "rcpa-no-prefix": "no prefix", "rcpa-no-threshold": "no threshold",
             "rcpa-no-difficulty": "no difficulty", "rcpa-no-nll": "no NLL"}  # fmt: skip
    domain = {"sft-grpo": "plain", "augmented": "augmented", "knowledge": "in the prompt", "mirror": "constraint",
              "wrong": "wrong transform"}  # fmt: skip
    rewarded = {name: title for name, title in named.items() if not name.startswith("sft-k") and name != "sft"}
    return [
        ("curriculum", "Held-out accuracy and groups without a signal", [
            Panel("held-out accuracy (mean over seeds)", _accuracy(done, rewarded), "%"),
            Panel("groups that teach nothing", _silent(done, rewarded), "% of those drawn"),
        ]),
        ("parts", "RCPA less each of its parts", [
            Panel("held-out accuracy (mean over seeds)", _accuracy(done, parts), "%"),
            Panel("groups that teach nothing", _silent(done, parts), "% of those drawn"),
        ]),
        ("domain", "Held-out accuracy under the domain constraint", [
            Panel("held-out accuracy (mean over seeds)", _accuracy(done, domain), "%"),
        ]),
    ]  # fmt: skip


def _accuracy(done: Mapping[str, Finished], names: Mapping[str, str]) -> tuple[Curve, ...]:
    found = []
    for name, title in names.items():
        at: dict[int, list[float]] = {}
        for run in done[name].runs if name in done else ():
            for point in run["points"]:
                at.setdefault(int(point["step"]), []).append(100 * point["accuracy"])
        if at:
            found.append(Curve(title, tuple((step, _mean(values)) for step, values in sorted(at.items()))))
    return tuple(found)


def _silent(done: Mapping[str, Finished], names: Mapping[str, str], over: int = 4) -> tuple[Curve, ...]:
    """Mean over seeds and over a few steps."""
    found = []
    for name, title in names.items():
        shares = [
            [100 * row["zero_std_share"] for row in run["rows"]] for run in (done[name].runs if name in done else ())
        ]
        if shares and shares[0]:
            means = [_mean(each) for each in zip(*shares, strict=False)]
            points = [(k + over / 2, _mean(means[k : k + over])) for k in range(0, len(means), over)]
            found.append(Curve(title, tuple(points)))
    return tuple(found)


def _notes(page: str) -> str:
    before, mark, rest = page.partition(NOTES[0])
    return rest.partition(NOTES[1])[0].strip() if mark else "Nothing has been written yet."


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _sd(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0


def _spread(values: Sequence[float], form: str) -> str:
    return f"{_mean(values):{form}} ± {_sd(values):{form}}" if len(values) > 1 else f"{_mean(values):{form}}"
