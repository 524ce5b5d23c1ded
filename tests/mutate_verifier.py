"""Break the verifier by hand, one way after the other, and see a test fall each time.

    python tests/mutate_verifier.py            all of them, in a copy of the package; exit code 1 if one survives
    python tests/mutate_verifier.py --table    the list for docs/testing.md

A mutant that survives means that a rule of docs/audit-format.md could be lost without anybody noticing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BESIDE = ("appliance", "synth", "train")
"""Packages that the tests import, and that stay as they are."""


@dataclass(frozen=True)
class Mutant:
    """One break, and the test that must fall."""

    what: str
    """What the verifier fails to do now."""
    file: str
    """Which file of audit/ is changed."""
    old: str
    """What stands there, once."""
    new: str
    """What is put in its place."""
    test: str
    """The test in tests/audit."""


MUTANTS = (
    Mutant("hold an entry against its stored leaf hash", "verify.py", "if fault or leaf != stored:", "if fault:",
           "test_tampering.py::test_any_changed_byte_of_what_an_entry_says_names_that_entry"),
    Mutant("look at an entry's header", "verify.py", "if fault or leaf != stored:", "if leaf != stored:",
           "test_tampering.py::test_two_entries_in_each_others_place"),
    Mutant("notice a gap in the sequence", "verify.py", "if sequence != expected:", "if sequence < expected:",
           "test_tampering.py::test_a_deleted_entry"),
    Mutant("hold the tree against a checkpoint of its size (`<` for `<=`)", "verify.py",
           "while due is not None and due.checkpoint.size <= self.frontier.size:",
           "while due is not None and due.checkpoint.size < self.frontier.size:",
           "test_tampering.py::test_an_untouched_log_is_intact"),
    Mutant("compare a checkpoint's root", "verify.py", "if due.checkpoint.root != self.frontier.root():", "if False:",
           "test_tampering.py::test_a_replaced_entry_with_its_leaf_hash_made_to_fit"),
    Mutant("demand all entries that a checkpoint promises", "verify.py",
           "        if due is not None:\n            raise", "        if False:\n            raise",
           "test_tampering.py::test_an_older_copy_in_its_place_is_caught_by_the_mark"),
    Mutant("demand a checkpoint for the last entries", "verify.py", "if self.frontier.size > newest.size:", "if False:",
           "test_tampering.py::test_an_entry_that_nobody_signed_for"),
    Mutant("read the older checkpoints", "verify.py", "return heapq.merge(older, sorted", "return heapq.merge(sorted",
           "test_tampering.py::test_a_damaged_older_checkpoint_is_a_failure"),
    Mutant("check the tree's stored edge", "verify.py", "if head.frontier != self.frontier.to_bytes():", "if False:",
           "test_tampering.py::test_a_damaged_head_or_schema_is_a_failure"),
    Mutant("compare the stored subtrees", "verify.py", ".fetchone() != (complete.hash,):", ".fetchone() is None:",
           "test_tampering.py::test_changed_subtrees_are_a_failure"),
    Mutant("count the stored subtrees", "verify.py", "if self.subtrees != stored:", "if False:",
           "test_tampering.py::test_changed_subtrees_are_a_failure"),
    Mutant("prefer the pinned key to the log's own", "verify.py", "self.key = self.key or VerifierKey",
           "self.key = VerifierKey", "test_tampering.py::test_a_whole_log_rebuilt_with_another_key"),
    Mutant("read the high-water mark", "verify.py", "        if high_water is not None:\n                promises",
           "        if False:\n                promises",
           "test_tampering.py::test_an_older_copy_in_its_place_is_caught_by_the_mark"),
    Mutant("keep what the witness was promised", "verify.py", "[] if witness is None else [", "[] if True else [",
           "test_tampering.py::test_a_history_signed_by_a_stolen_key_is_caught_by_the_witness"),
    Mutant("demand the note about a predecessor", "verify.py", "if bool(note) != has_predecessor(key.name):",
           "if False:", "test_rotation.py::test_a_new_origin_without_its_predecessor_is_named"),
    Mutant("give a carried manifest's root", "verify.py", "            if not intact:", "            if False:",
           "test_carry.py::test_its_manifests_are_checked"),
    Mutant("refuse a view in the place of a table", "store.py", 'if kinds != [(b"table",)]:', "if False:",
           "test_tampering.py::test_a_view_that_speaks_for_the_table_is_caught"),
    Mutant("verify a signature", "checkpoint.py",
           "Ed25519PublicKey.from_public_bytes(key.public).verify(data[4:], text)", "pass",
           "test_notes.py::test_one_bad_signature_of_the_key_is_not_made_good_by_another"),
    Mutant("compare a checkpoint's origin with its key's name", "checkpoint.py",
           "    if checkpoint.origin != key.name:", "    if False:",
           "test_notes.py::test_a_checkpoint_under_another_name_is_none_of_this_log"),
    Mutant("insist on one spelling of base64", "checkpoint.py", "or _b64(data) != text:", "or False:",
           "test_notes.py::test_a_note_has_one_spelling"),
    Mutant("compare an entry's origin", "entry.py", "if self.origin != origin:", "if False:",
           "test_who_catches_what.py::test_what_catches_it_and_in_which_words"),
    Mutant("compare an entry's own number with its place", "entry.py", "if self.sequence != sequence:", "if False:",
           "test_who_catches_what.py::test_what_catches_it_and_in_which_words"),
    Mutant("refuse a segment from the future", "entry.py", " or self.segment > sequence:", ":",
           "test_who_catches_what.py::test_what_catches_it_and_in_which_words"),
    Mutant("compare a body's length with its size class", "entry.py", "if body_bytes != self.body_bytes:", "if False:",
           "test_two_verifiers.py::test_both_verifiers_agree_on_every_tampered_log"),
    Mutant("refuse a hash too many in an inclusion proof", "merkle.py",
           "    for p in proof:\n        if sn == 0:\n            return False",
           "    for p in proof:\n        if sn == 0:\n            break",
           "test_format.py::test_both_come_to_the_verdict_on_every_proof"),
    Mutant("refuse a hash too few in an inclusion proof", "merkle.py", "return sn == 0 and r == expected_root",
           "return r == expected_root", "test_merkle.py::test_a_proof_that_stops_halfway_proves_nothing"),
    Mutant("refuse an index beyond the tree", "merkle.py", "if not 0 <= index < size or not _hashes(leaf",
           "if not _hashes(leaf", "test_merkle.py::test_inclusion_is_proved_and_nothing_else_is"),
    Mutant("refuse a consistency proof to a smaller tree", "merkle.py", "if not 0 < first <= second or not _hashes(",
           "if not 0 < first or not _hashes(", "test_merkle.py::test_a_proof_that_stops_halfway_proves_nothing"),
    Mutant("refuse a hash too few in a consistency proof", "merkle.py", "return sn == 0 and fr == first_root",
           "return fr == first_root", "test_merkle.py::test_a_proof_that_stops_halfway_proves_nothing"),
    Mutant("hold a consistency proof against the old root", "merkle.py", "return sn == 0 and fr == first_root and",
           "return sn == 0 and", "test_merkle.py::test_consistency_is_proved_and_nothing_else_is"),
    Mutant("demand the order of key rotations", "rotation.py",
           "if one.new != next_.old or one.checkpoint.size >= next_.checkpoint.size:", "if False:",
           "test_rotation.py::test_key_rotations_must_follow_from_each_other"),
    Mutant("demand the new key's signature on a rotation", "rotation.py", "for key in (found.old, found.new):",
           "for key in (found.old,):", "test_rotation.py::test_one_signature_is_no_rotation"),
    Mutant("demand the old key's signature on a rotation", "rotation.py", "for key in (found.old, found.new):",
           "for key in (found.new,):", "test_rotation.py::test_one_signature_is_no_rotation"),
    Mutant("demand that the pinned key is one of the log's", "rotation.py", "if pinned not in chain.keys:", "if False:",
           "test_rotation.py::test_one_signature_is_no_rotation"),
    Mutant("take the new key from the size of its rotation on (`<` for `<=`)", "rotation.py",
           "sum(rotation.checkpoint.size <= size for", "sum(rotation.checkpoint.size < size for",
           "test_rotation.py::test_the_checkpoint_of_the_rotations_size_is_the_new_keys"),
    Mutant("compare a predecessor's checkpoint with the log's name", "rotation.py",
           " and origin.endswith(_suffix(checkpoint))", "",
           "test_rotation.py::test_another_predecessor_is_named"),
)  # fmt: skip


def copied(folder: Path) -> Path:
    """A copy of audit/ and its tests that may be broken, with the rest of the house beside it."""
    for name in ("audit", "tests/audit", "tests/vectors"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        (folder / name).symlink_to(ROOT / name)
    for name in ("tests/conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "docs").symlink_to(ROOT / "docs")
    return folder


def falls(folder: Path, *tests: str) -> bool:
    """Whether a test fails there. Raises RuntimeError where it could not be run at all."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--durations=0"]
    try:
        done = subprocess.run(
            [*command, *(f"tests/audit/{test}" for test in tests)],
            cwd=folder, capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:  # a break that makes a loop endless is noticed, too
        return True
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return done.returncode == 1


def survives(mutant: Mutant) -> bool:
    """Whether no test notices the break."""
    with tempfile.TemporaryDirectory() as name:
        folder = copied(Path(name))
        file = folder / "audit" / mutant.file
        text = file.read_text()
        if text.count(mutant.old) != 1:
            raise RuntimeError(f"{mutant.file} has {text.count(mutant.old)} times: {mutant.old}")
        file.write_text(text.replace(mutant.old, mutant.new))
        return not falls(folder, mutant.test)


def survivors() -> list[str]:
    """What of `MUTANTS` no test notices, after a look that the tests pass where nothing is broken."""
    with tempfile.TemporaryDirectory() as name:
        if falls(copied(Path(name)), *sorted({mutant.test for mutant in MUTANTS})):
            raise RuntimeError("the tests fail without a mutant")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [one.what for one, lives in zip(MUTANTS, pool.map(survives, MUTANTS), strict=True) if lives]


def table() -> str:
    """The list for docs/testing.md."""
    rows = [f"| {one.what} | `audit/{one.file}` | `{one.test.replace('.py::', '` `')}` |" for one in MUTANTS]
    return "\n".join(["| the verifier fails to | changed | the test that falls |", "|---|---|---|", *rows]) + "\n"


def main() -> int:
    """Run all, or print the list; the exit code."""
    if "--table" in sys.argv[1:]:
        print(table(), end="")
        return 0
    found = survivors()
    for what in found:
        print(f"SURVIVES: {what}")
    print(f"{len(MUTANTS) - len(found)} of {len(MUTANTS)} breaks of the verifier make a test fall")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
