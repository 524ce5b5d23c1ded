"""The runs behind a model as a chart for the report, drawn from the log alone: what each read, made and handed on."""

from audit.charts import WIDE, Box, Drawing, Rule, Words
from audit.moments import when_text
from audit.printable import printable
from audit.works import ModelAnswer

_MOST = 6
"""Runs in a row at most; earlier ones are counted."""
_GAP, _HEAD, _LINE = 22.0, 20.0, 16.0


def chain(model: ModelAnswer) -> Drawing | None:
    """The runs that made a model, in the log's order from left to right; None where the log names none.

    Runs that only measured or signed it stand in the tables.
    """
    makers = {made.run for made in model.made_from}
    runs = [run for run in model.runs if run.id in makers]
    if not runs:
        return None
    shown = runs[-_MOST:]
    places = max(len(shown), 4)
    wide = (WIDE - _GAP * (places - 1)) / places
    letters = int(wide / 7.2)
    stacks: list[tuple[str, list[str], list[str]]] = []
    for run in shown:
        made = [one for one in model.made_from if one.run == run.id]
        kinds = sorted({one.kind for one in made if one.kind})
        lines = [run.id, when_text(run.started), f"by {run.user}"]
        lines += [f"data {run.manifest[:12]}"] if run.manifest else []
        stacks.append((run.activity, lines, [f"made {kind}" for kind in kinds] or [_count(len(made))]))
    rows = max(len(lines) + len(kept) for _, lines, kept in stacks)
    tall = _HEAD + 10 + _LINE * rows
    marks: list[Box | Rule | Words] = []
    for k, (activity, lines, kept) in enumerate(stacks):
        x = k * (wide + _GAP)
        if k:
            marks.append(Rule(x - _GAP, 1.5, x, 1.5, "base"))
        marks.append(Box(x, 0, wide, 3, "done", f"{activity}: {', '.join(lines)}"))
        marks.append(Words(x, _HEAD + 2, _cut(activity, letters), style="label"))
        for row, line in enumerate([*lines, *kept]):
            style = "label" if row >= len(lines) else "tick"
            marks.append(Words(x, _HEAD + 2 + _LINE * (row + 1), _cut(line, letters), style=style))
    earlier = f", after {len(runs) - len(shown):,} earlier ones" if len(runs) > len(shown) else ""
    title = f"How {printable(model.name)} was made{earlier}: each run, what it read, what it made"
    return Drawing(title, WIDE, tall, tuple(marks))


def _count(made: int) -> str:
    return f"made {made:,} object{'s' * (made != 1)}"


def _cut(text: str, letters: int) -> str:
    text = printable(text)
    return text if len(text) <= letters else text[: letters - 1] + "…"
