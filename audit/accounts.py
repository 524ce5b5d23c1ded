"""What the log says of objects: the events of storing, using and deleting them, cut to what an entry holds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from audit.events import Event
from audit.merkle import leaf_hash
from audit.merkle import root as merkle_root
from audit.rows import NewObject, StoredObject

_EVENT_BYTES = 48 * 1024
"""Bytes of ids in one event at most: an entry holds 64 KiB."""
LISTED_PARENTS = 200
"""An object with more parents has their count and Merkle root in its event; the catalogue has the list."""


def of_objects(event: Event, objects: Sequence[StoredObject]) -> list[Event]:
    """`event` about these objects: as many of it as their ids need."""
    groups = ([objects[i] for i in group] for group in _grouped(objects, [0] * len(objects), [""] * len(objects)))
    return [_about(event, chosen, {"kinds": _counts(chosen), **event.detail}) for chosen in groups]


def of_storing(event: Event, rows: Sequence[StoredObject], items: Sequence[NewObject]) -> list[Event]:
    """`event` about what was stored, of which patients, made from what, by which run: objects of one run an event."""
    events = []
    runs = [_run(one) for one in rows]
    for group in _grouped(rows, [min(len(item.parents), LISTED_PARENTS) for item in items], runs):
        chosen, run = [rows[i] for i in group], runs[group[0]]
        detail = {
            **({"run": run} if run else {}),
            "kinds": _counts(chosen),
            "ciphertexts": merkle_root(leaf_hash(f"{one.id} {one.digest}".encode()) for one in chosen).hex(),
            "parents": {rows[i].id: parents_named(items[i].parents) for i in group if items[i].parents},
        }
        events.append(_about(event, chosen, detail))
    return events


def parents_named(parents: Sequence[str]) -> list[str] | dict[str, Any]:
    """Parents as an event names them: a list, or for a long one its count and Merkle root over the sorted ids."""
    unique = sorted(set(parents))
    if len(unique) <= LISTED_PARENTS:
        return unique
    return {"count": len(unique), "root": merkle_root(leaf_hash(one.encode()) for one in unique).hex()}


def _about(event: Event, objects: Sequence[StoredObject], detail: Mapping[str, Any]) -> Event:
    """The event, about these objects and their patients."""
    patients = tuple(sorted({one.patient for one in objects if one.patient}))
    return replace(event, patients=patients, objects=tuple(one.id for one in objects), detail=detail)


def _grouped(objects: Sequence[StoredObject], parents: Sequence[int], runs: Sequence[str]) -> Iterator[list[int]]:
    """Indices of objects in groups of one run whose ids, patients and parents fit into one event."""
    group: list[int] = []
    held = 0
    for i, stored in enumerate(objects):
        cost = 30 + len(stored.patient) + 3 + (32 + 30 * parents[i] if parents[i] else 0)
        if group and (held + cost > _EVENT_BYTES or runs[i] != runs[group[0]]):
            yield group
            group, held = [], 0
        group.append(i)
        held += cost
    if group:
        yield group


def _run(stored: StoredObject) -> str:
    """The run that made an object, as its note says; empty where none did."""
    run = stored.note.get("run")
    return run if isinstance(run, str) else ""


def _counts(objects: Sequence[StoredObject]) -> dict[str, int]:
    """How many objects there are of each kind."""
    kinds = [one.kind for one in objects]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
