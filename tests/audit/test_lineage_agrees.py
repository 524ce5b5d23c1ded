"""The working copy of the lineage, in the catalogue, says what the log says, the evidence; a change of it shows."""

import json
import sqlite3
from xml.etree import ElementTree

import pytest

from audit.datasets import places
from audit.home import CATALOGUE, LOG
from audit.lineage import trace
from audit.manifest import from_bytes
from audit.members import members_of
from audit.reading import read
from audit.works import about_model
from tests.audit.agreement import differences
from tests.audit.pipeline import HELD_OUT, LATER, LEARNED, STEWARD, live


@pytest.fixture
def lived(vault):
    return live(vault)


def test_log_and_catalogue_tell_the_same_both_ways(vault, people, lived):
    assert differences(vault.home, people[0]) == ([], [])
    vault.delete([lived.adapter.objects[0]], actor=STEWARD, activity="test")
    assert differences(vault.home, people[0]) == ([], [])


CHANGES = [
    "UPDATE models SET run = ''", "UPDATE models SET manifest_root = 'ab'", "UPDATE models SET parent_model = ''",
    "UPDATE runs SET manifest_root = ''", "DELETE FROM parents", "UPDATE records SET patient = 'P-OTHER'",
    "UPDATE objects SET note = '{}' WHERE kind = 'adapter'", "UPDATE objects SET kind = 'other'",
    "UPDATE records SET image = report",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_catalogue_shows(vault, people, lived, change):
    with sqlite3.connect(vault.home / CATALOGUE) as database:
        database.execute(change)
    assert differences(vault.home, people[0])[0]


@pytest.mark.parametrize("table", ["models", "records", "runs", "objects"])
def test_a_row_that_is_gone_shows(vault, people, lived, table):
    with sqlite3.connect(vault.home / CATALOGUE) as database:
        database.execute(f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})")  # noqa: S608
    assert differences(vault.home, people[0])[1]


def test_the_log_names_the_runs_models_and_manifests_of_a_model_exactly(vault, people, lived):
    events = list(read(vault.home / LOG, people[0], 1 << 40))
    (found,) = about_model(events, lived.gguf.id)
    assert [run.id for run in found.runs] == [lived.runs[k].id for k in ("synth", "train", "align", "export")]
    assert set(found.manifests) == {run.manifest_root for run in lived.runs.values()}
    assert {made.run for made in found.made_from} == {run.id for run in lived.runs.values()}


def test_an_answer_reads_back_to_the_records_that_it_was_trained_on(vault, people, lived):
    """Answer -> GGUF -> adapters -> runs -> steps -> leaves of the manifest -> objects -> records."""
    events = {one.sequence: one.event for one in read(vault.home / LOG, people[0], 1 << 40)}
    answer = events[lived.answer]
    assert answer.detail["model"] == lived.gguf.id and answer.objects == lived.gguf.objects
    (found,) = about_model(read(vault.home / LOG, people[0], 1 << 40), answer.detail["model"])
    (step,) = [one for one in events.values() if one.kind == "run.step"]
    assert step.detail["run"] in {run.id for run in found.runs} and step.detail["manifest"] in found.manifests
    record = lived.records
    parts = [o for one in (LEARNED, LATER) for o in (record[one].image, record[one].report)]
    (leaves,) = [o for o in vault.catalogue.objects("leaves") if o.note["root"] == step.detail["manifest"]]
    with vault.use([leaves.id], "HOPERAT", STEWARD, "test") as opened:
        whole = from_bytes(opened.read(leaves.id))
    members = [*parts, *vault.catalogue.objects("conversations")[0:1]]
    at = places(vault, [one if isinstance(one, str) else one.id for one in members])
    back = {place: name for name, place in at.items()}
    assert len(whole) == len(back) + 2
    learned = {back[place] for batch in step.detail["batches"] for place in batch}
    assert learned == set(parts) and set(step.objects) == {record[LEARNED].id, record[LATER].id}
    tree = trace(vault.catalogue, answer.objects[0]).origins
    reached, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        reached.add(node.id)
        waiting += node.relatives
    assert {record[LEARNED].id, record[LATER].id} <= reached and record[HELD_OUT].id not in reached


def test_the_records_behind_a_model_by_the_log(vault, people, lived):
    (found,) = members_of(read(vault.home / LOG, people[0], 1 << 40), lived.gguf.id)
    runs = {kind: run.id for kind, run in lived.runs.items()}
    assert found.patients == (LEARNED, LATER)
    first, second = found.members
    assert first.record == lived.records[LEARNED].id and first.runs == (runs["synth"], runs["train"])
    assert second.runs == (runs["synth"], runs["train"], runs["align"]) and (first.steps, second.steps) == (1, 1)
    assert members_of(read(vault.home / LOG, people[0], 1 << 40), "model-none") == []


def test_records_of_a_model_on_the_box_and_from_a_carried_copy(type_, vault, key_file, lived, tmp_path):
    vault.close()
    code, said, err = type_("audit", "model", lived.gguf.id, "--records", "--key", key_file)
    assert code == 0 and "2 records of 2 patients" in said and HELD_OUT not in said, err
    assert type_("audit", "carry", tmp_path / "c")[0] == 0
    arguments = ("audit", "model", lived.gguf.id, tmp_path / "c", "--records", "--key", key_file, "--json")
    code, said, err = type_(*arguments, "--key-pin", vault.home / "keys" / "log.pub", home=tmp_path / "none")
    assert code == 0 and [one["patient"] for one in json.loads(said)[0]["members"]] == [LEARNED, LATER], err


def test_an_answer_is_traced_and_drawn(type_, vault, key_file, lived, tmp_path):
    vault.close()
    name, out = f"answer-{lived.answer}", tmp_path / "lineage.svg"
    code, _, err = type_("audit", "trace", name)
    assert code == 3 and "--key" in err
    code, said, err = type_("audit", "trace", name, "--key", key_file, "--svg", out)
    assert code == 0 and lived.records[LEARNED].id in said and lived.records[HELD_OUT].id not in said, err
    picture = out.read_text()
    words = [node.text or "" for node in ElementTree.fromstring(picture).iter() if node.tag.endswith("text")]  # noqa: S314
    assert name in words and f"{LEARNED}   1 record" in words and not any(HELD_OUT in one for one in words)
    assert {run.id for run in lived.runs.values()} <= set(words)
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "") and "<script" not in picture
    assert out.stat().st_mode & 0o777 == 0o600
    assert type_("audit", "trace", name, "--key", key_file, "--svg", out)[0] == 3
    assert type_("audit", "trace", "answer-0", "--key", key_file)[0] == 3
    assert type_("audit", "trace", lived.gguf.id, "--svg", tmp_path / "m.svg")[0] == 0
    code, _, err = type_("audit", "trace", lived.records[LEARNED].id, "--svg", tmp_path / "r.svg")
    assert code == 3 and "no model" in err and not (tmp_path / "r.svg").exists()
