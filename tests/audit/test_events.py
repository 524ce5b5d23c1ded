"""Events: what is written is what is read, and what cannot be an event is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.actor import Actor
from audit.entry import SIZES, pad, size_class_of, unpad
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.events import DETAIL, KINDS, OUTCOMES, PURPOSES, Event
from audit.kinds_page import page

ROOT = Path(__file__).parents[2]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
line = st.text(st.characters(categories=["L", "M", "N", "P", "S"], include_characters=" "), max_size=30)
word = line.filter(str.strip)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
detail = st.dictionaries(text.filter(lambda key: key not in DETAIL), plain, max_size=4) | st.fixed_dictionaries(
    {}, optional={"recipient": line, "to": line, "before": st.binary(min_size=32, max_size=32).map(bytes.hex),
                  "follows": st.lists(st.integers(0, 1 << 63), max_size=3)},
)  # fmt: skip
events = st.builds(
    Event,
    kind=st.sampled_from(sorted(name for name, kind in KINDS.items() if not kind.fails)),
    actor=st.builds(Actor, word, word, st.none() | st.integers(0, (1 << 32) - 1), line),
    purpose=st.sampled_from(sorted(PURPOSES)),
    outcome=st.sampled_from(["", *sorted(OUTCOMES)]),
    patients=st.lists(word, max_size=3).map(tuple),
    objects=st.lists(word, max_size=3).map(tuple),
    activity=line,
    reason=line,
    detail=detail,
)


@given(events)
def test_what_is_written_is_what_is_read(event):
    stamped = event.stamped()
    assert Event.decode(stamped.encode()) == stamped
    assert stamped.encode() == Event.decode(stamped.encode()).encode()
    assert stamped.at.endswith("Z") and stamped.software.startswith("cloche") and stamped.stamped() is stamped


@given(events, st.data())
def test_a_mangled_event_is_bad_input_or_says_what_it_said(event, data):
    """One field of the JSON becomes anything: what is taken in is written out again as the same."""
    found = json.loads(event.stamped().encode())
    key = data.draw(st.sampled_from([*sorted(found), "extra"]))
    found[key] = data.draw(plain)
    try:
        read = Event.decode(json.dumps(found).encode())
    except BadInput:
        return
    assert json.loads(read.encode()) == {k: v for k, v in found.items() if v != "" or k not in ("reason", "software")}


@pytest.mark.parametrize("key", sorted(json.loads(Event("note", Actor("a", "b")).encode())))
def test_an_event_that_lacks_a_field_is_bad_input(key):
    found = json.loads(Event("note", Actor("a", "b")).encode())
    del found[key]
    with pytest.raises(BadInput):
        Event.decode(json.dumps(found).encode())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", True), ("schema", 1.0), ("kind", ["note"]), ("kind", "object.misused"), ("purpose", "CURIOSITY"),
        ("outcome", ""), ("outcome", "fine"), ("patients", "P-A"), ("patients", [1]), ("patients", [""]),
        ("objects", {"a": 1}), ("objects", ["a\x1b[31m"]), ("detail", []), ("detail", None), ("activity", 1),
        ("activity", "a" * 101), ("activity", "two\nlines"), ("at", "yesterday"), ("at", "2030-13-02T03:04:05Z"),
        ("at", "2030-01-02T03:04:05+02:00"), ("clock", None), ("actor", {"user": "a"}), ("actor", ["a", "b"]),
        ("actor", {"user": "a", "role": "b", "uid": True}), ("actor", {"user": "a", "role": "b", "uid": -1}),
        ("actor", {"user": "a", "role": "b", "more": 1}), ("actor", {"user": " ", "role": "b"}), ("more", 1),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_bad_input(key, value):
    found = json.loads(Event("note", Actor("a", "b")).encode()) | {key: value}
    with pytest.raises(BadInput):
        Event.decode(json.dumps(found).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_what_is_no_number_of_json_is_bad_input(number):
    good = Event("note", Actor("a", "b"), detail={"x": 0}).encode()
    with pytest.raises(BadInput):
        Event.decode(good.replace(b'"x":0', b'"x":' + number.encode()))


def test_json_that_is_nested_without_end_is_bad_input():
    with pytest.raises(BadInput):
        Event.decode(b"[" * 200_000)


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


def test_an_event_carries_no_document():
    """Every field that a caller fills with text is one short printable line; the error does not repeat it."""
    actor, long = Actor("ada", "steward"), "secret " * 100
    for fields in (
        {"activity": long}, {"reason": long}, {"software": long}, {"patients": (long,)}, {"objects": ("a", long)},
        {"reason": "two\nlines"}, {"detail": {"recipient": long}}, {"detail": {"findings": "\x1b[2J"}},
        {"detail": {"to": 7}}, {"detail": {"before": "abc"}}, {"detail": {"after": 1}}, {"detail": {"follows": [-1]}},
        {"detail": {"follows": "12"}}, {"detail": {"follows": [True]}}, {"clock": long}, {"at": "now"},
    ):  # fmt: skip
        with pytest.raises(BadInput) as caught:
            Event("note", actor, **fields)
        assert "secret" not in str(caught.value)
    for fields in ({"user": ""}, {"role": long}, {"user": "a\nb"}, {"hospital_id": long}, {"uid": 1 << 32}):
        with pytest.raises(BadInput):
            Actor(**{"user": "ada", "role": "steward", **fields})
    kept = Event("note", actor, detail={"before": "0" * 64, "follows": [1, 2], "recipient": "r" * 500})
    assert Event.decode(kept.encode()) == kept


def test_a_failure_never_ends_in_success():
    actor = Actor("ada", "steward")
    failing = [name for name, kind in KINDS.items() if kind.fails]
    assert {"access.refused", "record.refused", "run.failed"} == set(failing)
    for name in failing:
        assert Event(name, actor).outcome == "serious" and Event(name, actor, outcome="minor").outcome == "minor"
        with pytest.raises(BadInput):
            Event(name, actor, outcome="success")
    assert Event("note", actor).outcome == "success"


def test_the_actor_is_who_the_operating_system_says():
    actor = Actor.current("officer", "H-17")
    assert (actor.uid, actor.hospital_id, actor.role) == (os.getuid(), "H-17", "officer")
    event = Event("note", actor)
    assert Event.decode(event.encode()).actor == actor
    assert json.loads(event.encode())["actor"] == {
        "user": actor.user, "role": "officer", "uid": actor.uid, "hospital_id": "H-17"}  # fmt: skip


def test_the_software_is_named_by_what_was_installed(tmp_path):
    """A wheel's RECORD gives the digest: it changes with a file, not with what the installer adds or the order."""
    about = tmp_path / "cloche-9.8.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: cloche\nVersion: 9.8\n")
    rows = ["audit/log.py,sha256=AAA,10", "train/sft.py,sha256=BBB,10"]

    def told(*lines: str) -> str:
        (about / "RECORD").write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-c", "from audit.software import acting; print(acting())"]
        paths = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        return subprocess.run(command, env=paths, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    first = told(*rows)
    assert re.fullmatch(r"cloche 9\.8 sha256:[0-9a-f]{16}\n", first)
    assert told(*reversed(rows), "cloche-9.8.dist-info/INSTALLER,sha256=CCC,4", "audit/__pycache__/log.pyc,,") == first
    assert told(rows[0], rows[1].replace("BBB", "BBC")) != first
    assert told("elsewhere/x.py,sha256=AAA,10") == "cloche 9.8 source\n"


def test_every_kind_is_documented():
    document = (ROOT / "docs" / "events.md").read_text()
    assert document == page(), "docs/events.md is not what the catalogue says: type make docs"
