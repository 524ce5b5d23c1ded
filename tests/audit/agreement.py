"""The catalogue's lineage held against the log's: every fact that either states, by what it is about."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from audit.accounts import parents_named
from audit.catalogue import Catalogue
from audit.datasets import LEAVES
from audit.home import CATALOGUE, LOG
from audit.keys import KeyPair
from audit.reading import Logged, read
from audit.verify import verify

Facts = dict[tuple[str, str, str], Any]
"""(what, id, fact) -> value."""


def of_log(events: Iterable[Logged]) -> Facts:
    """What the events state."""
    found: Facts = {}
    for logged in events:
        event = logged.event
        assert event is not None
        detail = event.detail
        if event.kind == "object.stored":
            for one in event.objects:
                found["object", one, "parents"] = detail["parents"].get(one, [])
                found["object", one, "run"] = detail.get("run", "")
                found["object", one, "kind"] = one in event.objects and sorted(detail["kinds"])
                found["object", one, "patients"] = sorted(event.patients)
        elif event.kind == "object.deleted":
            found.update({("object", one, "deleted"): True for one in event.objects})
        elif event.kind == "record.ingested":
            name, *parts = event.objects
            found["record", name, "patient"], found["record", name, "parts"] = event.patients[0], parts
        elif event.kind == "run.started":
            found["run", detail["run"], "manifest"], found["run", detail["run"], "kind"] = (
                detail["manifest"],
                event.activity,
            )
        elif event.kind == "run.finished":
            found["run", detail["run"], "done"] = True
        elif event.kind == "dataset.frozen":
            found["manifest", detail["root"], str(logged.sequence)] = detail["members"]
        elif event.kind == "model.stored":
            name = detail["model"]
            for fact in ("run", "manifest", "type"):
                found["model", name, fact] = detail[fact]
            found["model", name, "parent"], found["model", name, "objects"] = (
                detail.get("parent", ""),
                list(event.objects),
            )
    return found


def of_catalogue(home: Path) -> Facts:
    """The same facts in the catalogue's words; an object's kind and patient are held against the lists of its event."""
    catalogue, found = Catalogue(home / CATALOGUE), Facts()
    try:
        ids = [row["id"] for row in catalogue._rows("SELECT id FROM objects")]
        for stored in map(catalogue.object, ids):
            found["object", stored.id, "parents"] = parents_named(catalogue.parents(stored.id))
            found["object", stored.id, "run"] = stored.note.get("run", "")
            found["object", stored.id, "kind"], found["object", stored.id, "patients"] = stored.kind, stored.patient
            if stored.deleted:
                found["object", stored.id, "deleted"] = True
        for record in catalogue.records():
            found["record", record.id, "patient"] = record.patient
            found["record", record.id, "parts"] = [record.image, record.report]
        for run in catalogue.runs():
            found["run", run.id, "manifest"], found["run", run.id, "kind"] = run.manifest_root, run.kind
            if run.state == "done":
                found["run", run.id, "done"] = True
        for stored in catalogue.objects(LEAVES):
            found["manifest", str(stored.note["root"]), str(stored.note["entry"])] = stored.note["members"]
        for model in catalogue.models():
            told = {"run": model.run, "manifest": model.manifest_root, "type": model.kind, "parent": model.parent_model}
            found.update({("model", model.id, fact): value for fact, value in told.items()})
            found["model", model.id, "objects"] = list(model.objects)
    finally:
        catalogue.close()
    return found


def differences(home: Path, pair: KeyPair) -> tuple[list[str], list[str]]:
    """What the catalogue states and the log does not, and the other way round."""
    log = of_log(read(home / LOG, pair, verify(home / LOG).size))
    catalogue = of_catalogue(home)

    def says(fact: tuple[str, str, str], value: Any) -> bool:
        if fact not in log:
            return False
        if fact[2] in ("kind", "patients") and fact[0] == "object":  # an event lists those of all its objects
            return value in log[fact] or value == ""
        return bool(log[fact] == value)

    unlogged = [f"{fact}: {value}" for fact, value in catalogue.items() if not says(fact, value)]
    return unlogged, [f"{fact}: {value}" for fact, value in log.items() if fact not in catalogue]
