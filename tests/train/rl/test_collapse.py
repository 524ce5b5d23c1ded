"""The watch over collapse: each sign in a made run, what is no collapse, and a run that was cut off."""

import json
import math
import re
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.jobs.align import AlignSettings
from train.rl.collapse import Diagnosis, Watch
from train.rl.curriculum import CurriculumConfig
from train.rl.grpo import GrpoConfig

HEALTHY = {
    "step": 0, "reward": 0.3, "similarity": 0.4, "zero_std_share": 0.3, "entropy": 1.2, "length": 9.0, "clipped": 0.1,
    "held_exact": 0.3, "loss": 0.01, "kl": 0.001, "skipped": 0.0,
}  # fmt: skip
PATIENCE = 4


def told(rows: list[dict[str, float]], patience: int = PATIENCE) -> list[str]:
    """What a watch says of each row; empty where nothing."""
    watch = Watch(patience)
    return [found.kind if (found := watch.see(row)) else "" for row in rows]


SIGNS: dict[str, dict[str, float]] = {
    "no-signal": {"zero_std_share": 0.81},
    "solved": {"zero_std_share": 0.9, "similarity": 0.95},
    "forgetting": {"held_exact": 0.27},
    "entropy": {"entropy": 0.23},
    "empty": {"length": 1.7},
    "truncated": {"clipped": 0.95},
    "not-a-number": {"skipped": 1.0},
}


@pytest.mark.parametrize("kind", SIGNS)
def test_each_sign_is_believed_after_patience(kind: str) -> None:
    healthy, bad = [HEALTHY] * 5, HEALTHY | SIGNS[kind]
    patience = 3 if kind == "forgetting" else PATIENCE
    assert told([*healthy, *[bad] * patience]) == [""] * (5 + patience - 1) + [kind]
    assert not any(told([*healthy, *([bad] * (patience - 1) + [HEALTHY]) * 5])), "on end, not in all"
    silent = {"step": 1.0}  # a row without the figure neither counts nor clears
    assert told([*healthy, bad, bad, silent, bad, bad])[-1] == kind
    assert not any(told([*healthy, *[bad] * 20], patience=0))


@pytest.mark.parametrize("name", ["loss", "kl", "entropy", "reward", "grad_norm", "held_exact"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_ends_it_at_once(name: str, value: float) -> None:
    assert told([HEALTHY, HEALTHY | {name: value}], patience=0) == ["", "not-a-number"]


@pytest.mark.parametrize(
    "row",
    [
        {"zero_std_share": 0.8},
        {"entropy": 0.01, "length": 1.0, "similarity": 0.97},  # short and sure because it is right
        {"held_exact": 0.29},  # noise
        {"reward": -5.0},
    ],
)
def test_what_is_no_collapse(row: dict[str, float]) -> None:
    assert not any(told([*[HEALTHY] * 5, *[HEALTHY | row] * 30]))


def test_the_words_fit_the_run() -> None:
    def first(rows: list[dict[str, float]]) -> Diagnosis:
        watch = Watch(2)
        return next(found for row in rows if (found := watch.see(row)))

    starving = HEALTHY | {"zero_std_share": 0.9, "similarity": 0.02}
    assert "--rcpa" in first([starving] * 2).remedy
    assert "--prefix-max" in first([starving | {"prefix_share": 0.4}] * 2).remedy
    assert "--temperature" in first([starving | {"similarity": 0.6}] * 2).remedy
    assert "90%" in first([starving] * 2).what and "2 steps" in first([starving] * 2).what
    never, later = HEALTHY | {"clipped": 1.0}, [*[HEALTHY] * 3, *[HEALTHY | {"clipped": 1.0}] * 2]
    assert first([never] * 2).remedy == "Raise --max-new-tokens." != first(later).remedy
    assert "27.0% and was 30.0%" in first([HEALTHY, *[HEALTHY | SIGNS["forgetting"]] * 2]).what


def test_every_flag_that_a_remedy_names_is_a_setting() -> None:
    known = {field.name for config in (GrpoConfig, CurriculumConfig, AlignSettings) for field in fields(config)} | {
        "rcpa"
    }
    said = []
    for change in (*SIGNS.values(), {"loss": math.nan}, {"zero_std_share": 1.0, "prefix_share": 0.3}):
        for begun in ([HEALTHY] * 3, []):
            for right in (0.0, 0.6):
                watch = Watch(1)
                rows = [*begun, HEALTHY | {"similarity": right} | change]
                said += [str(found) for row in rows if (found := watch.see(row))]
    flags = {flag[2:].replace("-", "_") for text in said for flag in re.findall(r"--[a-z-]+", text)}
    assert len(flags) > 8 and flags <= known, flags - known


def test_the_base_can_be_given() -> None:
    watch = Watch(1, start={"held_exact": 0.5}, rows={"held_exact": 1})
    found = watch.see(HEALTHY)
    assert found is not None and found.kind == "forgetting"


FIGURES = st.fixed_dictionaries(
    {},
    optional={
        name: st.floats(0, 1) for name in ("zero_std_share", "entropy", "clipped", "held_exact", "similarity", "reward")
    }
    | {"length": st.floats(0, 99)},
)


@settings(deadline=None)
@given(rows=st.lists(FIGURES, max_size=40), cut=st.integers(0, 40), patience=st.integers(0, 5))
def test_a_watch_that_was_cut_off_says_the_same(rows: list[dict[str, float]], cut: int, patience: int) -> None:
    whole, first, second = Watch(patience), Watch(patience), Watch(patience)
    expected: list[Any] = [whole.see(row) for row in rows]
    found: list[Any] = [first.see(row) for row in rows[:cut]]
    second.resume(json.loads(json.dumps(first.state())))
    assert found + [second.see(row) for row in rows[cut:]] == expected
    assert second.state() == whole.state()
