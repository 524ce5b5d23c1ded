"""Events as HL7 FHIR R4 AuditEvents, the form that hospital archives take in.

The patterns are IHE BALP's: who asked (with the purpose of use) and which system did it are agents; the patient, the
objects and the entry of the log are entities; several patients make several resources, so that none tells one
patient's archive of another. Disclosures follow BALP's `PrivacyDisclosure.Source`, de-identification the IHE
De-Identification Handbook. What we leave out: the profiles for REST calls, for there is no network and no token.

Source: https://profiles.ihe.net/ITI/BALP ; https://profiles.ihe.net/ITI/DeId ; https://hl7.org/fhir/R4/auditevent.html
"""

import base64
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from audit.errors import BadInput
from audit.events import Event
from audit.kinds import KINDS, LIFECYCLE, OUTCOMES, PURPOSES, SUBTYPES, TYPES, Kind
from audit.reading import Logged

DISCLOSURE = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PrivacyDisclosure.Source"
"""Profile that a disclosure of one patient's data claims to meet."""
_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
_ALGORITHM = "https://profiles.ihe.net/ITI/DeId/CodeSystem/DeIdentificationEntityType"
_OWN = "urn:cloche:event"
_EXPORT, _IMPORT = "110106", "110107"
_ENTITY = {"1": "Person", "2": "System Object"}
_ROLE = {"1": "Patient", "4": "Domain Resource", "20": "Job", "24": "Query"}
_AUTHOR = ("AUT", "author (originator)")
_USER = {"R": ("IRCP", "information recipient"), "C": _AUTHOR, "U": _AUTHOR, "D": _AUTHOR}
"""Action -> what BALP calls the user who asked for it; none where something was merely executed."""


def resources(event: Event, sequence: int, origin: str) -> list[dict[str, Any]]:
    """The AuditEvents of one event of the log.

    An event of one patient or none is one resource. One of several patients is one resource for each patient, then,
    where the event names objects or has long details, one more without a patient that lists them: the event does not
    say which object is whose.

    Args:
        event: as read from the log.
        sequence: its place there.
        origin: the log's name. Ids are made of origin and sequence: the same entry gives the same ids each time.

    Raises:
        BadInput: the event was never in a log: it has no time.
    """
    if not event.at:
        raise BadInput("an event without a time was never in a log", where=f"entry {sequence}")
    name = f"{sha256(origin.encode()).hexdigest()[:16]}-{sequence}"
    long = {key: value for key, value in event.detail.items() if isinstance(value, (list, tuple, Mapping))}
    short = {key: value for key, value in event.detail.items() if key not in long}
    if len(event.patients) <= 1:
        return [_resource(event, sequence, origin, name, event.patients, event.objects, event.detail)]
    found = [
        _resource(event, sequence, origin, f"{name}-{number}", (patient,), (), short)
        for number, patient in enumerate(event.patients, 1)
    ]
    if event.objects or long:
        found.append(_resource(event, sequence, origin, name, (), event.objects, event.detail))
    return found


def bundle(logged: Iterable[Logged], origin: str) -> Iterator[str]:
    """A FHIR Bundle (type collection) in pieces of text, one entry a line: a log may hold more than memory does.

    Events that are sealed to other keys are left out. Raises as `resources`.
    """
    yield '{"resourceType": "Bundle", "type": "collection"'
    empty = True
    for one in logged:
        for resource in resources(one.event, one.sequence, origin) if one.event else ():
            address = uuid.uuid5(uuid.NAMESPACE_URL, f"{origin}#{resource['id']}").urn
            entry = json.dumps({"fullUrl": address, "resource": resource}, ensure_ascii=False)
            yield (', "entry": [\n' if empty else ",\n") + entry
            empty = False
    yield "}\n" if empty else "\n]}\n"  # FHIR knows no empty list


def _resource(
    event: Event,
    sequence: int,
    origin: str,
    name: str,
    patients: tuple[str, ...],
    objects: tuple[str, ...],
    detail: Mapping[str, Any],
) -> dict[str, Any]:
    """One AuditEvent, about one patient or none."""
    kind = KINDS[event.kind]
    appliance = {
        "type": "Device",
        "identifier": {"system": "urn:cloche:log", "value": _text(origin)},
        "display": "Cloche",
    }
    made: dict[str, Any] = {"resourceType": "AuditEvent", "id": name}
    if kind.lifecycle == "disclose" and patients:
        made["meta"] = {"profile": [DISCLOSURE]}
    made |= {
        "type": {"system": _DCM, "code": kind.type, "display": TYPES[kind.type]},
        "subtype": _subtypes(event.kind, kind),
        "action": kind.action,
        "recorded": event.at,
        "outcome": OUTCOMES[event.outcome],
    }
    if event.outcome != "success":
        made["outcomeDesc"] = _text(event.reason or f"{kind.says}; no reason was given")
    made["purposeOfEvent"] = _purpose(kind.purpose or event.purpose)
    made["agent"] = [_user(event, kind), *_systems(event, kind, appliance, origin)]
    made["source"] = {
        "site": _text(origin),
        "observer": appliance,
        "type": [_coding("security-source-type", "4", "Application Server")],
    }
    made["entity"] = [
        *(_entity("1", "1", "urn:cloche:pseudonym", patient, "Patient") for patient in patients),
        *(_entity("2", "4", "urn:cloche:object", one) for one in objects),
        *_asked(detail),
        *_method(detail),
        {
            **_entity("2", "20", "urn:cloche:entry", f"{origin}#{sequence}"),
            "description": kind.says,
            "detail": list(_details(event, detail)),
        },
    ]
    return made


def _subtypes(name: str, kind: Kind) -> list[dict[str, str]]:
    """What happened, in the words of ISO 21089, of DICOM, and our own."""
    found = []
    if kind.lifecycle:
        found.append({"system": _LIFECYCLE, "code": kind.lifecycle, "display": LIFECYCLE[kind.lifecycle]})
    if kind.subtype:
        found.append({"system": _DCM, "code": kind.subtype, "display": SUBTYPES[kind.subtype]})
    return [*found, {"system": _OWN, "code": name, "display": kind.says}]


def _user(event: Event, kind: Kind) -> dict[str, Any]:
    """The agent who asked for it. Of a disclosure and of de-identification it is the custodian of the data."""
    actor = event.actor
    agent: dict[str, Any] = {}
    if kind.type == _EXPORT:
        agent["type"] = _concept("http://snomed.info/sct", "159541003", "Record keeping/library clerk")
    elif kind.action in _USER:
        agent["type"] = _concept(_PARTICIPATION, *_USER[kind.action])
    agent["role"] = [{"text": _text(actor.role)}]
    agent["who"] = {"identifier": {"system": "urn:cloche:account", "value": _text(actor.user)}}
    if actor.hospital_id:
        agent["altId"] = _text(actor.hospital_id)
    return {**agent, "name": _text(actor.user), "requestor": True, "purposeOfUse": _purpose(event.purpose)}


def _systems(event: Event, kind: Kind, appliance: dict[str, Any], origin: str) -> Iterator[dict[str, Any]]:
    """The appliance as an agent, and where data went or came from."""
    role = {"R": ("110153", "Source Role ID"), "C": ("110152", "Destination Role ID")}
    yield {
        "type": _concept(_DCM, *role.get(kind.action, ("110150", "Application"))),
        "who": appliance,
        "name": _text(event.software or "Cloche"),
        "requestor": False,
        "network": {"address": _text(origin), "type": "1"},  # no network: the log's name is the machine's only name
    }
    named = [str(event.detail[key]) for key in ("recipient", "to") if event.detail.get(key)]
    if kind.type == _EXPORT and (named or kind.lifecycle != "deidentify"):
        yield {
            "type": _concept(_DCM, "110152", "Destination Role ID"),
            "who": {"display": _text(", ".join(named) or "not recorded")},
            "requestor": False,
            "network": {"address": _text(event.detail.get("address") or "not on a network")},
        }
    if kind.type == _IMPORT and event.detail.get("source"):
        yield {
            "type": _concept(_DCM, "110153", "Source Role ID"),
            "who": {"display": _text(event.detail["source"])},
            "requestor": False,
            "network": {"address": "not on a network"},
        }


def _asked(detail: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The question that was asked, by its digest: BALP's minimal pattern keeps queries and never results."""
    if detail.get("question"):
        yield {
            "type": _coding("audit-entity-type", "2", _ENTITY["2"]),
            "role": _coding("object-role", "24", _ROLE["24"]),
            "description": "SHA-256 of the question; its words are not in the log",
            "query": base64.b64encode(f"sha256:{detail['question']}".encode()).decode(),
        }


def _method(detail: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The way of de-identification, as the IHE handbook wants it named."""
    if detail.get("method"):
        yield {
            "what": {"identifier": {"system": "urn:cloche:method", "value": _text(detail["method"])}},
            "type": {"system": _ALGORITHM, "code": "DeId-algorithm", "display": "De-Identification Algorithm"},
        }


def _details(event: Event, detail: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What else the event says, as pairs of text."""
    own = {
        "activity": event.activity,
        "reason": event.reason,
        "actor-uid": "" if event.actor.uid is None else str(event.actor.uid),
        "clock": event.clock,
    }
    for key, value in own.items():
        if value:
            yield {"type": key, "valueString": _text(value)}
    for key, value in sorted(detail.items()):
        yield {"type": _text(key), "valueString": _text(value)}


def _entity(type_: str, role: str, system: str, value: str, resource: str = "") -> dict[str, Any]:
    """An entity by its identifier; nothing of its content."""
    what: dict[str, Any] = {"type": resource} if resource else {}
    return {
        "what": {**what, "identifier": {"system": system, "value": _text(value)}},
        "type": _coding("audit-entity-type", type_, _ENTITY[type_]),
        "role": _coding("object-role", role, _ROLE[role]),
    }


def _purpose(code: str) -> list[dict[str, Any]]:
    return [_concept(_REASON, code, PURPOSES[code])]


def _concept(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _coding(name: str, code: str, display: str) -> dict[str, str]:
    return {"system": f"http://terminology.hl7.org/CodeSystem/{name}", "code": code, "display": display}


def _text(value: object) -> str:
    """A value as a string that FHIR allows: never empty or blank, without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    clean = text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if clean.strip() else json.dumps(clean)
