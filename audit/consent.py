"""What a person says about records and patients: consent, its end, its withdrawal; two identities that are one person.

Each is an event first. Consent is a record's; a link joins pseudonyms, and `Catalogue.identities` gives all of one
person's. A link changes no key and no manifest: objects stay under the patient's key that they were sealed under, and
data sets that were frozen keep their marks. Whoever looks for a patient looks for all identities.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from audit.actor import Actor
from audit.catalogue import now
from audit.errors import BadInput, Refused
from audit.events import Event
from audit.policy import WITHDRAWN, check_date, tags_of

if TYPE_CHECKING:
    from audit.vault import Vault

LINKERS, UNDOERS = ("steward", "officer"), ("officer",)
"""Who may link two identities, and who may undo it."""
_IDS = 400
"""Records of one event at most."""


def set_consent(
    vault: "Vault",
    record_ids: Sequence[str],
    actor: Actor,
    *,
    tags: Sequence[str] | None = None,
    expires: str | None = None,
    withdraw: bool = False,
) -> int:
    """Enter consent for records; return how many.

    Args:
        vault: the engine.
        record_ids: records.
        actor: who enters it.
        tags: consent tags that take the place of those before; None leaves them.
        expires: last day on which it holds; empty for no end, None leaves it.
        withdraw: the patient said no: the records may not be used until tags are entered anew.

    Raises:
        BadInput: a record, tag or day is unknown or malformed, or nothing is said. Refused: the policy forbids it.
    """
    policy = vault.guard.permit(actor, "consent")
    if (tags is None and expires is None and not withdraw) or (tags and withdraw):
        raise BadInput("say either consent tags, a day on which they end, or that it is withdrawn", where="consent")
    said = WITHDRAWN if withdraw else None if tags is None else tags_of(tags, policy.tags)
    until = check_date(expires) if expires else expires
    records = [vault.catalogue.record(one) for one in dict.fromkeys(record_ids)]
    events = []
    for start in range(0, len(records), _IDS):
        part = records[start : start + _IDS]
        patients = tuple(sorted({one.patient for one in part}))
        detail = {key: value for key, value in (("consent", said), ("expires", until)) if value is not None}
        objects = tuple(one.id for one in part)
        events.append(
            Event("record.consented", actor, patients=patients, objects=objects, activity="consent", detail=detail)
        )
    vault.record_many(events)
    with vault.catalogue.transaction():
        for one in records:
            values = (one.consent if said is None else said, one.expires if until is None else until, one.id)
            vault.catalogue.change("UPDATE records SET consent = ?, expires = ? WHERE id = ?", *values)
    return len(records)


def link(vault: "Vault", one: str, other: str, actor: Actor, *, undo: bool = False) -> tuple[str, ...]:
    """Make two identities one person's, or undo that; return all identities of the first.

    Args:
        vault: the engine.
        one: pseudonym.
        other: pseudonym.
        actor: the steward or officer who found it out; only an officer undoes it.
        undo: take back what was linked by mistake.

    Raises:
        BadInput: a patient is unknown, they are one already, or were not linked with one another.
        Refused: this role may not, or the policy forbids it.
    """
    activity = "unlink" if undo else "link"
    vault.guard.permit(actor, activity)
    allowed = UNDOERS if undo else LINKERS
    if actor.role not in allowed:
        raise Refused(f"a {actor.role} may not do this", where=activity, hint=f"ask an {allowed[-1]}")
    pair = tuple(sorted((one, other)))
    for patient in pair:
        if not vault.catalogue.records(patient=patient):
            raise BadInput("the vault holds no record of one of these patients", where=activity, hint="cloche records")
    with vault.catalogue.transaction():
        direct = vault.catalogue.select("SELECT 1 FROM links WHERE one = ? AND other = ?", *pair)
        if undo and not direct:
            raise BadInput(
                "these two were not linked with one another", where=activity, hint="cloche records --json shows links"
            )
        if not undo and other in vault.catalogue.identities(one):
            raise BadInput("these two are one patient already", where=activity, hint="cloche records")
        kind = "patient.unlinked" if undo else "patient.linked"
        vault.record(Event(kind, actor, patients=pair, activity=activity, detail={"splits": splits(vault, pair)}))
        if undo:
            vault.catalogue.change("DELETE FROM links WHERE one = ? AND other = ?", *pair)
        else:
            vault.catalogue.change("INSERT INTO links VALUES (?, ?, ?)", *pair, now())
    return vault.catalogue.identities(one)


def splits(vault: "Vault", patients: Sequence[str]) -> Mapping[str, int]:
    """How many records of these patients are in each split: one person on both sides flatters every figure."""
    found = [one.split for patient in patients for one in vault.catalogue.records(patient=patient)]
    return {split: found.count(split) for split in sorted(set(found))}
