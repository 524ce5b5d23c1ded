"""Questions to real logs: what an answer holds, what it leaves out, and what it does with odd times."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.actor import Actor
from audit.charts import Box, Words, bars, over_time
from audit.disclosures import disclosures
from audit.errors import BadInput, Refused
from audit.events import KINDS, Event
from audit.export import csv_line
from audit.home import LOG
from audit.moments import moment, spoken, when, years_before
from audit.newfile import new_file
from audit.patient import about_patient
from audit.printable import cell, printable
from audit.questions import Filter, about_user, select
from audit.reading import Logged, read
from audit.subject import identities
from audit.summary import KEPT, Day, summarise
from audit.works import about_model
from tests.audit.history import HELD_OUT, LEARNED, ROOT, live

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)


@pytest.fixture
def lived(vault):
    return live(vault)


@pytest.fixture
def events(vault, people):
    """All events of the vault's log, read with the auditor's key."""
    return lambda: list(read(vault.home / LOG, people[0], 1 << 40))


def logged(at, kind="note", user="ada", sequence=0, **fields):
    return Logged(sequence, Event(kind, Actor(user, "steward"), at=at, **fields))


# -- patient


def test_a_patient_who_was_learned_from(lived, events):
    found = about_patient(events(), LEARNED)
    assert [one.id for one in found.records] == [lived.records[LEARNED]] and found.records[0].split == "train"
    done = {(use.kind, use.activity, use.user, use.purpose) for use in found.uses}
    assert done == {
        ("object.stored", "ingest", "ada", "HOPERAT"), ("record.ingested", "ingest", "ada", "HOPERAT"),
        ("object.used", "synth", "ada", "HRESCH"), ("run.step", "train", "ada", "HRESCH"),
        ("disclosure.made", "study", "ada", "HRESCH"),
    }  # fmt: skip
    assert found.events == sum(use.count for use in found.uses) == 5
    assert {(use.run.id, use.learned) for use in found.runs} == {("run-synth", True), ("run-train", True)}
    assert [made.id for made in found.samples] == [lived.pack, lived.adapter, lived.gguf]
    assert [model.name for model in found.models] == ["model-one"]
    assert [(span.name, span.count) for span in found.models[0].answers] == [("grace", 2)]
    assert ("object.used", "train") in {(use.kind, use.activity) for use in found.indirect}


def test_a_patient_who_was_held_out_is_in_no_model(lived, events):
    found = about_patient(events(), HELD_OUT)
    assert [(use.run.id, use.learned) for use in found.runs] == [("run-eval", False)]
    assert found.models == () and found.samples == () and found.indirect == ()
    assert {use.kind for use in found.uses} == {"object.stored", "record.ingested", "object.used", "disclosure.made"}


def test_an_unknown_patient_has_no_event(lived, events):
    found = about_patient(events(), "P-NOBODY")
    assert (found.events, found.uses, found.records, found.models, found.runs) == (0, (), (), (), ())


def test_a_record_counts_as_the_patients_where_only_it_is_named(lived, events):
    """A training step names records, not patients."""
    kinds = [one.event.kind for one in select(events(), Filter(patient=LEARNED))]
    assert "run.step" in kinds and kinds.count("disclosure.made") == 1
    assert "run.step" not in [one.event.kind for one in select(events(), Filter(patient=HELD_OUT))]
    step = next(one for one in events() if one.event.kind == "run.step").sequence
    assert [one.sequence for one in select(events(), Filter(patient=LEARNED, first=step, last=step))] == [step]


# -- user and model


def test_a_user(lived, events):
    found = about_user(events(), "grace")
    assert (found.events, found.failures) == (5, 1)
    assert [(span.name, span.count) for span in found.roles] == [("clinician", 5)]
    assert {(use.kind, use.count, use.outcome) for use in found.uses} == {
        ("object.used", 2, "success"), ("question.answered", 2, "success"), ("access.refused", 1, "serious"),
    }  # fmt: skip
    assert {span.name for span in about_user(events(), "ada").patients} == {LEARNED, HELD_OUT}
    assert about_user(events(), "nobody").events == 0


@pytest.mark.parametrize("by", ["name", "beginning", "file", "run"])
def test_a_model_by_any_of_its_names(lived, events, by):
    name = {"name": "model-one", "beginning": "mode", "file": lived.gguf, "run": "run-eval"}[by]
    (found,) = about_model(events(), name)
    assert found.name == "model-one" and found.objects == (lived.gguf,) and found.manifests == (ROOT,)
    assert [run.id for run in found.runs] == ["run-synth", "run-train", "run-export", "run-eval", "run-sign"]
    assert {run.state for run in found.runs[:-1]} == {"finished"}
    assert [made.id for made in found.made_from] == [lived.pack, lived.adapter, lived.gguf]
    assert [made.run for made in found.made_from] == ["run-synth", "run-train", "run-export"]
    counts = {use.kind: use.count for use in found.uses}
    assert counts == {
        "model.evaluated": 1, "model.signed": 1, "object.used": 2, "question.answered": 2, "model.exported": 1
    }  # fmt: skip


def test_no_model_and_too_short_a_beginning(lived, events):
    assert about_model(events(), "model-two") == [] and about_model(events(), "mod") == []
    assert about_model(events(), "") == []


# -- disclosures


def test_disclosures_of_a_patient(lived, events):
    data, model = disclosures(events(), [LEARNED], None)
    assert (data.recipient, data.address) == ("Uppsala University", "Box 256, Uppsala")
    assert data.description == f"image and report of 1 record: {lived.records[LEARNED]}"  # not the other patient's
    assert data.purpose == "healthcare research: study" and len(data.date) == 10
    assert model.recipient == "model.gguf" and "no record" in model.description
    (only,) = disclosures(events(), [HELD_OUT], None)
    assert only.entry == data.entry and lived.records[LEARNED] not in only.description
    assert list(disclosures(events(), ["P-NOBODY"], None)) == []


def test_older_disclosures_are_left_out_after_six_years():
    made = [
        logged("2020-03-30T00:00:00Z", "disclosure.made", patients=("P-A",), detail={"recipient": "old"}),
        logged("2020-03-31T00:00:00Z", "disclosure.made", patients=("P-A",), detail={"recipient": "new"}, sequence=1),
        logged("2024-03-31T00:00:00Z", "disclosure.made", patients=("P-B",), sequence=2),
        logged("2024-03-31T00:00:00Z", "audit.exported", patients=("P-A",), sequence=3),
    ]
    assert [one.recipient for one in disclosures(made, ["P-A"], years_before(NOW, 6))] == ["new"]
    assert [one.recipient for one in disclosures(made, ["P-A"], None)] == ["old", "new"]


def test_a_disclosure_says_what_its_event_says():
    told = {"recipient": "Dr. No", "description": "two pictures", "statement": "at the patient's wish"}
    made = [logged("2026-01-01T00:00:00Z", "disclosure.made", patients=("P-A",), detail=told, outcome="minor")]
    (line,) = disclosures(made, ["P-A"], None)
    assert line.description == "two pictures (ended: minor)" and line.purpose == "at the patient's wish"


# -- filters and times


FIELDS = [
    (Filter(actor="ada"), 1), (Filter(role="clinician"), 1), (Filter(kinds=("object.used",)), 1),
    (Filter(kinds=("object", "note")), 2), (Filter(actions=("R",)), 1), (Filter(purpose="TREAT"), 1),
    (Filter(outcome="success"), 1), (Filter(outcome="failed"), 1), (Filter(outcome="major"), 0),
    (Filter(first=7), 1), (Filter(last=3), 1), (Filter(first=4, last=6), 0), (Filter(), 2),
    (Filter(since=datetime(2026, 1, 2, tzinfo=UTC)), 1), (Filter(until=datetime(2026, 1, 2, tzinfo=UTC)), 1),
    (Filter(actor="ada", outcome="failed"), 0),
]  # fmt: skip


@pytest.mark.parametrize(("chosen", "count"), FIELDS)
def test_each_filter_narrows(chosen, count):
    first = Event("object.used", Actor("grace", "clinician"), "TREAT", outcome="minor", at="2026-01-01T00:00:00Z")
    second = Event("note", Actor("ada", "steward"), at="2026-01-02T00:00:00Z")
    events = [Logged(3, first), Logged(5, None), Logged(7, second)]
    assert len(list(select(events, chosen))) == count


def test_an_event_without_a_time_is_not_hidden_by_one():
    assert len(list(select([logged("")], Filter(since=NOW, until=NOW)))) == 1
    assert when(Event("note", Actor("a", "b"))) is None


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026-01-31", "2026-01-31T00:00:00", "2026-02-01T00:00:00"),
        ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00", "2026-01-31T08:00:00.000001"),
        ("2026-01-31T08:00:00+02:00", "2026-01-31T06:00:00", "2026-01-31T06:00:00.000001"),
        ("2026-01-31T08:00", "2026-01-31T08:00:00", "2026-01-31T08:00:00.000001"),
        ("7d", "2026-03-24T12:00:00", "2026-03-24T12:00:00"),
        ("12h", "2026-03-31T00:00:00", "2026-03-31T00:00:00"),
        ("1m", "2026-02-28T12:00:00", "2026-02-28T12:00:00"),
        ("2y", "2024-03-31T12:00:00", "2024-03-31T12:00:00"),
    ],
)
def test_times_as_a_person_types_them(text, start, end):
    assert moment(text, NOW) == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert moment(text, NOW, end=True) == datetime.fromisoformat(end).replace(tzinfo=UTC)


BAD = ["", "yesterday", "2026-13-01", "2026-02-30", "0d", "-7d", "99999y", "9999-12-31T23:59:59-01:00", "7 d", "٧d"]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_time_is_bad_input(text):
    with pytest.raises(BadInput):
        moment(text, NOW)


@given(st.text(max_size=20))
def test_any_text_is_a_time_or_bad_input(text):
    with suppress(BadInput):
        assert moment(text, NOW, end=True).tzinfo is not None


def test_years_end_well_on_a_leap_day():
    assert years_before(datetime(2024, 2, 29, 5, tzinfo=UTC), 6) == datetime(2018, 2, 28, tzinfo=UTC)
    with pytest.raises(BadInput):
        years_before(NOW, 5000)


def test_lengths_of_time_in_words():
    lengths = [timedelta(minutes=42), timedelta(hours=5, minutes=10), timedelta(hours=24), timedelta(days=3, hours=4)]
    assert [spoken(one) for one in lengths] == ["42 min", "5 h 10 min", "1 day", "3 days 4 h"]


# -- summaries and charts


def test_a_summary_counts_what_there_is():
    review = {"by": "G. Hopper", "findings": "nothing", "from": 1, "until": 3}
    events = [
        logged("2026-01-01T00:00:00Z", sequence=1, patients=("P-A", "P-B")),
        logged("2026-01-02T00:00:00Z", "heartbeat", sequence=2),
        Logged(3, None),
        logged("2026-01-04T06:00:00Z", "access.refused", user="eve", reason="no right", sequence=4),
        logged("2026-01-04T05:00:00Z", "audit.reviewed", detail=review, sequence=5),
        logged("2026-01-04T06:00:00Z", "disclosure.made", detail={"to": "x"}, patients=("P-A",), sequence=6),
    ]
    found = summarise(events)
    assert (found.events, found.sealed, found.patients, found.failed, found.heartbeats) == (5, 1, 2, 1, 1)
    assert found.actors == (("ada (steward)", 4), ("eve (steward)", 1))
    days = [(day.day.day, day.done, day.failed) for day in found.days]
    assert days == [(1, 1, 0), (2, 1, 0), (4, 2, 1)]
    assert found.failures[0].why == "no right" and found.failed_kinds == (("access.refused", 1),)
    (silence,) = found.silences  # a day exactly is none; the clock that went back is none
    assert (silence.entry, silence.length) == (2, timedelta(hours=54)) and found.longest == silence
    assert (found.silent, found.set_back) == (1, 1)
    (review,) = found.reviews
    assert (review.by, review.first, review.last, review.finding) == ("G. Hopper", 1, 2, "nothing")
    assert [one.to for one in found.left] == ["x"] and found.departures == 1
    assert (found.first_entry, found.last_entry) == (1, 6)


def test_a_summary_lists_the_newest_and_counts_all():
    events = [logged("2026-01-01T00:00:00Z", "access.refused", sequence=k) for k in range(KEPT + 7)]
    found = summarise(events)
    assert found.failed == KEPT + 7 and [one.entry for one in found.failures] == list(range(7, KEPT + 7))


def test_a_summary_of_nothing():
    found = summarise([])
    assert (found.events, found.days, found.first_entry, found.longest) == (0, (), None, None)
    assert over_time(found.days, found.silences, "x") is None and bars("x", found.actors) is None


def boxes(drawing, style):
    return [mark for mark in drawing.marks if isinstance(mark, Box) and mark.style == style]


@pytest.mark.parametrize(
    ("first", "last", "unit"),
    [
        ("2026-01-01", "2026-01-01", "day"), ("2026-01-01", "2026-03-01", "day"), ("2026-01-01", "2027-01-01", "week"),
        ("2026-01-01", "2031-01-01", "month"), ("0001-01-01", "9999-12-31", "year"),
    ],
)  # fmt: skip
def test_columns_stay_inside_and_none_is_lost(first, last, unit):
    ends = [datetime.fromisoformat(one).date() for one in (first, last)]
    days = [Day(day, 3, 1) for day in dict.fromkeys(ends)]
    drawing = over_time(days, (), "use")
    assert f"a {unit} a column" in drawing.title
    assert len(boxes(drawing, "done")) == len(boxes(drawing, "failed")) == len(days)
    for box in boxes(drawing, "done") + boxes(drawing, "failed"):
        assert box.x >= 0 and box.x + box.width <= drawing.width and 0 <= box.y <= box.y + box.height <= drawing.height
    assert len([m for m in drawing.marks if isinstance(m, Words)]) < 20


def test_bars_are_as_long_as_their_counts_and_add_up_the_rest():
    drawing = bars("who", [(f"user {k}", 100 - k) for k in range(12)], at_most=3)
    lengths = [box.width for box in boxes(drawing, "done")]
    (rest,) = boxes(drawing, "rest")
    assert rest.title == "9 others: 837" and lengths[1] / lengths[0] == pytest.approx(0.99)
    assert rest.width / lengths[0] == pytest.approx(8.37)


# -- text of strangers, and files


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_no_cell_begins_a_formula(text):
    assert cell(text) == "'" + text
    assert cell("a" + text) == "a" + text and cell("") == ""
    assert csv_line([text, 'quo"te', "a,b"]).endswith('"quo""te","a,b"\r\n')


@given(st.text())
def test_printable_text_has_nothing_hidden(text):
    shown = printable(text)
    assert shown.isprintable() and (shown == text or not text.isprintable())
    shown.encode()


def test_escapes_and_marks_of_direction_are_written_out():
    assert printable("a\x1b[2Jb\u202ec\ud800") == "a\\x1b[2Jb\\u202ec\\ud800"


def test_a_new_file_appears_whole_and_over_nothing(tmp_path):
    path = tmp_path / "out"
    with new_file(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one" and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Refused), new_file(path) as file:
        file.write(b"two")
    with pytest.raises(KeyError), new_file(tmp_path / "half") as file:
        file.write(b"half")
        raise KeyError
    with pytest.raises(Refused), new_file(tmp_path / "race") as file:
        (tmp_path / "race").write_bytes(b"came between")
    with pytest.raises(BadInput), new_file(tmp_path / "nowhere" / "out"):
        pass
    (tmp_path / "dangling").symlink_to(tmp_path / "target")
    with pytest.raises(Refused), new_file(tmp_path / "dangling"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "out", "race"] and path.read_bytes() == b"one"
    assert (tmp_path / "race").read_bytes() == b"came between"


def test_every_kind_that_is_asked_for_exists():
    from audit import disclosures as account
    from audit.summary import LEAVING

    assert {*account.KINDS, *LEAVING, "audit.reviewed", "record.ingested", "run.failed"} <= set(KINDS)


def test_linked_identities_are_one_patient():
    def linked(kind, *patients):
        return Event(kind, Actor("ada", "steward"), patients=patients)

    made = [
        linked("patient.linked", "P-A", "P-B"),
        linked("patient.linked", "P-B", "P-C"),
        linked("note", "P-A", "P-Z"),
    ]
    made = [Logged(number, event) for number, event in enumerate(made)]
    assert identities(made, "P-C") == ("P-A", "P-B", "P-C") and identities(made, "P-Z") == ("P-Z",)
    undone = [*made, Logged(3, linked("patient.unlinked", "P-C", "P-B")), Logged(4, None)]
    assert identities(undone, "P-A") == ("P-A", "P-B")
    about = [*made, Logged(5, Event("record.reviewed", Actor("ada", "steward"), patients=("P-C",)))]
    assert about_patient(about, "P-A").events == 2 and about_patient(about, *identities(about, "P-A")).events == 4
