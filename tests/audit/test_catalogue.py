"""The catalogue and the lineage in it."""

import subprocess
import sys
from pathlib import Path

import pytest

from audit import catalogue, database
from audit.actor import Actor
from audit.catalogue import Catalogue
from audit.errors import BadInput, IntegrityFailure
from audit.lineage import WIDEST, trace
from audit.rows import Record
from audit.vault import NewObject

ACTOR = Actor("ada", "steward")


def record_of(vault, patient="P-A", number=0):
    image = vault.put("image", b"i", actor=ACTOR, patient=patient)
    report = vault.put("report", b"r", actor=ACTOR, patient=patient)
    found = Record("", patient, image, report, vault.fingerprint(b"%d" % number), "train")
    return vault.catalogue.add_record(found)


def test_records_come_back_and_come_once(vault):
    record = record_of(vault)
    other = record_of(vault, "P-B", 1)
    catalogue = vault.catalogue
    assert record.id.startswith("rec-") and catalogue.record(record.id) == record
    assert catalogue.records() == [record, other] and catalogue.records(patient="P-B") == [other]
    assert catalogue.records("held-out") == [] and catalogue.records("train") == [record, other]
    assert catalogue.record_of_source(record.source_digest) == record
    assert catalogue.record_of_source("unseen") is None
    with pytest.raises(BadInput, match="already"):
        catalogue.add_record(Record("", "P-A", "i", "r", record.source_digest, "train"))
    with pytest.raises(BadInput):
        catalogue.record("rec-none")


def test_runs_live_and_end(vault):
    catalogue = vault.catalogue
    run = catalogue.start_run("train", {"rank": 8, "rate": 1e-4}, seed=3, manifest_root="ab")
    assert run.state == "running" and catalogue.latest("train") is None
    assert catalogue.latest("train", state=None) == run == catalogue.run(run.id)
    done = catalogue.finish_run(run.id, {"loss": 0.5})
    assert (done.state, done.result, done.config) == (
        "done",
        {"loss": 0.5},
        {"rank": 8, "rate": 1e-4},
    ) and done.finished
    later = catalogue.start_run("train", {})
    catalogue.finish_run(later.id, {"why": "stopped"}, state="failed")
    assert catalogue.latest("train") == done and len(catalogue.runs("train")) == 2 and catalogue.runs("synth") == []
    with pytest.raises(BadInput):
        catalogue.finish_run("run-none", {})
    with pytest.raises(BadInput, match="JSON"):
        catalogue.start_run("train", {"loss": float("nan")})


def test_models_know_their_parents(vault):
    catalogue = vault.catalogue
    weights = vault.put("adapter", b"w", actor=ACTOR)
    base = catalogue.add_model("base", [])
    adapter = catalogue.add_model("adapter", [weights], parent_model=base.id, manifest_root="cd", note={"rank": 8})
    assert catalogue.model(adapter.id) == adapter and catalogue.latest_model("adapter") == adapter
    assert catalogue.update_model(adapter.id, {"signed": True}).note == {"rank": 8, "signed": True}
    assert [m.id for m in catalogue.models()] == [base.id, adapter.id] and catalogue.latest_model("gguf") is None
    for arguments in ({"objects": ["none"]}, {"objects": [], "parent_model": "model-none"}):
        with pytest.raises(BadInput):
            catalogue.add_model("adapter", **arguments)
    assert len(catalogue.models()) == 2


def test_a_transaction_is_all_or_nothing(vault):
    with pytest.raises(ZeroDivisionError), vault.catalogue.transaction():
        vault.catalogue.start_run("train", {})
        vault.catalogue.add_model("base", [])
        _ = 1 / 0
    assert vault.catalogue.runs() == [] and vault.catalogue.models() == []


def test_a_damaged_catalogue_is_an_integrity_failure(tmp_path):
    path = tmp_path / "catalogue.sqlite"
    Catalogue(path).close()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(IntegrityFailure, match="damaged"):
        Catalogue(path)


def test_opening_it_twice_in_one_process_does_not_let_another_process_pull_it_away(tmp_path):
    path = tmp_path / "catalogue.sqlite"
    first, second = Catalogue(path), Catalogue(path)
    first.start_run("train", {})
    code = "import sys; from pathlib import Path; from audit.catalogue import Catalogue\n"
    code += "made = Catalogue(Path(sys.argv[1])); made.start_run(sys.argv[2], {})\n"
    code += "print(*[run.kind for run in made.runs()]); made.close()"

    def elsewhere(kind):
        words = [sys.executable, "-c", code, str(path), kind]
        return subprocess.run(words, check=True, cwd=Path.cwd(), capture_output=True, text=True).stdout.split()

    assert elsewhere("synth") == ["train", "synth"]
    first.start_run("align", {})
    assert elsewhere("export") == ["train", "synth", "align", "export"]
    assert [run.kind for run in second.runs()] == ["train", "synth", "align", "export"]


def test_many_objects_come_in_the_order_of_their_ids(vault):
    ids = vault.put_many([NewObject("report", b"r") for _ in range(3)], actor=ACTOR)
    asked = [ids[2], ids[0], ids[2], ids[1]]
    assert [one.id for one in vault.catalogue.objects_named(asked)] == [ids[2], ids[0], ids[1]]
    assert vault.catalogue.objects_named([]) == []
    for hostile in ("none", "\x00", "../" * 100, "🙂" * 1000, "'; DROP TABLE objects"):
        with pytest.raises(BadInput, match="no such object"):
            vault.catalogue.objects_named([ids[0], hostile])


def test_a_catalogue_of_the_first_version_gets_consent_and_links(tmp_path):
    path = tmp_path / "catalogue.sqlite"
    connection = database.connect(path, catalogue._MIGRATIONS[:1])
    connection.execute("INSERT INTO records VALUES ('rec-1', 'P-A', 'i', 'r', 'd', 'train', '2030-01-01')")
    connection.close()
    opened = Catalogue(path)
    assert opened.record("rec-1") == Record("rec-1", "P-A", "i", "r", "d", "train", "2030-01-01")
    assert opened.record("rec-1").consent == "" and opened.identities("P-A") == ("P-A",)
    opened.close()


def names(node):
    return {node.id} | {name for below in node.relatives for name in names(below)}


def test_a_record_is_traced_to_the_model_and_the_model_back_to_the_record(vault):
    record, other = record_of(vault), record_of(vault, "P-B", 1)
    sample = vault.put("sample", b"s", actor=ACTOR, patient="P-A", parents=[record.image, record.report])
    dataset = vault.put("manifest", b"m", actor=ACTOR, parents=[sample])
    weights = vault.put("adapter", b"w", actor=ACTOR, parents=[dataset])
    base = vault.catalogue.add_model("base", [])
    adapter = vault.catalogue.add_model("adapter", [weights], parent_model=base.id)
    gguf = vault.catalogue.add_model("gguf", [], parent_model=adapter.id)
    down = trace(vault.catalogue, record.id).results
    assert names(down) == {record.id, record.image, record.report, sample, dataset, weights, adapter.id, gguf.id}
    assert down.kind == "record" and down.patient == "P-A"
    up = trace(vault.catalogue, gguf.id).origins
    assert names(up) == {gguf.id, adapter.id, base.id, weights, dataset, sample, record.image, record.report, record.id}
    assert other.id not in names(up) | names(down)
    # The sample has two parents in the one record: it is drawn out once, and pointed at the second time.
    twice = [n for image in down.relatives for n in image.relatives if n.id == sample]
    assert [n.repeated for n in twice] == [False, True] and not twice[1].relatives


def test_a_beginning_is_enough_where_it_is_unique(vault):
    record = record_of(vault)
    assert trace(vault.catalogue, record.id[:8]).results.id == record.id
    with pytest.raises(BadInput, match="several"):
        record_of(vault, number=1)
        trace(vault.catalogue, "rec-")
    for name in ("", "re", "nothing", record.id + "x", "%%%%"):
        with pytest.raises(BadInput, match="no object"):
            trace(vault.catalogue, name)


def test_wide_and_deep_lineage_ends(vault):
    top = vault.put("image", b"i", actor=ACTOR)
    vault.put_many([NewObject("sample", b"s", None, [top]) for _ in range(WIDEST + 7)], actor=ACTOR)
    found = trace(vault.catalogue, top).results
    assert len(found.relatives) == WIDEST and found.left_out == 7
    parent = ""
    for _ in range(300):
        parent = vault.catalogue.add_model("adapter", [], parent_model=parent).id
    assert trace(vault.catalogue, parent).to_dict()["made_from"]


def test_a_second_connection_of_a_process_leaves_the_locks_of_the_first(tmp_path):
    """SQLite's locks are the process's: a descriptor that is closed drops them all, and the WAL goes with them."""
    path, names = tmp_path / "catalogue.sqlite", ["run-0"]
    other = "import sys, pathlib, audit.catalogue as it; it.Catalogue(pathlib.Path(sys.argv[1])).close()"
    first = Catalogue(path)
    first.start_run("train", {}, id=names[0])
    for number in (1, 2):
        second = Catalogue(path)
        subprocess.run([sys.executable, "-c", other, str(path)], check=True, cwd=Path(__file__).parents[2])
        second.close()
        names.append(f"run-{number}")
        first.start_run("train", {}, id=names[-1])
        third = Catalogue(path)
        assert [run.id for run in third.runs()] == names
        third.close()
    first.close()
    again = Catalogue(path)
    assert [run.id for run in again.runs()] == names
    again.close()
