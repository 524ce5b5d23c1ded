"""Charts as plain marks (boxes, rules, words), so that a page and a printed document draw the same picture."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from audit.printable import printable
from audit.summary import Day, Silence

WIDE, HALF = 920.0, 446.0
"""Widths of a drawing over the page and over half of it."""
_ROW = 26.0
_LABEL = 150.0
_LETTERS = 21
"""Letters of a label beside a bar; the rest of a longer name is in its tooltip and in the tables."""


@dataclass(frozen=True)
class Box:
    """A filled rectangle; styles are names: ``done``, ``failed``, ``silence`` ..."""

    x: float
    """Left."""
    y: float
    """Top; down is positive."""
    width: float
    """Width."""
    height: float
    """Height."""
    style: str
    """Name of a colour."""
    title: str = ""
    """Says what it is where somebody points at it."""


@dataclass(frozen=True)
class Rule:
    """A thin line."""

    x1: float
    """From here ..."""
    y1: float
    """..."""
    x2: float
    """... to here."""
    y2: float
    """..."""
    style: str = "axis"
    """Name of a colour."""


@dataclass(frozen=True)
class Words:
    """A short text on its base line."""

    x: float
    """Where it starts, is centred, or ends."""
    y: float
    """Base line."""
    text: str
    """The text, not yet escaped."""
    anchor: str = "start"
    """``start``, ``middle`` or ``end``."""
    style: str = "tick"
    """Name of a colour."""


@dataclass(frozen=True)
class Drawing:
    """A chart."""

    title: str
    """What it shows, in words; also for who cannot see it."""
    width: float
    """In points."""
    height: float
    """In points."""
    marks: tuple[Box | Rule | Words, ...]
    """What is drawn, in order."""


def over_time(days: Sequence[Day], silences: Sequence[Silence], title: str) -> Drawing | None:
    """Events by day, week, month or year, what failed on top, silences as shaded bands; None without a day."""
    if not days:
        return None
    first, last = days[0].day, days[-1].day
    unit = _unit((last - first).days)
    done: Counter[date] = Counter()
    bad: Counter[date] = Counter()
    for one in days:
        at = _floor(one.day, unit)
        done[at] += one.done
        bad[at] += one.failed
    begin, end = _floor(first, unit), _after(_floor(last, unit), unit)
    top, step = _scale(max(done[at] + bad[at] for at in done))
    left, right, ceiling, floor = 44.0, WIDE - 4, 14.0, 176.0

    def x(at: date | datetime) -> float:
        passed = _days(at) - _days(begin)
        return left + (right - left) * min(max(passed / (_days(end) - _days(begin)), 0), 1)

    def y(count: float) -> float:
        return floor - (floor - ceiling) * count / top

    marks: list[Box | Rule | Words] = []
    for silence in silences:
        x1, x2 = x(silence.begins), x(silence.ends)
        if x2 - x1 > 0.5:
            told = f"silent from {silence.begins:%Y-%m-%d %H:%M} to {silence.ends:%Y-%m-%d %H:%M}"
            marks.append(Box(x1, ceiling, x2 - x1, floor - ceiling, "silence", told))
    for k in range(int(top / step) + 1):
        marks.append(Rule(left, y(k * step), right, y(k * step), "axis" if k else "base"))
        marks.append(Words(left - 8, y(k * step) + 4, f"{k * step:,}", "end"))
    for at in sorted(done):
        x1, x2 = x(at), x(_after(at, unit))
        gap = min((x2 - x1) * 0.18, 3.0)
        # A single day is no wall: a column is never wider than 46 points.
        width = min(max(x2 - x1 - 2 * gap, 0.8), 46.0)
        middle = (x1 + x2) / 2
        told = f"{_name(at, unit)}: {done[at] + bad[at]:,} events, {bad[at]:,} failed or refused"
        if done[at]:
            marks.append(Box(middle - width / 2, y(done[at]), width, floor - y(done[at]), "done", told))
        if bad[at]:
            height = max(floor - y(bad[at]), 1.5)
            marks.append(Box(middle - width / 2, y(done[at]) - height, width, height, "failed", told))
    marks += _dates(begin, end, unit, x, floor + 18)
    return Drawing(f"{title}, a {unit} a column (UTC)", WIDE, floor + 26, tuple(marks))


def bars(
    title: str, rows: Sequence[tuple[str, int]], at_most: int = 8, width: float = HALF, style: str = "done"
) -> Drawing | None:
    """Counts as horizontal bars, most first; the rest in one row. None without a row."""
    if not rows:
        return None
    shown = list(rows[:at_most])
    rest = rows[at_most:]
    if rest:
        shown.append((f"{len(rest):,} others", sum(count for _, count in rest)))
    most = max(count for _, count in shown) or 1
    room = width - _LABEL - 10 - 62
    marks: list[Box | Rule | Words] = [Rule(_LABEL + 4, 2, _LABEL + 4, 2 + _ROW * len(shown), "base")]
    for k, (name, count) in enumerate(shown):
        y = 4 + _ROW * k
        name = printable(name)
        label = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
        long = max(room * count / most, 1.0)
        colour = "rest" if rest and k == len(shown) - 1 else style
        marks.append(Words(_LABEL - 4, y + 14, label, "end", "label"))
        marks.append(Box(_LABEL + 4, y + 2, long, _ROW - 9, colour, f"{name}: {count:,}"))
        marks.append(Words(_LABEL + 10 + long, y + 14, f"{count:,}"))
    return Drawing(title, width, 6 + _ROW * len(shown), tuple(marks))


def _unit(days: int) -> str:
    """What a column stands for, so that there are about a hundred at most."""
    return next((unit for unit, most in (("day", 92), ("week", 731), ("month", 3653)) if days <= most), "year")


def _floor(day: date, unit: str) -> date:
    """The first day of the column that a day belongs to."""
    if unit == "week":
        return date.fromordinal(max(day.toordinal() - day.weekday(), 1))
    return {"day": day, "month": day.replace(day=1), "year": day.replace(month=1, day=1)}[unit]


def _after(day: date, unit: str) -> date:
    """The first day of the next column."""
    try:
        if unit in ("day", "week"):
            return day + timedelta(days=1 if unit == "day" else 7)
        months = day.year * 12 + day.month - 1 + (1 if unit == "month" else 12)
        return date(months // 12, months % 12 + 1, 1)
    except (OverflowError, ValueError):  # the end of the calendar
        return date.max


def _days(at: date | datetime) -> float:
    """Days since the year 1."""
    if isinstance(at, datetime):
        at = at.astimezone(UTC)
        return at.toordinal() + (at.hour * 60 + at.minute) / 1440
    return float(at.toordinal())


def _scale(most: int) -> tuple[int, int]:
    """Top of an axis and the distance of its lines: round numbers, three to five lines."""
    size = 1
    while True:
        for step in (size, 2 * size, 5 * size):
            if most <= 4 * step:
                return max(-(-most // step), 1) * step, step
        size *= 10


def _name(at: date, unit: str) -> str:
    return {"day": f"{at}", "week": f"week of {at}", "month": f"{at:%Y-%m}", "year": f"{at.year}"}[unit]


def _dates(begin: date, end: date, unit: str, x, y: float) -> list[Box | Rule | Words]:  # type: ignore[no-untyped-def]
    """Dates under the columns, eight at most, each under the middle of its own."""
    columns: list[date] = []
    at = begin
    while at < end and len(columns) < 10_000:
        columns.append(at)
        at = _after(at, unit)
    every = -(-len(columns) // 8)
    form = {"day": "%-d %b", "week": "%-d %b %Y", "month": "%b %Y", "year": "%Y"}[unit]
    marks: list[Box | Rule | Words] = []
    for k, at in enumerate(columns[::every]):
        text = at.strftime(form)
        if unit == "day" and (k == 0 or at.month == 1 and at.day <= every):
            text = at.strftime("%-d %b %Y")
        middle = (x(at) + x(_after(at, unit))) / 2
        edge = min(max(middle, 44.0), WIDE - 4)
        anchor = "end" if edge > WIDE - 40 else "middle"
        marks.append(Words(edge, y, text, anchor))
    return marks
