"""Frozen data sets: kept once, logged, and carried away with the log."""

import json
import sqlite3

from audit import manifest
from audit.actor import Actor
from audit.datasets import LEAVES, freeze, leaf_lists
from audit.reading import read
from audit.verify import verify

ACTOR = Actor("ada", "steward")


def test_a_data_set_is_frozen_once_and_its_leaves_can_be_read_again(vault, people):
    ids = [vault.put("image", bytes([i]), actor=ACTOR, patient=f"P-{i}") for i in range(3)]
    root = freeze(vault, ids, actor=ACTOR, activity="freeze")
    assert (
        root
        == freeze(vault, reversed(ids), actor=ACTOR, activity="freeze")
        == manifest.root_of(vault.manifest_leaves(ids))
    )
    other = freeze(vault, ids[:2], actor=ACTOR, activity="freeze")
    (first, second) = leaf_lists(vault, actor=ACTOR, activity="absent")
    assert manifest.root_of(manifest.from_bytes(first)) == root
    leaves = manifest.from_bytes(second)
    assert manifest.root_of(leaves) == other
    assert manifest.present(leaves, vault.patient_mark("P-1")) and not manifest.present(
        leaves, vault.patient_mark("P-2")
    )
    path = vault.home / "audit" / "log.sqlite"
    events = [one.event for one in read(path, people[0], verify(path).size)]
    frozen = [event.detail for event in events if event.kind == "dataset.frozen"]
    assert frozen == [{"root": root.hex(), "members": 3}, {"root": other.hex(), "members": 2}]
    assert {event.activity for event in events if event.kind == "object.used"} == {"absent"}
    assert len(vault.catalogue.objects(LEAVES)) == 2


def test_carry_takes_the_manifests_along(type_, vault, tmp_path):
    ids = [vault.put("image", bytes([i]), actor=ACTOR, patient=f"P-{i}") for i in range(3)]
    root = freeze(vault, ids, actor=ACTOR, activity="freeze")
    vault.close()
    out = tmp_path / "log.carry"
    code, said, err = type_("audit", "carry", out, "--json")
    assert code == 0, err
    assert json.loads(said)["manifests"] == 1
    assert sqlite3.connect(out).execute("SELECT root FROM manifests").fetchall() == [(root,)]
    code, said, _ = type_("audit", "verify", out, "--key-pin", vault.home / "keys" / "log.pub", home=tmp_path / "none")
    assert code == 0 and said.startswith("intact")
    size = verify(vault.home / "audit" / "log.sqlite").size
    code, _, err = type_("audit", "carry", out)
    assert code == 3 and "exists already" in err and verify(vault.home / "audit" / "log.sqlite").size == size


def test_prove_writes_a_proof_that_needs_no_log(type_, vault, tmp_path):
    from audit.checkpoint import open_note
    from audit.merkle import verify_inclusion
    from audit.proofs import InclusionProof

    vault.put("image", b"i", actor=ACTOR)
    path = vault.home / "audit" / "log.sqlite"
    leaf = sqlite3.connect(path).execute("SELECT leaf FROM entries WHERE sequence = 2").fetchone()[0]
    assert type_("audit", "prove", 2, "--out", tmp_path / "2.proof")[0] == 0
    proof = InclusionProof.from_bytes((tmp_path / "2.proof").read_bytes())
    checkpoint = open_note(proof.note, vault.log_key)
    assert verify_inclusion(leaf, 2, checkpoint.size, proof.hashes, checkpoint.root)
    assert type_("audit", "prove", 4, "--out", tmp_path / "3.proof")[0] == 3
    assert type_("audit", "prove", 2, tmp_path / "none", "--out", tmp_path / "x")[0] == 3
    assert not (tmp_path / "3.proof").exists()
