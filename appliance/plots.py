"""Curves and bars as inline SVG: no script, no font file, no network."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM = 420, 180, 46, 26


def curve(title: str, values: Sequence[float], unit: str, smooth: int = 1) -> str:
    """A line over steps; with ``smooth`` > 1 a running mean over the faint raw values."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    low, high = (low, high) if high > low else (low - 1, high + 1)

    def path(points: Sequence[float], style: str) -> str:
        step = (WIDTH - LEFT - 8) / (len(values) - 1)
        offset = len(values) - len(points)
        at = " ".join(
            f"{LEFT + (i + offset) * step:.1f},{8 + (HEIGHT - BOTTOM - 8) * (high - v) / (high - low):.1f}"
            for i, v in enumerate(points)
        )
        return f'<polyline points="{at}" {style}/>'

    means = [sum(values[i : i + smooth]) / smooth for i in range(len(values) - smooth + 1)]
    raw = path(values, 'class="raw"') if smooth > 1 else ""
    marks = "".join(
        f'<text x="{LEFT - 6}" y="{y}" class="tick" text-anchor="end">{v:.3g}</text>'
        for y, v in ((14, high), (HEIGHT - BOTTOM + 2, low))
    )
    frame = f'<path d="M{LEFT} 8V{HEIGHT - BOTTOM}H{WIDTH - 8}" class="axis"/>'
    foot = f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" class="tick" text-anchor="end">step {len(values)}</text>'
    name = f'<text x="{LEFT + 8}" y="{HEIGHT - 8}" class="tick">{escape(unit)}</text>'
    line = path(means, 'class="line"')
    drawn = f"{frame}{marks}{foot}{name}{raw}{line}"
    return _figure(title, HEIGHT, drawn)


def bars(title: str, rows: Sequence[tuple[str, float, float, float, str]]) -> str:
    """Horizontal bars of shares with their intervals: (label, mean, low, high, class)."""
    height = 26 * len(rows) + 26
    drawn = ""

    def scale(share: float) -> float:
        return 150 + share * (WIDTH - 205)

    for k, (label, mean, low, high, style) in enumerate(rows):
        y = 8 + 26 * k
        whisker = f'<path d="M{scale(low):.1f} {y + 9}H{scale(high):.1f}" class="whisker"/>' if high > low else ""
        drawn += (
            f'<text x="144" y="{y + 13}" class="tick" text-anchor="end">{escape(label)}</text>'
            f'<rect x="150" y="{y}" width="{scale(mean) - 150:.1f}" height="18" class="bar {style}"/>{whisker}'
            f'<text x="{WIDTH - 4}" y="{y + 13}" class="tick" text-anchor="end">{mean:.1%}</text>'
        )
    return _figure(title, height, drawn)


def _figure(title: str, height: int, drawn: str) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{drawn}</svg></figure>'
    )
