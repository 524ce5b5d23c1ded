"""When alignment has collapsed, why, and what to change (METHODS 2.3): read off the rows of metrics, in words.

A run has collapsed when its groups stop to differ, its answers on held-out questions fall below where they began, its
entropy is nearly gone, or its completions are nearly empty or all cut off, for several rows on end; or at once when a
figure is no number. Two of these also happen to a run that has learned its task: where almost every answer is right
the diagnosis says so, and small entropy or short answers are no collapse.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["not-a-number", "no-signal", "solved", "forgetting", "entropy", "empty", "truncated"]
ZERO_STD, ENTROPY, LENGTH, CLIPPED, REWARD = "zero_std_share", "entropy", "length", "clipped", "reward"
"""Names of the metrics that are read; a row without one neither counts nor clears."""
ACCURACY = ("held_exact", "held_reward")
"""Held-out accuracy, under the first of these names that a row has."""
CORRECT = ("similarity", "reward")
"""Mean similarity in [0, 1], under the first of these names."""
_NUMBERS = ("loss", "kl", "grad_norm", ENTROPY, REWARD, LENGTH, *ACCURACY)
_BEGINNING = 3
"""Rows whose mean is how a run started."""


@dataclass(frozen=True)
class Diagnosis:
    """Why a run should not go on."""

    kind: Kind
    """One word for programs."""
    what: str
    """What is to be seen, with its figures."""
    why: str
    """What this means."""
    remedy: str
    """What to change, with the flag."""

    def __str__(self) -> str:
        return f"{self.what}. {self.why} {self.remedy}"


@dataclass(frozen=True)
class Limits:
    """From where on a figure is a sign of collapse."""

    zero_std: float = 0.8
    """Share of groups whose completions all earned the same; more is too much."""
    entropy: float = 0.2
    """Entropy as a share of the run's own start; less is too little."""
    shrunk: float = 0.2
    """Length as a share of the run's own start; less is too little unless the answers are right."""
    clipped: float = 0.9
    """Share of completions that were cut off; more is too much."""
    below_base: float = 0.02
    """How far held-out accuracy may lie below the base's; less is noise of a few questions."""
    solved: float = 0.9
    """Mean similarity from which a task counts as learned."""


@dataclass
class Watch:
    """Counts rows with each sign, one after the other.

    A run that was cut off must decide the same: everything it knows is in `state`.
    """

    patience: int = 10
    """Rows on end with a sign before it is believed; 0 believes only what is no number."""
    measurements: int = 3
    """The same of held-out accuracy, which few rows have; fewer where ``patience`` is."""
    limits: Limits = field(default_factory=Limits)
    """Where signs begin."""
    start: dict[str, float] = field(default_factory=dict)
    """How the run started, by metric: the mean of its first rows; the first for held-out accuracy."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows that ``start`` is the mean of."""
    signs: dict[str, int] = field(default_factory=dict)
    """Rows on end with each sign."""

    def begin(self, row: Mapping[str, float]) -> None:
        """Take in held-out accuracy before the first step."""
        self._begin({name: value for name, value in row.items() if name in ACCURACY})

    def see(self, row: Mapping[str, float]) -> Diagnosis | None:
        """Take in a row of metrics; says what is wrong as soon as that is believed.

        Args:
            row: of one step; besides the metrics named above, ``prefix_share`` where there is a curriculum.
        """
        broken = [name for name in _NUMBERS if name in row and not math.isfinite(row[name])]
        if broken:
            return _not_a_number(broken)
        self._begin(row)
        found = None
        for kind, holds, told in self._checks(row):
            if holds is None:
                continue
            self.signs[kind] = self.signs.get(kind, 0) + 1 if holds else 0
            patience = min(self.patience, self.measurements) if kind == "forgetting" else self.patience
            if patience and self.signs[kind] >= patience and found is None:
                found = told(self.signs[kind])
        return found

    def state(self) -> dict[str, Any]:
        """What it knows, as JSON."""
        return {"start": dict(self.start), "rows": dict(self.rows), "signs": dict(self.signs)}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state; an empty one is a beginning."""
        self.start = {str(k): float(v) for k, v in state.get("start", {}).items()}
        self.rows = {str(k): int(v) for k, v in state.get("rows", {}).items()}
        self.signs = {str(k): int(v) for k, v in state.get("signs", {}).items()}

    def _begin(self, row: Mapping[str, float]) -> None:
        for name in (ENTROPY, LENGTH, CLIPPED, *ACCURACY):
            count = self.rows.get(name, 0)
            if name in row and count < (1 if name in ACCURACY else _BEGINNING):
                self.start[name] = (self.start.get(name, 0.0) * count + row[name]) / (count + 1)
                self.rows[name] = count + 1

    def _checks(self, row: Mapping[str, float]) -> list[tuple[Kind, bool | None, Callable[[int], Diagnosis]]]:
        """Each sign, whether the row has it (None where the row cannot say), and its words."""
        limits, start = self.limits, self.start
        right = next((row[name] for name in CORRECT if name in row), 0.0)
        solved = right >= limits.solved
        same, entropy, length, clipped = (row.get(name) for name in (ZERO_STD, ENTROPY, LENGTH, CLIPPED))
        name = next((name for name in ACCURACY if name in row), "")
        same_sign = None if same is None else same > limits.zero_std
        return [
            ("not-a-number", bool(row["skipped"]) if "skipped" in row else None, _skipped),
            ("solved", same_sign and solved, lambda n: _solved(n, right, same or 0.0)),
            ("no-signal", same_sign and not solved, lambda n: _no_signal(n, same or 0.0, right, row)),
            (
                "forgetting",
                row[name] < start[name] - limits.below_base if name else None,
                lambda n: _forgetting(n, row[name], start[name]),
            ),
            (
                "entropy",
                None if entropy is None else not solved and entropy < limits.entropy * start[ENTROPY],
                lambda n: _entropy(n, entropy or 0.0, start[ENTROPY]),
            ),
            (
                "empty",
                None if length is None else not solved and length < limits.shrunk * start[LENGTH],
                lambda n: _empty(n, length or 0.0, start[LENGTH]),
            ),
            (
                "truncated",
                None if clipped is None else clipped > limits.clipped,
                lambda n: _truncated(n, clipped or 0.0, start[CLIPPED] > limits.clipped),
            ),
        ]


def _not_a_number(names: list[str]) -> Diagnosis:
    return Diagnosis(
        "not-a-number",
        f"{', '.join(names)} is no finite number",
        "What was learned from it cannot be trusted.",
        "Run again with half the --learning-rate.",
    )


def _skipped(rows: int) -> Diagnosis:
    return Diagnosis(
        "not-a-number",
        f"gradients are no finite numbers, for {rows} steps on end",
        "Those steps were skipped, so the adapter is as it was before them.",
        "Run again with half the --learning-rate; on a GPU try --precision bf16.",
    )


def _no_signal(rows: int, same: float, right: float, row: Mapping[str, float]) -> Diagnosis:
    if right > 0.5:
        why = "All completions of a group say the same thing: the policy no longer tries alternatives."
        remedy = "Raise --temperature, or lower --learning-rate."
    elif row.get("prefix_share", 0) > 0:
        why = "Even with a prefix almost no completion is right, so that there is nothing to compare."
        remedy = "Raise --prefix-max or --gamma, or lower --delta-min; or train longer before aligning."
    else:
        why = "Almost no completion is right, so that there is nothing to compare: the policy lacks the knowledge."
        remedy = "Run with --rcpa (more --curriculum-steps where it is on), or raise --group; or train longer first."
    what = f"in {same:.0%} of the groups all completions earned the same, for {rows} steps on end"
    return Diagnosis("no-signal", what, why, remedy)


def _solved(rows: int, right: float, same: float) -> Diagnosis:
    return Diagnosis(
        "solved",
        f"answers score {right:.0%} and {same:.0%} of the groups no longer differ, for {rows} steps on end",
        "There is nothing left to learn from these prompts; this is no failure.",
        "Keep the adapter; use fewer --steps, or harder prompts.",
    )


def _forgetting(rows: int, now: float, base: float) -> Diagnosis:
    return Diagnosis(
        "forgetting",
        f"held-out accuracy is {now:.1%} and was {base:.1%} before, in {rows} measurements on end",
        "The policy follows its reward away from the right answers, or unlearns what it knew.",
        "Lower --learning-rate or take fewer --steps, and read `cloche runs answers` for a cheat.",
    )


def _entropy(rows: int, now: float, start: float) -> Diagnosis:
    return Diagnosis(
        "entropy",
        f"entropy is {now:.3g} nats and was {start:.3g} at the start, for {rows} steps on end",
        "The policy is sure of answers that are not right, and no longer finds better ones.",
        "Raise --temperature or --kl, or lower --learning-rate.",
    )


def _empty(rows: int, now: float, start: float) -> Diagnosis:
    return Diagnosis(
        "empty",
        f"completions have {now:.1f} tokens and had {start:.1f} at the start, for {rows} steps on end",
        "The policy has learned to say almost nothing, and is not right with it.",
        "Raise --kl or lower --learning-rate; check that no reward is paid for brevity alone.",
    )


def _truncated(rows: int, clipped: float, always: bool) -> Diagnosis:
    why, remedy = (
        ("They never fitted, and what is cut off is not learned from.", "Raise --max-new-tokens.")
        if always
        else (
            "The policy no longer ends its answers, and what is cut off is not learned from.",
            "Lower --learning-rate or raise --kl; raise --max-new-tokens where the answers need it.",
        )
    )
    return Diagnosis("truncated", f"{clipped:.0%} of the completions are cut off, for {rows} steps on end", why, remedy)
