"""Progress as lines: what is said, how often, and how rate and time left are counted."""

import io

import pytest

from appliance import progress as module
from appliance.progress import in_words, progress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_resumed_phase_counts_its_rate_from_where_it_was_taken_up(clock: Clock) -> None:
    out = io.StringIO()
    with progress("train", out) as report:
        report(300, 400, "steps")
        clock.now += 10
        report(320, 400, "steps")
    assert out.getvalue().splitlines() == ["train: 300/400 steps", "train: 320/400 steps, 2.0/s, 40 s left"]


def test_a_figure_after_the_noun_may_change_within_a_phase(clock: Clock) -> None:
    out = io.StringIO()
    with progress("train", out) as report:
        for done in range(1, 12):
            report(done, 100, f"steps, loss {1 / done:.2f}")
            clock.now += 1
    assert out.getvalue().splitlines() == [
        "train: 1/100 steps, loss 1.00",
        "train: 6/100 steps, loss 0.17, 1.0/s, 1 min 34 s left",
        "train: 11/100 steps, loss 0.09, 1.0/s, 1 min 29 s left",
    ]


def test_lines_come_every_few_seconds_and_at_the_end(clock: Clock) -> None:
    out = io.StringIO()
    with progress("synth", out) as report:
        for done in range(1, 1001):
            clock.now += 0.01
            report(done, 1000, "images")
        report(1000, 1000, "images")
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("synth: 1/1,000 images") and lines[-1].startswith("synth: 1,000/1,000 images")
    assert len(lines) in (3, 4)


def test_slow_work_unknown_totals_and_new_phases(clock: Clock) -> None:
    out = io.StringIO()
    with progress("export", out) as report:
        report(0, 0, "shards")
        clock.now += 60
        report(2, 0, "shards")
        report(0, 5, "tensors")
    assert out.getvalue().splitlines() == [
        "export: 0 shards",
        "export: 2 shards, 30.0 s each",
        "export: 0/5 tensors",
    ]


def test_a_terminal_gets_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with progress("train", out) as report:
        report(1, 4, "steps")
        report(4, 4, "steps")
        report(1, 2, "questions")
    assert "train: steps" in out.getvalue() and "4/4" in out.getvalue() and "train: questions" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (90, "1 min 30 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
