"""Models as the log and the catalogue both know them: the event first, then the row."""

from collections.abc import Mapping, Sequence
from typing import Any

from audit.actor import Actor
from audit.catalogue import new_id
from audit.events import Event
from audit.rows import Model, Run
from audit.vault import Vault


def store_model(
    vault: Vault, kind: str, objects: Sequence[str], run: Run, *, actor: Actor, parent: str, note: Mapping[str, Any]
) -> Model:
    """Add what a run made as a model; that it is there is an event before it is a row.

    Args:
        kind: ``adapter``, ``gguf`` ...
        objects: its files, the main one first.
        run: what made it; the model's manifest is the run's.
        parent: id of the model that it was made from; empty for a base's first.
        note: plain metadata; digests of its files among it.

    Raises:
        BadInput: an object or the parent is unknown. Else as `Vault.record`.
    """
    name = new_id("model-")
    for one in objects:
        vault.catalogue.object(one)
    parents = {"parent": vault.catalogue.model(parent).id} if parent else {}
    detail = {"model": name, "run": run.id, "manifest": run.manifest_root, "type": kind, **parents}
    digests = {key: note[key] for key in ("base", "sha256") if key in note}
    vault.record(
        Event("model.stored", actor, "HRESCH", activity=run.kind, objects=tuple(objects), detail=detail | digests)
    )
    return vault.catalogue.add_model(
        kind, objects, parent_model=parent, manifest_root=run.manifest_root, run=run.id, note=note, id=name
    )
