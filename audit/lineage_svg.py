"""The lineage of a model, or of an answer that it gave, as one picture: patients on the left, the answer on the right.

A column is a stage, with its run and the root of what that read; a card is what the stage made; a line says what was
made from what. Patients stand there by pseudonym. The picture fetches nothing and runs nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from audit.ancestry import Ancestry
from audit.catalogue import Catalogue
from audit.datasets import LEAVES
from audit.printable import printable
from audit.rows import Run, StoredObject

SHOWN = 8
"""Patients that are named; the others are counted."""
_WIDE, _GAP, _EDGE, _TOP, _LINE, _LANE = 168.0, 54.0, 34.0, 150.0, 17.0, 15.0
_STYLE = """
text{font:12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;fill:#1c2430}
.title{font-size:22px;font-weight:650;letter-spacing:-.02em}.soft{fill:#5d6a7a}.stage{font-size:14px;font-weight:650}
.id{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:10.5px;fill:#5d6a7a}
.name{font-weight:650;font-size:13px}.card{fill:#fff;stroke:#dedad0}.last{fill:#1f7a5c;stroke:#1f7a5c}
.last-text{fill:#fff}.last-id{fill:#cfe6dc}.edge{fill:none;stroke:#1f7a5c;stroke-width:1.6;opacity:.5}
.far{stroke:#8a6414;opacity:.45;stroke-dasharray:5 4}.bar{fill:#1f7a5c}.person{fill:#8a6414}.rule{stroke:#dedad0}
"""


@dataclass(frozen=True)
class Answer:
    """One answer, as its event tells of it."""

    name: str
    """``answer-N``."""
    at: str
    """When, UTC."""
    who: str
    """Account and role of who asked."""
    lines: tuple[str, ...] = ()
    """More of it: digests."""


@dataclass(frozen=True)
class _Card:
    """One box."""

    id: str
    column: int
    title: str
    lines: tuple[str, ...]
    last: bool = False

    @property
    def height(self) -> float:
        return 34 + _LINE * len(self.lines)


@dataclass(frozen=True)
class _Graph:
    """All boxes, what stands above each column, and which box was made from which."""

    cards: tuple[_Card, ...]
    heads: tuple[tuple[str, tuple[str, ...]], ...]
    edges: tuple[tuple[str, str], ...]


def draw(catalogue: Catalogue, behind: Ancestry, answer: Answer | None = None) -> str:
    """The picture as one SVG document.

    Args:
        catalogue: what it is read from.
        behind: the model's ancestry.
        answer: an answer that the model gave; without one the picture ends with the model.
    """
    graph = _graph(catalogue, behind, answer)
    columns = len(graph.heads)
    places, floor = _placed(graph, columns)
    far = sorted((edge for edge in graph.edges if _span(graph, edge) > 1), key=lambda edge: _span(graph, edge))
    width = 2 * _EDGE + columns * _WIDE + (columns - 1) * _GAP
    height = floor + 40 + _LANE * len(far) + 30
    name = answer.name if answer else behind.model.id
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="The lineage of {_text(name)}"><style>{_STYLE}</style>',
        f'<rect width="{width:g}" height="{height:g}" fill="#fbfaf7"/>',
        f'<text x="{_EDGE:g}" y="46" class="title">The lineage of {_text(name)}</text>',
        f'<text x="{_EDGE:g}" y="68" class="soft">Each line: made from. Dashed: read again by a later stage. '
        "A data set is named by its Merkle root, which the log holds.</text>",
    ]
    for column, (stage, lines) in enumerate(graph.heads):
        x = _x(column)
        parts.append(f'<rect x="{x:g}" y="92" width="26" height="3" class="{"bar" if column else "person"}"/>')
        parts.append(f'<text x="{x:g}" y="112" class="stage">{_text(stage)}</text>')
        parts += [f'<text x="{x:g}" y="{128 + 14 * k}" class="id">{_text(one)}</text>' for k, one in enumerate(lines)]
    near = [edge for edge in graph.edges if edge not in far]
    parts += [_near(places[one], places[two]) for one, two in near]
    parts += [
        _far(places[one], places[two], floor + 24 + _LANE * k, k - len(far) / 2) for k, (one, two) in enumerate(far)
    ]
    parts += [_card(card, *places[card.id][:2]) for card in graph.cards]
    parts.append(
        f'<text x="{_EDGE:g}" y="{height - 16:g}" class="soft">Drawn from the catalogue, the working copy; '
        "the log is the evidence. Base weights are not in it.</text></svg>\n"
    )
    return "".join(parts)


def _graph(catalogue: Catalogue, behind: Ancestry, answer: Answer | None) -> _Graph:
    """What to draw: patients, their objects by kind, then the stages' own objects in the order of their runs."""
    stored = {one: catalogue.object(one) for one in behind.objects}
    own = [one for one in stored.values() if one.patient]
    runs = [run for run in behind.runs if any(one.note.get("run") == run.id for one in stored.values())]
    column = {run.id: 2 + k for k, run in enumerate(runs)}
    shown = {i: one for i, one in stored.items() if one.note.get("run") in column and not one.patient}
    used = _reaching(catalogue, shown, behind.model.objects[:1])
    cards = [*_patients(own, catalogue), *_kinds(own)]
    edges = {("patients", card.id) for card in cards[1:]}
    names = {card.id for card in cards}
    for i in used:
        one = shown[i]
        main = i == behind.model.objects[0]
        lines = (i[:20] + "…", f"{one.size:,} bytes", *_digest(behind, main), *(("deleted",) if one.deleted else ()))
        cards.append(_Card(i, column[str(one.note["run"])], one.kind, lines, main and answer is None))
        for parent in catalogue.parents(i):
            source = stored[parent].kind if stored[parent].patient else parent
            if source in names or source in used:
                edges.add((source, i))
    records = {record.id for i in stored for record in catalogue.records_with(i)}
    heads: list[tuple[str, tuple[str, ...]]] = [
        ("Patients", (f"{len({one.patient for one in own})} patients",)),
        ("Records", (f"{len(records)} records",)),
    ]
    heads.extend(_head(run, catalogue) for run in runs)
    if answer is not None:
        last = 2 + len(runs)
        cards.append(_Card("answer", last, answer.name, (answer.at[:16].replace("T", " "), *answer.lines), True))
        edges.add((behind.model.objects[0], "answer"))
        heads.append(("ask", (answer.who,)))
    return _Graph(tuple(cards), tuple(heads), tuple(sorted(edges)))


def _reaching(catalogue: Catalogue, shown: Mapping[str, StoredObject], last: Sequence[str]) -> list[str]:
    """The shared objects from which a chain of shared objects leads to the last ones."""
    found: list[str] = []
    waiting = list(last)
    while waiting:
        one = waiting.pop()
        if one in shown and one not in found:
            found.append(one)
            waiting += catalogue.parents(one)
    return found


def _patients(own: Sequence[StoredObject], catalogue: Catalogue) -> list[_Card]:
    names = sorted({one.patient for one in own})
    if not names:
        return []
    counts = {name: len(catalogue.records(patient=name)) for name in names[:SHOWN]}
    lines = [f"{name}   {count} record{'s' * (count != 1)}" for name, count in counts.items()]
    more = [f"and {len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
    return [_Card("patients", 0, f"{len(names):,} patient{'s' * (len(names) != 1)}", (*lines, *more))]


def _kinds(own: Sequence[StoredObject]) -> list[_Card]:
    kinds = sorted({one.kind for one in own}, key=lambda kind: (kind == "image", kind))  # images last: they go far
    counts = {kind: [one for one in own if one.kind == kind] for kind in kinds}
    return [
        _Card(kind, 1, f"{len(some):,} {kind}{'s' * (len(some) != 1)}", ("one key per patient",))
        for kind, some in counts.items()
    ]


def _head(run: Run, catalogue: Catalogue) -> tuple[str, tuple[str, ...]]:
    """Name of a stage, and what is known of its run."""
    kept = [one for one in catalogue.objects(LEAVES) if one.note.get("root") == run.manifest_root]
    members = f" of {kept[0].note['members']:,}" if kept else ""
    root = (f"data {run.manifest_root[:12]}{members}",) if run.manifest_root else ()
    return run.kind, (run.id, *root)


def _digest(behind: Ancestry, main: bool) -> tuple[str, ...]:
    digest = str(behind.model.note.get("sha256", ""))
    return (f"sha256 {digest[:12]}",) if main and digest else ()


def _x(column: int) -> float:
    return _EDGE + column * (_WIDE + _GAP)


def _span(graph: _Graph, edge: tuple[str, str]) -> int:
    column = {card.id: card.column for card in graph.cards}
    return column[edge[1]] - column[edge[0]]


def _placed(graph: _Graph, columns: int) -> tuple[dict[str, tuple[float, float, float]], float]:
    """(x, y, height) of each card, columns centred on one line; and how far down they reach."""
    stacks = [[card for card in graph.cards if card.column == column] for column in range(columns)]
    tall = [sum(card.height + 22 for card in stack) - 22 for stack in stacks]
    floor = _TOP + 16 + max(tall)
    places = {}
    for column, stack in enumerate(stacks):
        y = _TOP + 16 + (max(tall) - tall[column]) / 2
        for card in stack:
            places[card.id] = _x(column), y, card.height
            y += card.height + 22
    return places, floor


def _near(one: tuple[float, float, float], two: tuple[float, float, float]) -> str:
    """A line from a card to one in the next column, or in its own."""
    if one[0] == two[0]:  # within one stage: down or up along the side
        x, y1, y2 = one[0] + _WIDE, one[1] + one[2] / 2, two[1] + two[2] / 2
        return f'<path class="edge" d="M{x:g} {y1:g}C{x + 26:g} {y1:g} {x + 26:g} {y2:g} {x:g} {y2:g}"/>'
    x1, y1, x2, y2 = one[0] + _WIDE, one[1] + one[2] / 2, two[0], two[1] + two[2] / 2
    middle = (x1 + x2) / 2
    return f'<path class="edge" d="M{x1:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}"/>'


def _far(one: tuple[float, float, float], two: tuple[float, float, float], lane: float, aside: float) -> str:
    """A line over several columns, through a lane of its own below all cards, and aside of others on its way there."""
    x1, y1 = one[0] + _WIDE, one[1] + one[2] * 0.7 - 5 * aside
    x2, y2 = two[0], two[1] + two[2] * 0.7 - 5 * aside
    a, b = x1 + _GAP / 2 + 6 * aside, x2 - _GAP / 2 - 6 * aside
    r = 10.0
    return (
        f'<path class="edge far" d="M{x1:g} {y1:g}H{a - r:g}Q{a:g} {y1:g} {a:g} {y1 + r:g}V{lane - r:g}'
        f"Q{a:g} {lane:g} {a + r:g} {lane:g}H{b - r:g}Q{b:g} {lane:g} {b:g} {lane - r:g}V{y2 + r:g}"
        f'Q{b:g} {y2:g} {b + r:g} {y2:g}H{x2:g}"/>'
    )


def _card(card: _Card, x: float, y: float) -> str:
    box, name, small = ("last", "name last-text", "id last-id") if card.last else ("card", "name", "id")
    lines = "".join(
        f'<text x="{x + 14:g}" y="{y + 24 + _LINE * (k + 1):g}" class="{small}">{_text(one)}</text>'
        for k, one in enumerate(card.lines)
    )
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{_WIDE:g}" height="{card.height:g}" rx="7" class="{box}"/>'
        f'<text x="{x + 14:g}" y="{y + 23:g}" class="{name}">{_text(card.title)}</text>{lines}'
    )


def _text(text: str) -> str:
    return escape(printable(text))
