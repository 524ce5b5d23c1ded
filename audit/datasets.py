"""Data sets frozen: their leaf lists kept in the vault, so that presence and absence can be proved long afterwards."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from audit import manifest
from audit.actor import Actor
from audit.events import Event

if TYPE_CHECKING:
    from audit.vault import Vault

LEAVES = "leaves"
"""Kind of the object that holds a manifest's leaf list; its note names the root."""


def freeze(vault: "Vault", object_ids: Iterable[str], *, actor: Actor, activity: str) -> bytes:
    """Root of the data set of these objects, 32 bytes; its leaf list is kept and its root logged, once.

    The list's note names the entry of the log that froze it, so that a proof can point there.

    Raises:
        BadInput: there is no such object. EnvironmentProblem: the disk refuses.
    """
    leaves = vault.manifest_leaves(object_ids)
    root = manifest.root_of(leaves)
    if not any(kept.note.get("root") == root.hex() for kept in vault.catalogue.objects(LEAVES)):
        note: dict[str, str | int | float] = {"root": root.hex(), "members": len(leaves) - 2}
        entry = vault.record(Event("dataset.frozen", actor, "HRESCH", activity=activity, detail=note))
        vault.put(LEAVES, manifest.to_bytes(leaves), actor=actor, note={**note, "entry": entry}, activity=activity)
    return root


def places(vault: "Vault", object_ids: Iterable[str]) -> dict[str, int]:
    """Place of each object in the leaf list of their data set, by id; the sentinel before them has place 0."""
    objects = [vault.catalogue.object(object_id) for object_id in dict.fromkeys(object_ids)]
    items = manifest.items(objects, vault.patient_mark)
    at = {leaf: place for place, leaf in enumerate(manifest.leaves(items))}
    return {stored.id: at[item.mark + item.commitment] for stored, item in zip(objects, items, strict=True)}


def leaf_lists(vault: "Vault", *, actor: Actor, activity: str) -> Iterator[bytes]:
    """The leaf lists of all frozen data sets; their use is logged first. Raises as `Vault.use`."""
    kept = [stored.id for stored in vault.catalogue.objects(LEAVES)]
    if kept:
        with vault.use(kept, "HOPERAT", actor, activity) as opened:
            for object_id in kept:
                yield opened.read(object_id)
