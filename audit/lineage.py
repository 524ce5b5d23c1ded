"""Lineage out of the catalogue: what a record became, and what a model was made from.

The catalogue is the working copy, for people on the box; the log is the evidence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from audit.catalogue import Catalogue

WIDEST = 50
"""Relatives of one thing that are followed at most; the others are counted."""
DEEPEST = 200
"""Generations that are followed at most."""
_MOST = 5000
"""Things in one tree at most."""
_Place = tuple[str, str]  # table, id


@dataclass(frozen=True)
class Node:
    """One thing in a tree of lineage."""

    table: str
    """``records``, ``objects`` or ``models``."""
    id: str
    """Its id."""
    kind: str
    """Kind of the object or model; ``record`` for a record."""
    patient: str
    """Pseudonym, or empty."""
    created: str
    """UTC, RFC 3339."""
    note: Mapping[str, Any]
    """Its plain metadata."""
    relatives: tuple["Node", ...] = ()
    """What it was made from, or what was made from it: see `Lineage`."""
    repeated: bool = False
    """Whether it stands elsewhere in the same tree already, with its relatives there."""
    left_out: int = 0
    """Relatives that were not followed."""

    def to_dict(self) -> dict[str, Any]:
        """The tree as JSON values."""
        found: dict[str, Any] = {"table": self.table, "id": self.id, "kind": self.kind, "created": self.created}
        if self.patient:
            found["patient"] = self.patient
        if self.note:
            found["note"] = dict(self.note)
        if self.repeated:
            found["repeated"] = True
        if self.left_out:
            found["left_out"] = self.left_out
        found["relatives"] = [node.to_dict() for node in self.relatives]
        return found


@dataclass(frozen=True)
class Lineage:
    """One thing, with all it came from and all that came of it."""

    origins: Node
    """Its tree upwards: relatives are what a thing was made from."""
    results: Node
    """Its tree downwards: relatives are what was made from a thing."""

    def to_dict(self) -> dict[str, Any]:
        """Both trees as JSON values."""
        return {"made_from": self.origins.to_dict()["relatives"], "became": self.results.to_dict()}


def trace(catalogue: Catalogue, name: str) -> Lineage:
    """The lineage of a record, an object or a model.

    Args:
        catalogue: where to look.
        name: its id, or a beginning of it that is unique.

    Raises:
        BadInput: the name stands for nothing, or for several things.
    """
    start = catalogue.find(name)
    return Lineage(_tree(catalogue, start, _up), _tree(catalogue, start, _down))


def _tree(catalogue: Catalogue, start: _Place, relatives: Callable[[Catalogue, _Place], list[_Place]]) -> Node:
    """The tree from `start`; each thing has its relatives where it is met first, so that it ends and stays small."""
    met: set[_Place] = set()

    def node(place: _Place, depth: int) -> Node:
        repeated = place in met
        met.add(place)
        found = [] if repeated else relatives(catalogue, place)
        followed = found[: WIDEST if len(met) < _MOST and depth < DEEPEST else 0]
        below = tuple(node(relative, depth + 1) for relative in followed)
        return replace(
            _described(catalogue, place), relatives=below, repeated=repeated, left_out=len(found) - len(below)
        )

    return node(start, 0)


def _described(catalogue: Catalogue, place: _Place) -> Node:
    """A thing without its relatives."""
    table, name = place
    if table == "records":
        record = catalogue.record(name)
        return Node(table, name, "record", record.patient, record.created, {"split": record.split})
    if table == "models":
        model = catalogue.model(name)
        return Node(table, name, model.kind, "", model.created, model.note)
    stored = catalogue.object(name)
    return Node(table, name, stored.kind, stored.patient, stored.created, stored.note)


def _up(catalogue: Catalogue, place: _Place) -> list[_Place]:
    """What a thing was made from."""
    table, name = place
    if table == "records":
        return []
    if table == "models":
        model = catalogue.model(name)
        parent = [("models", model.parent_model)] if model.parent_model else []
        return [*parent, *(("objects", one) for one in model.objects)]
    return [
        *(("records", record.id) for record in catalogue.records_with(name)),
        *(("objects", one) for one in catalogue.parents(name)),
    ]


def _down(catalogue: Catalogue, place: _Place) -> list[_Place]:
    """What was made from a thing."""
    table, name = place
    if table == "records":
        record = catalogue.record(name)
        return [("objects", one) for one in dict.fromkeys((record.image, record.report)) if one]
    if table == "models":
        return [("models", model.id) for model in catalogue.models() if model.parent_model == name]
    return [
        *(("models", model.id) for model in catalogue.models() if name in model.objects),
        *(("objects", one) for one in catalogue.children(name)),
    ]
