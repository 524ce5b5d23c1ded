"""Events: what is written is what is read, and what cannot be an event is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.actor import Actor
from audit.entry import SIZES, pad, size_class_of, unpad
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.events import KINDS, OUTCOMES, PURPOSES, Event

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
events = st.builds(
    Event,
    kind=st.sampled_from(sorted(KINDS)),
    actor=st.builds(Actor, text, text),
    purpose=st.sampled_from(sorted(PURPOSES)),
    outcome=st.sampled_from(sorted(OUTCOMES)),
    patients=st.lists(text, max_size=3).map(tuple),
    objects=st.lists(text, max_size=3).map(tuple),
    activity=text,
    detail=st.dictionaries(text, plain, max_size=4),
)


@given(events)
def test_what_is_written_is_what_is_read(event):
    stamped = event.stamped()
    assert Event.decode(stamped.encode()) == stamped
    assert stamped.encode() == Event.decode(stamped.encode()).encode()
    assert stamped.at.endswith("Z") and stamped.stamped() == stamped


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_bad_input(data):
    with pytest.raises(BadInput):
        Event.decode(data)


@given(events, st.data())
def test_a_cut_event_is_bad_input(event, data):
    encoded = event.encode()
    with pytest.raises(BadInput):
        Event.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_unknown_kinds_purposes_outcomes_and_details_are_refused():
    actor = Actor("a", "b")
    with pytest.raises(BadInput):
        Event("object.misused", actor)
    with pytest.raises(Refused):
        Event("object.used", actor, purpose="CURIOSITY")
    with pytest.raises(BadInput):
        Event("object.used", actor, outcome="fine")
    with pytest.raises(BadInput):
        Event("note", actor, detail={"x": object()}).encode()
    with pytest.raises(BadInput):
        Event("note", actor, detail={"x": float("nan")}).encode()
    with pytest.raises(BadInput):
        Event("note", actor, detail={"x": "\ud800"}).encode()
    newer = json.loads(Event("note", actor).encode()) | {"schema": 2}
    with pytest.raises(BadInput, match="schema 2"):
        Event.decode(json.dumps(newer).encode())


@given(st.binary(max_size=5000))
def test_padding_is_undone_and_hides_the_length(data):
    size_class = size_class_of(len(data))
    padded = pad(data, size_class)
    assert len(padded) == SIZES[size_class] and unpad(padded) == data
    assert size_class == 0 or len(data) + 4 > SIZES[size_class - 1]


@pytest.mark.parametrize("bad", [b"\0\0\4\1" + b"\0" * 1020, b"\0\0\0\1a" + b"\0" * 1018 + b"\1", b"\xff" * 1024])
def test_padding_that_hides_something_is_refused(bad):
    with pytest.raises(IntegrityFailure):
        unpad(bad)


def test_an_event_longer_than_an_entry_is_refused():
    assert size_class_of(65536 - 4) == 6
    with pytest.raises(BadInput, match="manifest"):
        size_class_of(65536 - 3)


@given(events)
def test_the_fhir_form_has_what_the_standard_requires(event):
    """FHIR R4: type, recorded, agent with requestor and source with observer must be there; codes from their sets."""
    found = event.stamped().to_fhir()
    json.dumps(found)
    assert found["resourceType"] == "AuditEvent" and found["type"]["code"].startswith("110")
    assert found["action"] in "CRUDE" and found["outcome"] in ("0", "4", "8", "12")
    assert found["agent"][0]["requestor"] is True and found["source"]["observer"]
    patients = [e for e in found.get("entity", ()) if e.get("role", {}).get("code") == "1"]
    assert [e["what"]["identifier"]["value"] for e in patients] == list(event.patients)
    assert all(d["valueString"] is not None for e in found.get("entity", ()) for d in e.get("detail", ()))
