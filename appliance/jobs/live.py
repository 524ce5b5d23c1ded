"""A live table of a run of alignment: a line a step, or fewer where there are many."""

from collections.abc import Callable, Mapping

COLUMNS = (
    ("reward", "reward", "{:.3f}"),
    ("held out", "held_exact", "{:.1%}"),
    ("same", "zero_std_share", "{:.0%}"),
    ("entropy", "entropy", "{:.3f}"),
    ("kl", "kl", "{:.4f}"),
    ("length", "length", "{:.1f}"),
    ("cut off", "clipped", "{:.0%}"),
    ("prefix", "prefix_share", "{:.0%}"),
    ("asks", "threshold", "{:.2f}"),
    ("js", "domain_js", "{:.4f}"),
    ("tok/s", "tokens_per_second", "{:,.0f}"),
)
"""Heading, metric, and how it is written."""
_MOST = 40
"""Lines of a run, about."""


class Lines:
    """Tells a step's metrics as a line under a heading, which comes again where a column is new.

    Args:
        tell: takes a line.
        steps: of the whole run.
    """

    def __init__(self, tell: Callable[[str], None], steps: int) -> None:
        self._tell, self._steps, self._every = tell, steps, -(-steps // _MOST) or 1
        self._columns: tuple[tuple[str, str, str], ...] = ()

    def row(self, metrics: Mapping[str, float]) -> None:
        """Tell a step where its turn is."""
        step = int(metrics["step"]) + 1
        if (step - 1) % self._every and step < self._steps and "held_exact" not in metrics:
            return
        if any(c[1] in metrics and c not in self._columns for c in COLUMNS):
            self._columns = tuple(c for c in COLUMNS if c in self._columns or c[1] in metrics)
            self._tell("  step " + "".join(f"{head:>9}" for head, _, _ in self._columns))
        cells = (form.format(metrics[name]) if name in metrics else "" for _, name, form in self._columns)
        self._tell(f"{step:6} " + "".join(f"{cell:>9}" for cell in cells))
