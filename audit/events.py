"""What an audit event says: who did what to which records, why, and how it ended.

An event becomes canonical JSON (sorted keys, no spaces, UTF-8) before it is padded and sealed; `to_fhir` gives the
HL7 FHIR R4 AuditEvent that hospital archives take in (profiled after IHE BALP).
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from audit.actor import Actor
from audit.errors import BadInput, Refused

SCHEMA = 1
"""Version of the event's JSON."""
PURPOSES: Mapping[str, str] = {
    "TREAT": "treatment",
    "HRESCH": "healthcare research",
    "HOPERAT": "healthcare operations",
}
"""Purposes of use (HL7 v3 ActReason) that may open the vault."""
OUTCOMES: Mapping[str, str] = {"success": "0", "minor": "4", "serious": "8", "major": "12"}
"""Outcome -> FHIR audit-event-outcome code."""

_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
_OWN = "urn:cloche:event"


@dataclass(frozen=True)
class Kind:
    """A kind of event and its place in the standards."""

    action: str
    """FHIR audit-event-action: C create, R read, U update, D delete, E execute."""
    type: str
    """DICOM event id: 110100 activity, 110101 log used, 110106 export, 110107 import, 110110 patient record."""
    lifecycle: str
    """ISO 21089 lifecycle event, or empty where there is none."""
    says: str
    """One line for a table."""


KINDS: Mapping[str, Kind] = {
    "appliance.created": Kind("C", "110100", "", "the appliance was made"),
    "appliance.checked": Kind("E", "110100", "", "the appliance checked itself"),
    "appliance.upgraded": Kind("U", "110100", "", "the software was upgraded"),
    "keys.changed": Kind("U", "110100", "", "a key or a recipient changed"),
    "heartbeat": Kind("E", "110100", "", "nothing happened; the log is alive"),
    "offline.proven": Kind("E", "110100", "", "a run was watched for network use"),
    "record.ingested": Kind("C", "110107", "originate", "a record came in"),
    "record.deidentified": Kind("C", "110106", "deidentify", "a record was de-identified"),
    "record.reviewed": Kind("U", "110110", "amend", "a person reviewed a record"),
    "record.refused": Kind("E", "110107", "", "a record was refused"),
    "object.stored": Kind("C", "110110", "originate", "objects were put into the vault"),
    "object.used": Kind("R", "110110", "access", "objects were opened"),
    "object.deleted": Kind("D", "110110", "destroy", "objects were deleted"),
    "patient.forgotten": Kind("D", "110110", "destroy", "a patient was forgotten"),
    "dataset.frozen": Kind("C", "110110", "transform", "a data set was frozen"),
    "run.started": Kind("E", "110100", "", "a run started"),
    "run.step": Kind("E", "110110", "transform", "a run took steps"),
    "run.finished": Kind("E", "110100", "", "a run ended"),
    "run.failed": Kind("E", "110100", "", "a run failed"),
    "model.stored": Kind("C", "110110", "transform", "a model was stored"),
    "model.evaluated": Kind("E", "110110", "transform", "a model was measured"),
    "model.exported": Kind("C", "110106", "transform", "a model was exported"),
    "model.signed": Kind("U", "110100", "attest", "a model was signed"),
    "model.loaded": Kind("E", "110110", "access", "a model was loaded"),
    "model.retired": Kind("U", "110100", "deprecate", "a model was retired"),
    "question.answered": Kind("E", "110110", "access", "a question was answered"),
    "disclosure.made": Kind("R", "110106", "disclose", "something left the vault on purpose"),
    "audit.read": Kind("R", "110101", "access", "the log was read"),
    "audit.exported": Kind("R", "110101", "extract", "the log was copied out"),
    "note": Kind("E", "110100", "", "a remark"),
}
"""Every kind of event there is."""


@dataclass(frozen=True)
class Event:
    """One thing that was done."""

    kind: str
    """A key of `KINDS`."""
    actor: Actor
    """Who did it."""
    purpose: str = "HOPERAT"
    """Why: a key of `PURPOSES`."""
    outcome: str = "success"
    """How it ended: a key of `OUTCOMES`."""
    patients: tuple[str, ...] = ()
    """Pseudonyms of the patients whose data it touched."""
    objects: tuple[str, ...] = ()
    """Ids of the objects, or of the records, that it touched."""
    activity: str = ""
    """What it was part of, in a few words: ``train``, ``ask`` ..."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Further facts as JSON values: counts, digests, run ids. It is sealed, yet no place for captions or names."""
    at: str = ""
    """UTC time, RFC 3339 with microseconds; the log fills it in."""
    clock: str = ""
    """Boot id and monotonic nanoseconds: order within one boot where the wall clock was set. The log fills it in."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"there is no kind of event called {self.kind!r}", where="audit/events.py, KINDS")
        if self.purpose not in PURPOSES:
            raise Refused(
                f"there is no purpose of use called {self.purpose!r}", hint=f"name one of {', '.join(PURPOSES)}"
            )
        if self.outcome not in OUTCOMES:
            raise BadInput(f"there is no outcome called {self.outcome!r}", where="audit/events.py, OUTCOMES")

    def stamped(self) -> "Event":
        """The event with its time, if it has none yet."""
        if self.at:
            return self
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return replace(self, at=now, clock=f"{_boot_id()} {time.monotonic_ns()}")

    def encode(self) -> bytes:
        """Canonical JSON of the event. Raises BadInput where `detail` is no JSON."""
        found = {"schema": SCHEMA, **self.to_dict()}
        try:
            text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            return text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput(f"an event's detail cannot be written as JSON: {error}", where=self.kind) from error

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON values."""
        return {
            "kind": self.kind,
            "actor": {"user": self.actor.user, "role": self.actor.role},
            "purpose": self.purpose,
            "outcome": self.outcome,
            "patients": list(self.patients),
            "objects": list(self.objects),
            "activity": self.activity,
            "detail": dict(self.detail),
            "at": self.at,
            "clock": self.clock,
        }

    @classmethod
    def decode(cls, data: bytes) -> "Event":
        """The event of `encode`'s bytes. Raises BadInput where they are not one."""
        try:
            found = json.loads(data)
            if found["schema"] != SCHEMA:
                raise BadInput(
                    f"the event has schema {found['schema']}, this version reads {SCHEMA}",
                    hint="read the log with the version of Cloche that wrote it",
                )
            return cls(
                kind=found["kind"],
                actor=Actor(found["actor"]["user"], found["actor"]["role"]),
                purpose=found["purpose"],
                outcome=found["outcome"],
                patients=tuple(found["patients"]),
                objects=tuple(found["objects"]),
                activity=found["activity"],
                detail=found["detail"],
                at=found["at"],
                clock=found["clock"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput("these bytes are not an audit event") from error

    def to_fhir(self) -> dict[str, Any]:
        """The event as an HL7 FHIR R4 AuditEvent (IHE BALP: agents, patient and data entities, no content)."""
        kind = KINDS[self.kind]
        subtypes = [{"system": _OWN, "code": self.kind, "display": kind.says}]
        if kind.lifecycle:
            subtypes.insert(0, {"system": _LIFECYCLE, "code": kind.lifecycle})
        purpose = [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
                        "code": self.purpose,
                        "display": PURPOSES[self.purpose],
                    }
                ]
            }
        ]
        resource: dict[str, Any] = {
            "resourceType": "AuditEvent",
            "type": {"system": _DCM, "code": kind.type},
            "subtype": subtypes,
            "action": kind.action,
            "recorded": self.at,
            "outcome": OUTCOMES[self.outcome],
            "purposeOfEvent": purpose,
            "agent": [
                {
                    "role": [{"text": self.actor.role}],
                    "who": {"identifier": {"value": self.actor.user}},
                    "requestor": True,
                    "purposeOfUse": purpose,
                }
            ],
            "source": {
                "observer": {"display": "Cloche"},
                "type": [{"system": "http://terminology.hl7.org/CodeSystem/security-source-type", "code": "4"}],
            },
        }
        entities = [_entity(patient, "1", "1", "urn:cloche:pseudonym") for patient in self.patients]
        entities += [_entity(name, "2", "4", "urn:cloche:object") for name in self.objects]
        details = [{"type": key, "valueString": _text(value)} for key, value in sorted(self.detail.items())]
        if self.activity:
            details.insert(0, {"type": "activity", "valueString": self.activity})
        if details:
            entities.append({"type": _coding("audit-entity-type", "4"), "detail": details})
        if entities:
            resource["entity"] = entities
        return resource


def _entity(value: str, type_code: str, role: str, system: str) -> dict[str, Any]:
    """A FHIR AuditEvent entity: type 1 person or 2 system object; role 1 patient or 4 domain resource."""
    return {
        "what": {"identifier": {"system": system, "value": value}},
        "type": _coding("audit-entity-type", type_code),
        "role": _coding("object-role", role),
    }


def _coding(system: str, code: str) -> dict[str, str]:
    return {"system": f"http://terminology.hl7.org/CodeSystem/{system}", "code": code}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


@cache
def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"
