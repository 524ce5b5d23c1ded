"""Progress of long work: a bar with rate and time left at a terminal, a plain line every few seconds elsewhere.

The floors below know nothing of this file. They take a callable `report(done, total, what)` and call it as often as
they like; here it becomes something to look at, always on stderr, so that stdout carries data only.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Progress = Callable[[int, int, str], None]
"""Called with how many are done, of how many (0: not known yet), and of what: a plural noun, and after a comma a figure
that may change (`images`; `steps, loss 0.31`)."""
PLAIN_EVERY_S = 5.0
"""Seconds between two plain lines."""


def silent(done: int, total: int, what: str) -> None:
    """A `Progress` that says nothing."""


def aloud(text: str) -> None:
    """Say one line to the person who waits."""
    print(text, file=sys.stderr)


@contextmanager
def progress(title: str, stream: TextIO | None = None) -> Iterator[Progress]:
    """Show the progress of one piece of work while the block runs.

    Args:
        title: the work in one or two words, such as `train`.
        stream: where to write; stderr unless said.

    Yields:
        The callback to hand down. A new noun, or a `done` that falls, begins a new phase with its own rate.
    """
    stream = sys.stderr if stream is None else stream
    with _bar(title, stream) if stream.isatty() else _lines(title, stream) as report:
        yield report


@contextmanager
def _bar(title: str, stream: TextIO) -> Iterator[Progress]:
    """A bar a phase, drawn by rich."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=stream)) as bars:
        meter: Meter | None = None
        task = None

        def report(done: int, total: int, what: str) -> None:
            nonlocal meter, task
            if meter is None or task is None or meter.is_over(done, what):
                meter = Meter(done, what)
                task = bars.add_task(f"{title}: {what}", total=total or None, completed=done, rate="")
            meter.done, meter.what = done, what
            bars.update(
                task, description=f"{title}: {what}", completed=done, total=total or None, rate=meter.rate_text()
            )

        yield report


@contextmanager
def _lines(title: str, stream: TextIO) -> Iterator[Progress]:
    """A line when a phase begins, every few seconds, and when it ends."""
    meter: Meter | None = None
    said_s = 0.0
    said: tuple[int, int] | None = None

    def report(done: int, total: int, what: str) -> None:
        nonlocal meter, said_s, said
        if meter is None or meter.is_over(done, what):
            meter, said_s, said = Meter(done, what), 0.0, None
        meter.done, meter.what = done, what
        now = time.monotonic()
        finished = total > 0 and done >= total
        if (done, total) != said and (finished or now - said_s >= PLAIN_EVERY_S):
            said_s, said = now, (done, total)
            stream.write(f"{title}: {meter.line(total)}\n")
            stream.flush()

    yield report


class Meter:
    """Count, rate and time left of one phase. The rate counts from where the phase was taken up, not from zero."""

    def __init__(self, done: int, what: str) -> None:
        self.first, self.done, self.what = done, done, what
        self.began_s = time.monotonic()

    def is_over(self, done: int, what: str) -> bool:
        """Whether a report belongs to another phase."""
        return what.partition(",")[0] != self.what.partition(",")[0] or done < self.done

    def rate(self) -> float:
        """Units a second since the phase was taken up; 0 while unknown."""
        spent_s = time.monotonic() - self.began_s
        return (self.done - self.first) / spent_s if spent_s > 0 else 0.0

    def rate_text(self) -> str:
        """The rate in a few letters: `3.1/s`, or `12 s each` for slow work."""
        rate = self.rate()
        if rate == 0:
            return ""
        return f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each"

    def line(self, total: int) -> str:
        """The phase in one line, such as `120/400 steps, 3.1/s, 1 min 30 s left`."""
        parts = [f"{self.done:,}/{total:,} {self.what}" if total else f"{self.done:,} {self.what}"]
        rate = self.rate()
        if rate > 0:
            parts.append(self.rate_text())
            if total > self.done:
                parts.append(f"{in_words((total - self.done) / rate)} left")
        return ", ".join(parts)


def in_words(seconds: float) -> str:
    """A duration as a person says it: `45 s`, `1 min 30 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
