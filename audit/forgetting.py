"""Forgetting a patient: what goes, what is touched, and the events that say so.

Objects of the patient's alone die with the key. Shared objects that hold text or features (packed sets, completion
logs, parts of a synthesis, answers) are deleted, and their own keys with them. Models that learned from the patient
are retired, or kept by a decision with a reason; what they learned cannot be unlearned.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from audit import accounts, manifest
from audit.actor import Actor
from audit.bounds import line
from audit.catalogue import Catalogue, now
from audit.datasets import LEAVES
from audit.erasing import RETIRED
from audit.erasures import MARK, Erasures, Forgetting
from audit.errors import BadInput
from audit.events import Event
from audit.rows import StoredObject

if TYPE_CHECKING:
    from audit.vault import Vault

FIGURES = {LEAVES, "metrics", "manifest", "signature", "signing-key"}
"""Kinds that hold digests and figures only; they stay, so that proofs about what was go on to hold."""
WEIGHTS = {"adapter", "gguf", "mmproj", "base-gguf", "merged"}
"""Kinds of a model's files: they go or stay with their model."""


@dataclass(frozen=True)
class Plan:
    """What forgetting a patient means, before it is done."""

    patients: tuple[str, ...]
    """Pseudonyms of all identities of the patient."""
    own: tuple[str, ...]
    """Objects of the patient's alone: they become unreadable."""
    shared: tuple[str, ...]
    """Shared objects that are deleted: they hold text or features of the patient's, or are checkpoints."""
    weights: tuple[str, ...]
    """Files of the models that are touched."""
    runs: tuple[str, ...]
    """Runs that read something of the patient's, in order."""
    models: tuple[str, ...]
    """Models that learned from the patient, by their whole ancestry, in order."""
    others: tuple[str, ...]
    """Other patients whose work is lost with the shared objects; their own records stay."""
    older: int
    """Shared objects of an older format that are deleted, yet have no key of their own that could be destroyed."""
    forgotten_at: str = ""
    """When the patient was forgotten before this, UTC; empty where not."""


@dataclass(frozen=True)
class Forgotten:
    """What was done."""

    plan: Plan
    """What went."""
    kept: str
    """Why the models are kept; empty where they are retired."""
    entry: int
    """Place of the event in the log; -1 where nothing was done, as the patient had been forgotten."""


def identities(catalogue: Catalogue, patient: str) -> tuple[str, ...]:
    """All pseudonyms of one patient: those that were linked (`cloche records link`), and itself."""
    linked: Any = getattr(catalogue, "identities", None)
    return tuple(dict.fromkeys((patient, *(linked(patient) if linked else ()))))


def plan(vault: "Vault", patient: str, actor: Actor) -> Plan:
    """See what forgetting a patient would take away. The leaf lists of data sets are read for it, and that is logged.

    Raises:
        BadInput: the vault knows no such patient.
    """
    catalogue = vault.catalogue
    patients = identities(catalogue, patient)
    erased = [Erasures.load(vault.home).of(vault.mark(MARK, one.encode())) for one in patients]
    if all(erased):
        return Plan(patients, (), (), (), (), (), (), 0, max(one.at for one in erased if one))
    own = {object_id for one in patients for object_id in catalogue.all_of(one)}
    if not own and not any(catalogue.records(patient=one) for one in patients) and not any(erased):
        raise BadInput(
            "the vault knows no such patient",
            where=patient,
            hint="cloche records lists pseudonyms; - asks for a number",
        )
    touched = _Touched(catalogue, own, _data_sets(vault, patients, actor))
    weights = {one for model in touched.models for one in catalogue.model(model).objects}
    there = {one.id: one for one in catalogue.objects()}
    weights |= {one.id for one in _present(there, touched.objects - own) if one.kind in WEIGHTS}
    gone = [one for one in _present(there, touched.objects - own - weights) if one.kind not in FIGURES]
    sources = catalogue.relatives((one.id for one in gone if one.kind != "checkpoint"), up=True)
    others = {there[one].patient for one in sources if one in there} - {"", *patients}
    return Plan(
        patients,
        tuple(sorted(one.id for one in _present(there, own))),
        tuple(one.id for one in gone),
        tuple(one.id for one in _present(there, weights)),
        tuple(run.id for run in catalogue.runs() if run.id in touched.runs),
        tuple(model.id for model in catalogue.models() if model.id in touched.models),
        tuple(sorted(others)),
        sum(not one.patient and one.version < 2 for one in gone),
    )


def forget(vault: "Vault", patient: str, actor: Actor, *, keep_models: str = "") -> Forgotten:
    """Forget a patient and all linked identities; the vault must be open `alone`.

    The events are committed first. From then on it comes to its end, whatever is killed.

    Args:
        vault: the vault, in the process that has its keys.
        patient: a pseudonym.
        actor: who does it.
        keep_models: the reason for which models that learned from the patient are kept; empty: they are retired.

    Raises:
        BadInput: the vault knows no such patient, or the reason is too long.
        Refused: another process has the appliance open.
        EnvironmentProblem: the disk refuses; the next to open the appliance finishes it, or takes it back.
    """
    line("reason", keep_models, 200)
    custodian = vault.custodian
    custodian.ceremonies.require_alone()
    found = plan(vault, patient, actor)
    if found.forgotten_at:
        return Forgotten(found, "", -1)
    chosen = (*found.own, *found.shared, *(() if keep_models else found.weights))
    weights = set(found.weights)
    kept_runs = {vault.catalogue.model(one).run for one in found.models}
    wanted = Forgetting(
        custodian.new_vault_key(),
        found.patients,
        chosen,
        tuple(run for run in found.runs if not (keep_models and run in kept_runs)),
        () if keep_models else found.models,
        found.models if keep_models else (),
        keep_models,
        now(),
    )
    gone = [vault.catalogue.object(one) for one in chosen]
    entry = custodian.forget(wanted, _events(vault, found, gone, actor, keep_models, len(weights)))
    return Forgotten(found, keep_models, entry)


def _events(
    vault: "Vault", found: Plan, gone: list[StoredObject], actor: Actor, keep: str, weights: int
) -> list[Event]:
    """What the log says of it, in one commit; the first is about the patient."""
    numbers = {"objects": len(found.own), "shared": len(found.shared), "weights": 0 if keep else weights}
    detail = {**numbers, "models": len(found.models), "patients_beside": len(found.others)}
    first = Event("patient.forgotten", actor, patients=found.patients, activity="forget", detail=detail)
    deleted = accounts.of_objects(Event("object.deleted", actor, activity="forget"), gone)
    about: list[Event] = []
    for name in found.models:
        model = vault.catalogue.model(name)
        reason = keep or "it learned from a patient who was forgotten"
        kind = "model.kept" if keep else "model.retired"
        event = Event(kind, actor, activity="forget", reason=reason, detail={"model": name})
        about.append(replace(event, objects=model.objects))
    return [first, *deleted, *about]


class _Touched:
    """Runs, models and shared objects that something of a patient reached: what follows from what, to the end."""

    def __init__(self, catalogue: Catalogue, own: set[str], data_sets: set[str]) -> None:
        self._catalogue, self._data_sets = catalogue, data_sets
        self.objects = catalogue.relatives(own)
        self.runs: set[str] = set()
        self.models: set[str] = set()
        self._outputs: dict[str, set[str]] = {}
        for one in catalogue.objects():
            if not one.patient and "run" in one.note:
                self._outputs.setdefault(str(one.note["run"]), set()).add(one.id)
        size = -1
        while size != (size := len(self.objects) + len(self.runs) + len(self.models)):
            self._widen()

    def _widen(self) -> None:
        for run in self._catalogue.runs():
            outputs = self._outputs.get(run.id, set())
            named = {value for value in run.config.values() if isinstance(value, str)}
            named |= {value for value in run.result.values() if isinstance(value, str)}
            reached = bool(named & (self.objects | self.runs | self.models) or outputs & self.objects)
            if run.id not in self.runs and (reached or run.manifest_root in self._data_sets):
                self.runs.add(run.id)
                self.objects |= outputs
        for model in self._catalogue.models():
            reached = (
                not self.objects.isdisjoint(model.objects)
                or model.run in self.runs
                or model.parent_model in self.models
            )
            known = model.id in self.models or model.note.get("state") == RETIRED
            if not known and (reached or model.manifest_root in self._data_sets):
                self.models.add(model.id)
                self.objects |= set(model.objects)
        self.objects = self._catalogue.relatives(self.objects)


def _data_sets(vault: "Vault", patients: Iterable[str], actor: Actor) -> set[str]:
    """Roots, hex, of the data sets in which the patient is."""
    marks = {vault.patient_mark(one) for one in patients}
    lists = vault.catalogue.objects(LEAVES)
    if not lists:
        return set()
    found = set()
    with vault.use([one.id for one in lists], "HOPERAT", actor, "forget") as opened:
        for one in lists:
            leaves = manifest.from_bytes(opened.read(one.id))
            if any(leaf[: manifest.MARK_BYTES] in marks for leaf in leaves):
                found.add(str(one.note["root"]))
    return found


def _present(there: dict[str, StoredObject], object_ids: Iterable[str]) -> list[StoredObject]:
    return [there[one] for one in sorted(object_ids) if one in there]
