"""The FHIR form: every kind of event is a valid R4 AuditEvent and has what IHE asks for, by a table typed from IHE.

The codes below are copied from the standards, not from `audit.kinds`: HL7 FHIR R4 and its code systems, DICOM PS3.15
A.5.3 (which action each event id may have), IHE BALP (`Disclose.fsh`), IHE De-Identification Handbook.
"""

import base64
import itertools
import json
from copy import deepcopy

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.actor import Actor
from audit.errors import BadInput
from audit.events import KINDS, Event
from audit.fhir import DISCLOSURE, bundle, resources
from audit.reading import Logged
from tests.audit.test_events import events

ORIGIN = "cloche/log/6f0c2a91d3e47b58"
ACTOR = Actor("ada", "steward", 1000, "H-17")
DCM = "http://dicom.nema.org/resources/ontology/DCM"
ISO = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
ACTIONS = {
    "110100": "E", "110101": "R", "110106": "R", "110107": "C", "110110": "CRUDE", "110112": "E", "110113": "E",
    "110114": "E",
}  # fmt: skip
LIFECYCLE = {
    "access", "hold", "amend", "archive", "attest", "decrypt", "deidentify", "deprecate", "destroy", "disclose",
    "encrypt", "extract", "link", "merge", "originate", "pseudonymize", "reactivate", "receive", "reidentify",
    "unhold", "report", "restore", "transform", "transmit", "unlink", "unmerge", "verify",
}  # fmt: skip


def coded(resource, place, code):
    """Agents or entities whose type has this code."""
    found = []
    for one in resource.get(place, ()):
        codings = one.get("type", {}).get("coding", [one.get("type", {})])
        if any(coding.get("code") == code for coding in codings):
            found.append(one)
    return found


def one_with(place, code, *elements):
    """Exactly one agent or entity with this type, which has these elements."""

    def check(resource):
        found = coded(resource, place, code)
        return len(found) == 1 and all(element in found[0] for element in elements)

    return check


def is_source(resource):
    """BALP val-audit-source: the source agent is the one who recorded it."""
    return all(agent.get("who") == resource["source"]["observer"] for agent in coded(resource, "agent", "110153"))


def codes(resource, system):
    return {one["code"] for one in resource.get("subtype", ()) if one["system"] == system}


EVERY = {
    "type from DICOM": lambda r: r["type"]["system"] == DCM and r["type"]["code"] in ACTIONS,
    "the action that DICOM asks for": lambda r: r["action"] in ACTIONS[r["type"]["code"]],
    "lifecycle code exists": lambda r: codes(r, ISO) <= LIFECYCLE,
    "own subtype": lambda r: codes(r, "urn:cloche:event"),
    "recorded in UTC": lambda r: r["recorded"].endswith("Z"),
    "outcome": lambda r: r["outcome"] in {"0", "4", "8", "12"},
    "a failure says why": lambda r: r["outcome"] == "0" or r["outcomeDesc"],
    "purpose of event": lambda r: r["purposeOfEvent"][0]["coding"][0]["code"] in {"TREAT", "HRESCH", "HOPERAT"},
    "one requestor": lambda r: sum(agent["requestor"] for agent in r["agent"]) == 1,
    "the user with role, name, purpose of use": lambda r: all(
        {"who", "role", "name", "purposeOfUse"} <= agent.keys() and "network" not in agent
        for agent in r["agent"] if agent["requestor"]
    ),
    "a system beside the user": lambda r: any(
        agent.get("who") == r["source"]["observer"] and "network" in agent for agent in r["agent"]
    ),
    "source": lambda r: r["source"]["observer"]["identifier"]["value"] and r["source"]["site"] and r["source"]["type"],
    "at most one patient, as a person": lambda r: [e["role"]["code"] for e in coded(r, "entity", "1")] in ([], ["1"]),
    "some data": lambda r: any(e["role"]["code"] in {"4", "3", "20"} for e in coded(r, "entity", "2")),
    "name or query, not both": lambda r: not any({"name", "query"} <= entity.keys() for entity in r["entity"]),
}  # fmt: skip
"""What each resource must have: FHIR R4, and what BALP's patterns have in common."""
PATIENT = {
    "a patient by reference": lambda r: coded(r, "entity", "1")[0]["what"]["type"] == "Patient",
    "two entities": lambda r: len(r["entity"]) >= 2,
}
"""BALP: entity:patient 1..1, entity 2..*."""
EXPORTED = {
    "type and action": lambda r: (r["type"]["code"], r["action"]) == ("110106", "R"),
    "no modifier extension": lambda r: "modifierExtension" not in r,
    "agent 2..*": lambda r: len(r["agent"]) >= 2,
    "source agent": one_with("agent", "110153", "who", "network"),
    "the source recorded it": is_source,
    "custodian": one_with("agent", "159541003", "who"),
    **PATIENT,
}
"""What both profiles below ask for."""
DISCLOSED = {
    **EXPORTED,
    "subtype": lambda r: "disclose" in codes(r, ISO),
    "recipient agent": one_with("agent", "110152", "who", "network"),
    "profile": lambda r: r["meta"]["profile"] == [DISCLOSURE],
}
"""IHE.BasicAudit.PrivacyDisclosure.Source."""
DEIDENTIFIED = {
    **EXPORTED,
    "subtype": lambda r: len(codes(r, ISO) & {"deidentify", "pseudonymize", "reidentify"}) == 1,
    "for research": lambda r: r["purposeOfEvent"][0]["coding"][0]["code"] == "HRESCH",
    "algorithm": one_with("entity", "DeId-algorithm", "what"),
}
"""IHE.BasicAudit.DeIdentification.Source."""


def faults(resource, *tables):
    """Names of the requirements that a resource does not meet."""
    found = []
    for table in tables:
        for name, holds in table.items():
            try:
                if not holds(resource):
                    found.append(name)
            except (KeyError, IndexError, TypeError):
                found.append(name)
    return found


def valid(resource):
    """That FHIR's own model takes the resource, with no element that it does not know, and gives the same back."""
    again = json.loads(AuditEvent.model_validate(resource).model_dump_json())
    assert {**again, "recorded": ""} == {**resource, "recorded": ""}


def made(kind, patients=(), **fields):
    fields = {"detail": {"run": "r1", "kinds": {"image": 1}}, "objects": ("o1", "o2"), "reason": "by order", **fields}
    return Event(kind, ACTOR, "HRESCH", patients=patients, **fields).stamped()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("patients", [(), ("P-A",), ("P-A", "P-B", "P-C")], ids=len)
def test_every_kind_is_a_valid_audit_event(kind, patients):
    event = made(kind, patients)
    found = resources(event, 7, ORIGIN)
    assert len(found) == (4 if len(patients) > 1 else 1)
    for resource in found:
        valid(resource)
        about = coded(resource, "entity", "1")
        assert faults(resource, EVERY, PATIENT if about else {}) == []
        assert resource["recorded"] == event.at and resource["outcome"] == ("8" if KINDS[kind].fails else "0")
        assert codes(resource, "urn:cloche:event") == {kind}
        assert ("outcomeDesc" in resource) == KINDS[kind].fails
    named = [e["what"]["identifier"]["value"] for r in found for e in coded(r, "entity", "1")]
    assert named == list(patients)
    assert len({resource["id"] for resource in found}) == len(found)


@pytest.mark.parametrize("patients", [("P-A",), ("P-A", "P-B")], ids=len)
def test_a_disclosure_meets_balps_profile(patients):
    about = {"recipient": "Dr. No", "address": "Crab Key", "description": "two pictures", "to": "page.html"}
    found = resources(made("disclosure.made", patients, objects=(), detail=about), 7, ORIGIN)
    assert len(found) == len(patients)
    for resource in found:
        valid(resource)
        assert faults(resource, EVERY, DISCLOSED) == []
        (recipient,) = coded(resource, "agent", "110152")
        assert recipient["who"]["display"] == "Dr. No, page.html" and recipient["network"]["address"] == "Crab Key"
    (bare,) = resources(made("disclosure.made", ("P-A",), detail={}), 7, ORIGIN)
    assert faults(bare, EVERY, DISCLOSED) == []
    assert coded(bare, "agent", "110152")[0]["who"]["display"] == "not recorded"
    (nobody,) = resources(made("disclosure.made", ()), 7, ORIGIN)
    assert "meta" not in nobody  # the profile asks for a patient


def test_de_identification_meets_the_handbooks_profile():
    event = Event("record.deidentified", ACTOR, patients=("P-A",), objects=("o1",), detail={"method": "cloche rules 1"})
    (resource,) = resources(event.stamped(), 7, ORIGIN)
    valid(resource)
    assert faults(resource, EVERY, DEIDENTIFIED) == []
    assert resource["agent"][0]["purposeOfUse"][0]["coding"][0]["code"] == "HOPERAT"
    assert coded(resource, "agent", "110152") == []  # nobody received it


@pytest.mark.parametrize("element", ["type", "subtype", "action", "outcome", "agent", "source", "entity", "meta"])
def test_the_table_misses_what_is_missing(element):
    """Each element that the profile asks for is asked for by the table too."""
    (resource,) = resources(made("disclosure.made", ("P-A",)), 7, ORIGIN)
    del resource[element]
    assert faults(resource, EVERY, DISCLOSED) != []


@pytest.mark.parametrize(("place", "number"), [("agent", 0), ("agent", 1), ("agent", 2), ("entity", 0)])
def test_the_table_misses_an_agent_and_the_patient(place, number):
    (resource,) = resources(made("disclosure.made", ("P-A",)), 7, ORIGIN)
    del resource[place][number]
    assert faults(resource, EVERY, DISCLOSED) != []
    (broken,) = resources(made("disclosure.made", ("P-A",)), 7, ORIGIN)
    broken["agent"][1]["who"] = {"display": "somebody else"}
    assert "the source recorded it" in faults(broken, DISCLOSED)


def test_patients_learn_nothing_of_each_other():
    """Neither other patients nor objects, which may be theirs, nor a detail that lists several things."""
    *each, whole = resources(made("object.used", ("P-A", "P-B"), detail={"parents": {"o1": ["o9"]}, "n": 2}), 7, ORIGIN)
    for patient, resource in zip(("P-A", "P-B"), each, strict=True):
        text = json.dumps(resource)
        assert patient in text and not any(name in text for name in {"P-A", "P-B", "o1", "o2", "o9"} - {patient})
    text = json.dumps(whole)
    assert "o1" in text and "o9" in text and "P-A" not in text and "P-B" not in text
    details = {one["type"]: one["valueString"] for one in each[0]["entity"][-1]["detail"]}
    assert details["n"] == "2" and details["reason"] == "by order" and "parents" not in details
    assert len(resources(made("object.used", ("P-A", "P-B"), objects=(), detail={}), 7, ORIGIN)) == 2


def test_an_event_of_many_patients_and_objects_does_not_multiply():
    many = made("object.used", tuple(f"P-{i}" for i in range(500)), objects=tuple(f"o{i}" for i in range(500)))
    assert sum(len(json.dumps(one)) for one in resources(many, 7, ORIGIN)) < 2_000_000


def test_who_did_it_with_what_and_which_entry_says_so():
    event = Event("object.used", ACTOR, "TREAT", software="cloche 1 sha256:ab", detail={"before": "0" * 64}).stamped()
    (resource,) = resources(event, 41, ORIGIN)
    user, system = resource["agent"]
    assert user["who"]["identifier"]["value"] == "ada" and user["altId"] == "H-17" and user["requestor"]
    assert user["type"]["coding"][0]["code"] == "IRCP" and user["role"] == [{"text": "steward"}]
    assert user["purposeOfUse"][0]["coding"][0]["code"] == "TREAT"
    assert system["name"] == "cloche 1 sha256:ab" and system["type"]["coding"][0]["code"] == "110153"
    entry = resource["entity"][-1]
    assert entry["what"]["identifier"] == {"system": "urn:cloche:entry", "value": f"{ORIGIN}#41"}
    details = {one["type"]: one["valueString"] for one in entry["detail"]}
    assert details["actor-uid"] == "1000" and details["before"] == "0" * 64 and details["clock"] == event.clock


def test_a_refusal_says_why():
    (told,) = resources(Event("access.refused", ACTOR, reason="wrong passphrase").stamped(), 1, ORIGIN)
    assert (told["outcome"], told["outcomeDesc"], told["type"]["code"]) == ("8", "wrong passphrase", "110113")
    (silent,) = resources(Event("access.refused", ACTOR, outcome="minor").stamped(), 1, ORIGIN)
    assert silent["outcome"] == "4" and silent["outcomeDesc"]


def test_a_question_is_there_by_its_digest():
    (resource,) = resources(made("question.answered", ("P-A",), detail={"question": "ab" * 32}), 1, ORIGIN)
    (query,) = (entity for entity in resource["entity"] if "query" in entity)
    assert base64.b64decode(query["query"]).decode() == "sha256:" + "ab" * 32 and query["role"]["code"] == "24"
    valid(resource)


def test_an_import_names_where_it_came_from():
    (resource,) = resources(made("record.ingested", ("P-A",), detail={"source": "PACS 2"}), 1, ORIGIN)
    valid(resource)
    assert coded(resource, "agent", "110153")[0]["who"]["display"] == "PACS 2"
    assert coded(resource, "agent", "110152")[0]["who"] == resource["source"]["observer"]


@settings(max_examples=60)
@given(events, st.integers(0, 2**63 - 1), st.text(min_size=1, max_size=30))
def test_whatever_an_event_says_it_is_valid(event, sequence, origin):
    found = resources(event.stamped(), sequence, origin)
    for resource in found:
        valid(resource)
        assert faults(resource, EVERY) == []
        json.dumps(resource, ensure_ascii=False).encode()
    assert len({resource["id"] for resource in found}) == len(found) and len(found[0]["id"]) <= 64


def test_the_same_entry_has_the_same_ids_and_another_has_others():
    def ids(sequence, origin):
        return {one["id"] for one in resources(made("object.used", ("P-A", "P-B")), sequence, origin)}

    assert ids(7, ORIGIN) == ids(7, ORIGIN)
    assert len(ids(7, ORIGIN) | ids(71, ORIGIN) | ids(7, ORIGIN + "0")) == 9


def test_an_event_without_a_time_is_refused():
    with pytest.raises(BadInput):
        resources(Event("note", ACTOR), 7, ORIGIN)


def test_a_bundle_is_valid_and_comes_in_pieces():
    logged = [Logged(i, made(kind, ("P-A", "P-B")[: i % 3])) for i, kind in enumerate(sorted(KINDS))]
    logged.insert(3, Logged(999, None))  # sealed to another key
    text = "".join(bundle(logged, ORIGIN))
    assert text.endswith("\n")
    found = Bundle.model_validate(json.loads(text))
    expected = [one["id"] for event in logged if event.event for one in resources(event.event, event.sequence, ORIGIN)]
    assert found.type == "collection" and [one.resource.id for one in found.entry] == expected
    addresses = [one.fullUrl for one in found.entry]
    assert len(set(addresses)) == len(addresses) and all(one.startswith("urn:uuid:") for one in addresses)
    assert len(text.splitlines()) == len(expected) + 2


def test_a_bundle_of_nothing_is_valid():
    for logged in ([], [Logged(0, None)]):
        found = json.loads("".join(bundle(logged, ORIGIN)))
        assert "entry" not in found and Bundle.model_validate(found).type == "collection"


def test_a_bundle_does_not_wait_for_the_end_of_the_log():
    event = made("note")
    pieces = bundle((Logged(i, event) for i in itertools.count()), ORIGIN)
    assert len(list(itertools.islice(pieces, 1000))) == 1000


def test_a_resource_shares_nothing_with_another():
    """Whoever changes one resource changes no other."""
    first, second, _ = resources(made("object.used", ("P-A", "P-B")), 7, ORIGIN)
    before = deepcopy(second)
    first["source"]["observer"]["display"] = first["agent"][0]["role"][0]["text"] = "changed"
    assert second == before
