"""docs/results.md and its pictures, from the files of finished runs; what a person wrote there between marks stays."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.curves import Curve, Panel, svg
from appliance.results.arms import ARMS, CURRICULUM, DOMAIN, RCPA, SELDOM, Arm, Sizes
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
    seeds = sorted({run["seed"] for one in done.values() for run in one.runs})
    command = f"make results-align{' QUICK=1' if sizes.name == 'quick' else ''}"
    missing = [arm for arm in ARMS if len(done[arm.name].runs if arm.name in done else ()) < len(seeds)]
    parts = [
        "# Alignment: what the experiment showed",
        f"Made by `{command}` from {sum(len(one.runs) for one in done.values())} finished runs, seeds "
        f"{', '.join(map(str, seeds))}. Simulated patients of the demo hospital; nothing here is a medical result. "
        "Figures stand as they came, also where a published direction does not show."
        + (f" **Not finished:** {len(missing)} of {len(ARMS)} arms lack a seed." if missing else ""),
        _task(base, sizes),
        "## Does GRPO starve where RCPA does not?",
        "All arms begin at the base that is hardly ever right.",
        _table(done, CURRICULUM, base["rare"]),
        "![Held-out accuracy and groups without a signal](images/align-curriculum.svg)",
        "![RCPA less each of its parts](images/align-parts.svg)",
        _differences(done, base["rare"], "rcpa", [arm for arm in CURRICULUM if arm.name != "rcpa"]),
        "### The same from the base that is right now and then",
        _table(done, SELDOM, base["seldom"]),
        "![The same from the other base](images/align-seldom.svg)",
        _differences(done, base["seldom"], "seldom-rcpa", [arm for arm in SELDOM if arm.name != "seldom-rcpa"]),
        "## Does knowledge in the objective help?",
        "All five begin with the same supervised learning of the same labels.",
        _table(done, DOMAIN, base["rare"]),
        "![Held-out accuracy under the domain constraint](images/align-domain.svg)",
        _differences(done, base["rare"], "mirror", [arm for arm in DOMAIN if arm.name != "mirror"]),
        "## What we think of it",
        f"{NOTES[0]}\n{notes}\n{NOTES[1]}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _task(base: Mapping[str, Any], sizes: Sizes) -> str:
    grpo, rare = sizes.grpo, base["rare"]
    bases = "\n".join(
        f"| {title} | {_mean(of['right']):.1%} | {of['sampled']:.1%}, {of['near']:.1%} | {of['begun']:.1%}, "
        f"{of['begun_near']:.1%} | {of['mixed']:.0%} | {of['general']:.3f} |"
        for title, of in (("hardly ever right", rare), ("right now and then", base["seldom"]))
    )
    return f"""**The task.** Asked for plane, side and tone of a lesion, the model must say, for example, *By its
outline this slice is axial. The answer is axial left bright.* (`appliance/results/task.py`): eight answers, right
only as a whole. {sizes.labels} labelled slices of training patients to learn from; {len(rare["right"])} of the
{rare["held_out"]} slices of held-out patients and slabs to be judged by.

**The bases** are the starter after a short preliminary phase of supervised learning: eight labels, one of each answer,
each beside {sizes.own} copies of what the starter said itself. The first then hears its own answers on sixteen other
slices {sizes.hushed} times more. Both know the words; how seldom they use them is what differs. Four numbers tell
whether GRPO has anything to compare (METHODS 2.3): right answers among samples, near ones (token F1 from
{RCPA.delta_min:g}), the same where the sample is given the rationale's beginning, and groups of {grpo.group} samples
in which some are right and some wrong.

| base | right, greedily | samples right, near | the same, begun | mixed groups | general loss |
|---|---|---|---|---|---|
{bases}

**The arms** run the code of `train/rl` (`appliance/results/arms.py`): {sizes.steps} steps of {grpo.prompts} groups of
{grpo.group}, groups that teach nothing replaced once, LoRA of rank 16 at a rate of {grpo.learning_rate:g}. RCPA's
pre-alignment takes {sizes.pre_alignment} of the steps; its threshold rises from {RCPA.delta_min:g} to
{RCPA.delta_max:g} of token F1, the NLL of prefixes weighs {RCPA.prefix_nll:g}. GRPO alone is paid for exact answers.
SFT learns the same labels in {sizes.sft.epochs} passes, before GRPO in {sizes.start.epochs}."""


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


LEGENDS = {
    "curriculum": {"grpo": "GRPO", "grpo-dense": "dense reward", "rcpa": "RCPA", "sft-grpo": "SFT, then GRPO"},
    "parts": {
        "rcpa": "RCPA",
        "rcpa-no-prefix": "no prefix",
        "rcpa-no-threshold": "no threshold",
        "rcpa-no-difficulty": "no difficulty",
        "rcpa-no-nll": "no NLL",
    },
    "seldom": {"seldom-grpo": "GRPO", "seldom-grpo-dense": "dense reward", "seldom-rcpa": "RCPA"},
    "domain": {
        "sft-grpo": "plain",
        "augmented": "augmented",
        "knowledge": "in the prompt",
        "mirror": "constraint",
        "wrong": "wrong transform",
    },
}
"""Arms of each picture, as its legend calls them."""


def _pictures(done: Mapping[str, Finished]) -> list[tuple[str, str, list[Panel]]]:
    return [
        (
            name,
            "Held-out accuracy, and groups that teach nothing",
            [
                Panel("held-out accuracy, mean over seeds", _accuracy(done, legend), "%"),
                Panel("groups that teach nothing, mean over seeds", _silent(done, legend), "% of those drawn"),
            ],
        )
        for name, legend in LEGENDS.items()
    ]


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
