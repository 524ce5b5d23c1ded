"""Curves of runs on one axis: an SVG that stands alone, a PNG through Pillow, and a line of blocks for a terminal.

One layout makes all pictures: it says where lines and words go, and each writer draws them.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

WIDTH, HEIGHT = 820, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 44, 46
_INK, _SOFT, _GRID, _PAPER = "#1c2430", "#5d6a7a", "#e4e0d7", "#fbfaf7"
_COLOURS = ("#1f7a5c", "#a2452f", "#3b6ea8", "#9c7a1f", "#7a4f9c", "#4b5560")
BLOCKS = "▁▂▃▄▅▆▇█"
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One run's values of one metric."""

    name: str
    """What the legend calls it."""
    points: tuple[Point, ...]
    """(step, value), finite values only."""


@dataclass(frozen=True)
class Panel:
    """A picture among several on one page."""

    title: str
    """What it shows."""
    curves: tuple[Curve, ...]
    """What is drawn in it."""
    unit: str
    """Of the values."""


@dataclass(frozen=True)
class Line:
    """A line through points, in pixels."""

    points: tuple[Point, ...]
    """Where it goes."""
    colour: str
    """Its colour."""
    width: float = 1.0
    """In pixels."""


@dataclass(frozen=True)
class Word:
    """A few letters."""

    at: Point
    """The middle of their height, at the side that ``anchor`` names."""
    text: str
    """What they say."""
    colour: str = _SOFT
    """Their colour."""
    size: int = 13
    """Height in pixels."""
    anchor: Literal["start", "middle", "end"] = "start"
    """Which side of them stands there."""


def laid_out(title: str, curves: Sequence[Curve], unit: str) -> list[Line | Word]:
    """Where everything goes. A single point becomes a short dash.

    Args:
        unit: of the values, beside the axis.
    """
    values = [v for c in curves for _, v in c.points]
    if not values:
        return [Word((_LEFT, HEIGHT / 2), "nothing to draw")]
    last = max(1.0, max(s for c in curves for s, _ in c.points))
    marks = ticks(min(values), max(values))
    low, high = marks[0], marks[-1]

    def place(step: float, value: float) -> Point:
        x = _LEFT + step / last * (WIDTH - _LEFT - _RIGHT)
        return x, HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    drawn: list[Line | Word] = [Word((_LEFT, 20), title, _INK, 16)]
    for mark in marks:
        y = place(0, mark)[1]
        drawn += [Line(((_LEFT, y), (WIDTH - _RIGHT, y)), _GRID), Word((_LEFT - 8, y), f"{mark:g}", anchor="end")]
    steps = [s for s in ticks(0, last) if s <= last and s == int(s)]
    drawn += [Word((place(s, low)[0], HEIGHT - _BOTTOM + 16), f"{s:g}", anchor="middle") for s in steps]
    drawn.append(Word((WIDTH - _RIGHT, HEIGHT - 10), f"step; {unit}", anchor="end"))
    x = float(_LEFT)
    for curve, colour in zip(curves, _colours(len(curves)), strict=True):
        points = tuple(place(*p) for p in curve.points)
        if len(points) == 1:
            points = ((points[0][0] - 4, points[0][1]), (points[0][0] + 4, points[0][1]))
        drawn += [
            Line(points, colour, 2.0),
            Line(((x, HEIGHT - 10), (x + 18, HEIGHT - 10)), colour, 3.0),
            Word((x + 24, HEIGHT - 10), curve.name, _INK),
        ]
        x += 40 + 7.5 * len(curve.name)
    return drawn


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``; two at least."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def board(panels: Sequence[Panel]) -> tuple[list[Line | Word], int, int]:
    """Panels two in a row, or one alone; with the page's width and height."""
    columns = min(2, max(1, len(panels)))
    drawn: list[Line | Word] = []
    for number, panel in enumerate(panels):
        down, across = divmod(number, columns)
        x, y = across * WIDTH, down * HEIGHT
        for one in laid_out(panel.title, panel.curves, panel.unit):
            if isinstance(one, Line):
                drawn.append(replace(one, points=tuple((a + x, b + y) for a, b in one.points)))
            else:
                drawn.append(replace(one, at=(one.at[0] + x, one.at[1] + y)))
    return drawn, columns * WIDTH, max(1, math.ceil(len(panels) / columns)) * HEIGHT


def svg(title: str, panels: Sequence[Panel]) -> str:
    """An SVG file of its own: no script, no font file, no network.

    Args:
        title: what a screen reader says of the page.
    """
    page, width, height = board(panels)
    drawn = []
    for one in page:
        if isinstance(one, Line):
            at = " ".join(f"{x:.1f},{y:.1f}" for x, y in one.points)
            drawn.append(
                f'<polyline points="{at}" fill="none" stroke="{one.colour}" stroke-width="{one.width:g}" '
                'stroke-linejoin="round"/>'
            )
        else:
            drawn.append(
                f'<text x="{one.at[0]:.1f}" y="{one.at[1] + one.size * 0.35:.1f}" font-size="{one.size}" '
                f'fill="{one.colour}" text-anchor="{one.anchor}">{escape(one.text)}</text>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}" font-family="system-ui, sans-serif">'
        f'<rect width="{width}" height="{height}" fill="{_PAPER}"/>{"".join(drawn)}</svg>\n'
    )


def png(panels: Sequence[Panel], scale: int = 2) -> bytes:
    """The same page in pixels, ``scale`` for each of the SVG's."""
    from PIL import Image, ImageDraw, ImageFont

    page, width, height = board(panels)
    fine = 2 * scale  # drawn twice as large and made smaller: Pillow's lines have no soft edges of their own
    paper = Image.new("RGB", (width * fine, height * fine), _PAPER)
    pen = ImageDraw.Draw(paper)
    anchors = {"start": "lm", "middle": "mm", "end": "rm"}
    for one in page:
        if isinstance(one, Line):
            points = [(x * fine, y * fine) for x, y in one.points]
            pen.line(points, fill=one.colour, width=round(one.width * fine), joint="curve")
        else:
            font = ImageFont.load_default(one.size * fine)
            pen.text((one.at[0] * fine, one.at[1] * fine), one.text, one.colour, font, anchors[one.anchor])
    out = io.BytesIO()
    paper.resize((width * scale, height * scale), Image.Resampling.LANCZOS).save(out, "PNG")
    return out.getvalue()


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Blocks for a terminal: means of neighbours where there are more values than blocks."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [len(values) * k // count for k in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    low, high = min(means), max(means)
    if high <= low:
        return BLOCKS[0] * count
    return "".join(BLOCKS[min(7, int(8 * (m - low) / (high - low)))] for m in means)


def _colours(count: int) -> list[str]:
    return [_COLOURS[k % len(_COLOURS)] for k in range(count)]
