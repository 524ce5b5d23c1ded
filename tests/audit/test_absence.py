"""Proof of absence: who is in no manifest behind a model gets one, who is in one gets none, and a changed one fails."""

import base64
import json
import random
from contextlib import suppress

import pytest

from audit import manifest
from audit.absence import prove, verify
from audit.checkpoint import Signer
from audit.datasets import LEAVES
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.home import LOG
from audit.merkle import leaf_hash, root
from audit.reading import read
from audit.remote import RemoteVault
from tests.audit.conftest import PASSPHRASE
from tests.audit.pipeline import HELD_OUT, LATER, LEARNED, STEWARD, learn, live
from tests.audit.standalone import PATH, STANDALONE


def both(data: bytes, key) -> tuple[object, object]:
    """What both verifiers say: what they found, or that it failed."""
    ours, theirs = "failed", "failed"
    with suppress(IntegrityFailure, BadInput):
        ours = verify(data, key)
    with suppress(STANDALONE.Broken, *STANDALONE.DAMAGED):
        theirs = STANDALONE.check_absence(data, STANDALONE.Key.of(key.to_text()))
    return ours, theirs


def changed(data: bytes, change) -> bytes:
    found = json.loads(data)
    change(found)
    return json.dumps(found).encode()


def test_who_is_in_no_manifest_gets_a_proof_over_the_whole_ancestry(vault, people):
    made = live(vault)
    data = prove(vault, [HELD_OUT], made.gguf.id, STEWARD)
    ours, theirs = both(data, vault.log_key)
    assert ours.patients == (HELD_OUT,) and ours.model == made.gguf.id and ours.digest == "ab" * 32
    roots = {made.runs[kind].manifest_root for kind in ("synth", "train", "align")}
    assert set(ours.roots) == roots and len(ours.gaps) == 3
    assert theirs == (made.gguf.id, HELD_OUT, 3, ours.size)
    mark = vault.patient_mark(HELD_OUT).hex()
    assert all(gap.mark == mark and gap.before < mark < gap.after for gap in ours.gaps)
    events = {one.sequence: one.event for one in read(vault.home / LOG, people[0], 1 << 40)}
    for gap in ours.gaps:  # the entry that each points to is the one that froze it
        assert events[gap.entry].kind == "dataset.frozen" and events[gap.entry].detail["root"] == gap.root
    opened = [one for one in events.values() if one.activity == "absent"]
    assert [one.detail["about"] for one in opened] == [[HELD_OUT]]


@pytest.mark.parametrize("patient", [LEARNED, LATER])
def test_who_is_in_one_gets_none(vault, patient):
    made = live(vault)
    with pytest.raises(Refused, match="there is no proof of absence"):
        prove(vault, [patient], made.gguf.id, STEWARD)
    with pytest.raises(Refused, match="no proof"):  # nor under any name of a linked identity
        prove(vault, [HELD_OUT, patient], made.gguf.id, STEWARD)


def test_a_model_retrained_without_a_patient_has_a_proof_and_the_old_one_none(vault):
    made = live(vault)
    again = learn(vault, made.records, (LATER,))
    assert verify(prove(vault, [LEARNED], again.gguf.id, STEWARD), vault.log_key).patients == (LEARNED,)
    with pytest.raises(Refused):
        prove(vault, [LEARNED], made.gguf.id, STEWARD)


def test_two_linked_identities_are_both_checked(vault):
    made = live(vault)
    found, theirs = both(prove(vault, [HELD_OUT, "P-OTHERNAMEX"], made.gguf.id, STEWARD), vault.log_key)
    assert found.patients == (HELD_OUT, "P-OTHERNAMEX") and len(found.gaps) == 6
    assert theirs[1] == f"{HELD_OUT}, P-OTHERNAMEX"


def test_a_linked_identity_is_checked_without_being_named(vault):
    made = live(vault)
    vault.link(HELD_OUT, LEARNED, STEWARD)
    with pytest.raises(Refused, match="there is no proof of absence"):
        prove(vault, [HELD_OUT], made.gguf.id, STEWARD)


def test_a_model_by_its_file_or_a_beginning(vault):
    made = live(vault)
    for name in (made.gguf.objects[0], made.gguf.id[:9]):
        assert verify(prove(vault, [HELD_OUT], name, STEWARD), vault.log_key).model == made.gguf.id
    for name in (made.records[LEARNED].image, made.records[LEARNED].id, "model-none"):
        with pytest.raises(BadInput):
            prove(vault, [HELD_OUT], name, STEWARD)
    base = vault.catalogue.add_model("base", [])
    with pytest.raises(BadInput, match="learned from no data set"):
        prove(vault, [HELD_OUT], base.id, STEWARD)
    for patients in ([], [""], ["two words"], ["a\nb"]):
        with pytest.raises(BadInput):
            prove(vault, patients, made.gguf.id, STEWARD)


def test_without_a_leaf_list_there_is_no_proof(vault):
    made = live(vault)
    vault.delete([vault.catalogue.objects(LEAVES)[0].id], actor=STEWARD, activity="test")
    with pytest.raises(Refused, match="are not kept"):
        prove(vault, [HELD_OUT], made.gguf.id, STEWARD)


def _reordered(found):
    leaves = [*manifest.from_bytes(base64.b64decode(found["manifests"][0]["leaves"]))]
    leaves[1], leaves[2] = leaves[2], leaves[1]
    found["manifests"][0]["leaves"] = base64.b64encode(b"".join(leaves)).decode()


def _dropped(found):
    data = base64.b64decode(found["manifests"][0]["leaves"])
    found["manifests"][0]["leaves"] = base64.b64encode(data[:64] + data[128:]).decode()


def _no_sentinel(found):
    data = base64.b64decode(found["manifests"][1]["leaves"])
    found["manifests"][1]["leaves"] = base64.b64encode(data[:-64]).decode()


def _one_manifest_less(found):
    del found["manifests"][1]


def _manifest_twice(found):
    found["manifests"].append(found["manifests"][0])


def _another_model(found):
    found["statement"] = found["statement"].replace("model model-", "model model-x")


def _another_patient(found):
    found["statement"] = found["statement"].replace(HELD_OUT, LEARNED)


def _another_entry(found):
    one = found["manifests"][0]
    one["body"] = "00" * 32


def _no_path(found):
    found["manifests"][0]["path"] = found["manifests"][0]["path"][1:]


def _no_note(found):
    found["checkpoint"] = found["checkpoint"].replace("\n\n", "\n")


CHANGES = [
    _reordered, _dropped, _no_sentinel, _one_manifest_less, _manifest_twice, _another_model, _another_patient,
    _another_entry, _no_path, _no_note,
]  # fmt: skip


@pytest.fixture(scope="module")
def proof(tmp_path_factory, people):
    """A proof and the key of its log."""
    from audit.vault import Vault
    from tests.audit.conftest import ACTOR, CHEAP

    home = tmp_path_factory.mktemp("absence") / "home"
    with Vault.create(home, PASSPHRASE, [p.recipient for p in people[:2]], cost=CHEAP, actor=ACTOR) as made:
        return prove(made, [HELD_OUT], live(made).gguf.id, STEWARD), made.log_key


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_proof_fails_by_both_verifiers(proof, change):
    data, key = proof
    assert "failed" not in both(data, key)
    assert both(changed(data, change), key) == ("failed", "failed")


def test_another_key_fails(proof):
    data, key = proof
    assert both(data, Signer.generate(key.name).key) == ("failed", "failed")
    assert both(data, Signer.generate("cloche/log/other").key) == ("failed", "failed")


def test_the_log_key_cannot_make_up_leaves(vault):
    """Leaves out of order, or with the patient among them, do not verify though the log's key signs their root."""
    made = live(vault)
    data = prove(vault, [HELD_OUT], made.gguf.id, STEWARD)
    mark = vault.patient_mark(HELD_OUT)
    for spoil in (lambda ls: [ls[0], *ls[1:-1][::-1], ls[-1]], lambda ls: sorted([*ls, mark + b"\x07" * 32])):
        found = json.loads(data)
        one = found["manifests"][0]
        leaves = spoil(manifest.from_bytes(base64.b64decode(one["leaves"])))
        forged = root(leaf_hash(leaf) for leaf in leaves).hex()
        text = found["statement"].rpartition("\n\n")[0] + "\n"
        lines = [
            f"manifest {forged} {line.split()[2]} {len(leaves)}" if one["root"] in line else line
            for line in text.splitlines()
        ]
        lines = [*(x for x in lines if "manifest " not in x), *sorted(x for x in lines if x.startswith("manifest "))]
        found["statement"] = vault.attest("".join(f"{line}\n" for line in lines).encode()).decode()
        one["root"], one["leaves"] = forged, base64.b64encode(b"".join(leaves)).decode()
        assert both(json.dumps(found).encode(), vault.log_key) == ("failed", "failed")


def test_a_flipped_bit_anywhere_is_told_or_changes_nothing(proof):
    data, key = proof
    good, rng = both(data, key), random.Random(7)
    for _ in range(150):
        at = rng.randrange(len(data))
        spoiled = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        ours, theirs = both(spoiled, key)
        assert ours in ("failed", good[0]) and theirs in ("failed", good[1])


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b'{"format": "cloche/absence/v1"}', b"\xff", b"[" * 9999])
def test_what_is_no_proof_is_bad_input(proof, data):
    with pytest.raises(BadInput):
        verify(data, proof[1])


def test_the_logs_key_signs_no_other_statement(vault):
    for text in (b"cloche/key-rotation/v1\n", b"cloche/log/x\n5\n", b"cloche/absence/v2\n", b""):
        with pytest.raises(Refused):
            vault.attest(text)


def test_the_proof_is_the_same_through_the_vaults_process(vault):
    made = live(vault)
    vault.close()
    from audit.actor import Actor

    with RemoteVault.open(vault.home, PASSPHRASE) as remote:
        data = remote.prove_absence([HELD_OUT], made.gguf.id, Actor.current("officer"))
        assert verify(data, remote.log_key).patients == (HELD_OUT,)
        with pytest.raises(Refused, match="somebody else"):
            remote.prove_absence([HELD_OUT], made.gguf.id, STEWARD)
        with pytest.raises(Refused):
            remote.attest(b"cloche/absence/v1\n")


def test_typed_on_the_box_and_checked_on_a_laptop(type_, vault, tmp_path):
    import subprocess
    import sys

    made, pin = live(vault), vault.home / "keys" / "log.pub"
    vault.close()
    out = tmp_path / "absent.json"
    code, said, err = type_("audit", "absent", HELD_OUT, "--model", made.gguf.id, "--out", out)
    assert code == 0 and "none of the 3 data sets" in said and "base weights" in said, err
    assert out.stat().st_mode & 0o777 == 0o600
    code, said, _ = type_("audit", "absent", "--check", out, "--key-pin", pin, "--json", home=tmp_path / "none")
    assert code == 0 and len(json.loads(said)["gaps"]) == 3
    command = [sys.executable, str(PATH), "--key", str(pin), "--absence", str(out)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0 and "learned from nothing of" in told.stdout, told.stdout
    out.write_bytes(changed(out.read_bytes(), _dropped))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 4
    code, _, err = type_("audit", "absent", "--check", out, "--key-pin", pin)
    assert code == 4 and "out of order" not in said
    other = tmp_path / "other.json"
    code, _, err = type_("audit", "absent", LEARNED, "--model", made.gguf.id, "--out", other)
    assert code == 3 and "no proof of absence" in err and not other.exists()
    code, _, err = type_("audit", "absent", HELD_OUT, "--model", made.gguf.id, "--out", out)
    assert code == 3 and "exists already" in err
    assert type_("audit", "absent", HELD_OUT)[0] == type_("audit", "absent", "--check", out, "--model", "m")[0] == 2


def test_an_unknown_patient_is_said_and_the_number_comes_by_stdin(type_, vault, monkeypatch):
    import io

    made = live(vault)
    vault.close()
    monkeypatch.setattr("sys.stdin", io.StringIO("4711\n"))
    code, said, err = type_("audit", "absent", "-", "--model", made.gguf.id)
    assert code == 0 and "No record of P-" in err and "4711" not in said + err
