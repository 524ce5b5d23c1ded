"""The witness refuses whatever takes something back, and its state survives kills, changes and wrong hands."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import merkle
from audit.checkpoint import Checkpoint, Signer
from audit.cosignature import Cosigner, open_cosignature
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.handout import prepare
from audit.keys import Cost
from audit.log import Log
from audit.rotation import Predecessor, Rotation, new_origin
from audit.verify import verify
from audit.watched import Read, Watched
from audit.witness import WitnessState

CHEAP = Cost(memory_kib=64, iterations=1, lanes=1)
NOW = 1_760_000_000
ROOT = Path(__file__).parents[2]
LEAVES = [merkle.leaf_hash(bytes([number])) for number in range(40)]
LOG = Signer.generate("cloche/log/test")


def note_of(size, leaves=LEAVES, signer=LOG):
    return signer.sign(Checkpoint(signer.key.name, size, merkle.root(leaves[:size])))


def proof_of(first, second, leaves=LEAVES):
    return merkle.consistency_proof(leaves[:second], first) if first else []


@pytest.fixture
def state(tmp_path):
    made = WitnessState.create(tmp_path / "witness.json", b"pass", CHEAP)
    made.pin(LOG.key)
    return made


@pytest.fixture
def at_13(state):
    state.cosign(note_of(13), 0, [], NOW)
    return state


def unmoved(state):
    """The state on the disk still stands at 13 entries."""
    again = WitnessState.load(state.path)
    assert again.last(LOG.key.name) == (Checkpoint(LOG.key.name, 13, merkle.root(LEAVES[:13])), NOW)


# -- what it cosigns


def test_it_cosigns_what_continues(state):
    assert state.last(LOG.key.name) is None
    known = 0
    for step, size in enumerate([0, 0, 1, 2, 7, 8, 8, 13, 32, 40]):
        note = note_of(size)
        made = state.cosign(note, known, proof_of(known, size), NOW + step)
        assert made.startswith(note) and made.count("\n— ".encode()) == 2
        assert open_cosignature(made, state.key) == (
            Checkpoint(LOG.key.name, size, merkle.root(LEAVES[:size])),
            NOW + step,
        )
        assert WitnessState.load(state.path).last(LOG.key.name)[0].size == size
        known = size


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pair_of_sizes(tmp_path_factory, first, second):
    state = WitnessState.create(tmp_path_factory.mktemp("w") / "w.json", b"pass", CHEAP)
    state.pin(LOG.key)
    state.cosign(note_of(first), 0, [], NOW)
    if second >= first:
        assert state.cosign(note_of(second), first, proof_of(first, second), NOW)
    else:
        with pytest.raises(IntegrityFailure, match="rollback"):
            state.cosign(note_of(second), first, proof_of(second, first), NOW)


def test_signatures_of_strangers_are_passed_over_and_left_out(at_13):
    stranger = Cosigner.generate("cloche/witness/other")
    note = note_of(20) + stranger.cosign(note_of(20).partition(b"\n\n")[0] + b"\n", NOW)
    made = at_13.cosign(note, 13, proof_of(13, 20), NOW)
    assert b"other" not in made and open_cosignature(made, at_13.key)[0].size == 20


def test_the_clock_set_back_is_refused(at_13):
    with pytest.raises(Refused, match="clock"):
        at_13.cosign(note_of(20), 13, proof_of(13, 20), NOW - 1)
    unmoved(at_13)
    assert at_13.cosign(note_of(20), 13, proof_of(13, 20), NOW)


# -- what it refuses

EMPTY_LINE = note_of(20).partition(b"\n\n")[0] + b"\n\nmore\n"
FORKED = [*LEAVES[:9], merkle.leaf_hash(b"another"), *LEAVES[10:]]


@pytest.mark.parametrize(
    "note, old, proof, error, says",
    [
        (note_of(12), 12, [], IntegrityFailure, "rollback"),
        (note_of(12), 13, proof_of(12, 13), IntegrityFailure, "rollback"),
        (note_of(0), 0, [], IntegrityFailure, "rollback"),
        (note_of(13, FORKED), 13, [], IntegrityFailure, "fork"),
        (note_of(20, FORKED), 13, proof_of(13, 20, FORKED), IntegrityFailure, "proof"),
        (note_of(20, FORKED), 13, proof_of(13, 20), IntegrityFailure, "proof"),
        (note_of(20), 12, proof_of(12, 20), BadInput, "starts from 12"),
        (note_of(20), 0, [], BadInput, "starts from 0"),
        (note_of(20), 14, proof_of(14, 20), BadInput, "starts from 14"),
        (note_of(20), 13, [], IntegrityFailure, "proof"),
        (note_of(20), 13, proof_of(13, 20)[:-1], IntegrityFailure, "proof"),
        (note_of(20), 13, [*proof_of(13, 20), bytes(32)], IntegrityFailure, "proof"),
        (note_of(20), 13, [bytes(32), *proof_of(13, 20)], IntegrityFailure, "proof"),
        (note_of(20), 13, proof_of(13, 20)[::-1], IntegrityFailure, "proof"),
        (note_of(20), 13, proof_of(13 ^ 2, 20), IntegrityFailure, "proof"),
        (note_of(20), 13, proof_of(12, 20), IntegrityFailure, "proof"),
        (note_of(20), 13, proof_of(13, 21), IntegrityFailure, "proof"),
        (note_of(20), 13, [one[:-1] for one in proof_of(13, 20)], IntegrityFailure, "proof"),
        (note_of(13), 13, [bytes(32)], IntegrityFailure, "proof"),
        (note_of(20, LEAVES, Signer.generate(LOG.key.name)), 13, proof_of(13, 20), IntegrityFailure, "signed"),
        (note_of(20, LEAVES, Signer.generate("cloche/log/other")), 0, [], Refused, "does not watch"),
        (note_of(20).partition(b"\n\n")[0] + b"\n", 13, proof_of(13, 20), IntegrityFailure, "no signed note"),
        (note_of(20) + b"garbage\n", 13, proof_of(13, 20), IntegrityFailure, "no signed note"),
        (note_of(20)[:-20] + b"\n", 13, proof_of(13, 20), IntegrityFailure, "signed"),
        (note_of(20).replace(b"\n20\n", b"\n21\n"), 13, proof_of(13, 21), IntegrityFailure, "signed"),
        (note_of(20).replace(b"\n20\n", b"\n020\n"), 13, proof_of(13, 20), IntegrityFailure, "checkpoint"),
        (note_of(20).replace(b"\n20\n", b"\n-20\n"), 13, proof_of(13, 20), IntegrityFailure, "checkpoint"),
        (LOG.sign_text(b"cloche/log/test\n20\nAA==\n"), 13, proof_of(13, 20), IntegrityFailure, "checkpoint"),
        (LOG.sign_text(EMPTY_LINE), 13, proof_of(13, 20), IntegrityFailure, "empty"),
        (LOG.sign_text(b"\n20\n" + note_of(20).split(b"\n")[2] + b"\n"), 13, proof_of(13, 20), Refused, "not watch"),
        (LOG.sign_text(b"other\ncloche/log/test\n20\n"), 13, proof_of(13, 20), Refused, "not watch"),
        (b"", 13, [], IntegrityFailure, "no signed note"),
        (b"\xff\xfe\n\n\xe2\x80\x94 x y\n", 13, [], IntegrityFailure, "no signed note"),
    ],
)  # fmt: skip
def test_it_refuses(at_13, note, old, proof, error, says):
    with pytest.raises(error, match=says) as failure:
        at_13.cosign(note, old, proof, NOW + 1)
    assert type(failure.value) is error
    unmoved(at_13)
    assert at_13.cosign(note_of(20), 13, proof_of(13, 20), NOW + 1), "the refusal must not lock it"


@pytest.mark.parametrize("spot", range(0, 32 * 4, 3))
def test_a_bit_flipped_in_a_proof_is_refused(at_13, spot):
    proof = [bytearray(one) for one in proof_of(13, 20)]
    proof[spot // 32 % len(proof)][spot % 32] ^= 1 << spot % 8
    with pytest.raises(IntegrityFailure, match="proof"):
        at_13.cosign(note_of(20), 13, [bytes(one) for one in proof], NOW)
    unmoved(at_13)


def test_an_empty_tree_with_a_made_up_root_is_refused(state):
    with pytest.raises(IntegrityFailure, match="proof"):
        state.cosign(LOG.sign(Checkpoint(LOG.key.name, 0, bytes(32))), 0, [], NOW)
    with pytest.raises(IntegrityFailure, match="proof"):
        state.cosign(note_of(5), 0, [bytes(32)], NOW)


def test_a_second_command_that_waited_sees_what_the_first_has_done(at_13):
    """The race of C2SP tlog-witness: both checked against 13, the smaller one comes last."""
    slow = WitnessState.open(at_13.path, b"pass")
    assert slow.last(LOG.key.name)[0].size == 13
    at_13.cosign(note_of(30), 13, proof_of(13, 30), NOW)
    with pytest.raises(IntegrityFailure, match="rollback"):
        slow.cosign(note_of(20), 13, proof_of(13, 20), NOW)
    with pytest.raises(BadInput, match="starts from 13"):
        slow.cosign(note_of(35), 13, proof_of(13, 35), NOW)
    assert WitnessState.load(at_13.path).last(LOG.key.name)[0].size == 30


# -- keys that change


def rotation(old, new, size, leaves=LEAVES):
    return Rotation(Checkpoint(old.key.name, size, merkle.root(leaves[:size])), old.key, new.key).sign(old, new)


def test_it_follows_a_log_that_was_handed_over(at_13):
    new = Signer.generate(LOG.key.name)
    with pytest.raises(IntegrityFailure, match="signed"):
        at_13.cosign(note_of(20, LEAVES, new), 13, proof_of(13, 20), NOW)
    note = rotation(LOG, new, 16)
    assert at_13.follow_rotation(note) == new.key == at_13.follow_rotation(note)
    with pytest.raises(IntegrityFailure, match="signed"):  # the old key signs no more
        at_13.cosign(note_of(20), 13, proof_of(13, 20), NOW)
    assert at_13.cosign(note_of(15), 13, proof_of(13, 15), NOW), "what the old key signed before"
    made = at_13.cosign(note_of(20, LEAVES, new), 15, proof_of(15, 20), NOW)
    assert open_cosignature(made, at_13.key)[0].size == 20
    third = Signer.generate(LOG.key.name)
    at_13.follow_rotations(LOG.key.name, [note, rotation(new, third, 24)])
    assert WitnessState.open(at_13.path, b"pass").watched(LOG.key.name).chain.newest == third.key


def test_it_does_not_follow_just_anybody(at_13):
    new, thief = Signer.generate(LOG.key.name), Signer.generate(LOG.key.name)
    text = rotation(LOG, new, 16).partition(b"\n\n")[0] + b"\n"
    for note, says in [
        (rotation(thief, new, 16), "does not trust"),
        (rotation(LOG, new, 13), "yet its old key"),
        (rotation(LOG, new, 9), "yet its old key"),
        (LOG.sign_text(text), "signed"),
        (new.sign_text(text), "signed"),
        (b"", "damaged"),
        (text, "damaged|signed"),
        (note_of(20), "damaged"),
        (rotation(LOG, new, 16).replace(b"\n16\n", b"\n17\n"), "signed"),
    ]:
        with pytest.raises(IntegrityFailure, match=says):
            at_13.follow_rotation(note)
    other = Signer.generate("cloche/log/other")
    with pytest.raises(Refused, match="does not watch"):
        at_13.follow_rotation(rotation(other, Signer.generate("cloche/log/other"), 16))
    at_13.follow_rotation(rotation(LOG, new, 16))
    with pytest.raises(IntegrityFailure, match="does not trust"):  # the old key hands over once
        at_13.follow_rotation(rotation(LOG, thief, 18))


def begun_anew(size, leaves=LEAVES, key=LOG.key):
    before = Checkpoint(key.name, size, merkle.root(leaves[:size]))
    new = Signer.generate(new_origin(before))
    return new, Predecessor(new.key.name, "stolen", before, key).sign(new)


def test_it_adopts_a_log_that_goes_on_from_what_it_knows(at_13):
    new, note = begun_anew(13)
    with pytest.raises(Refused, match="does not watch"):
        at_13.cosign(note_of(3, LEAVES, new), 0, [], NOW)
    at_13.adopt(new.key, note)
    at_13.adopt(new.key, note)
    assert at_13.cosign(note_of(3, LEAVES, new), 0, [], NOW)
    with pytest.raises(Refused, match="goes on from"):  # a thief with the old key finds no witness
        at_13.cosign(note_of(20), 13, proof_of(13, 20), NOW)
    with pytest.raises(Refused, match="adopted already"):
        at_13.adopt(*(lambda made: (made[0].key, made[1]))(begun_anew(13)))
    assert WitnessState.load(at_13.path).watched(LOG.key.name).successor == new.key.name


def test_it_adopts_a_larger_predecessor_by_proof_only(at_13):
    new, note = begun_anew(20)
    with pytest.raises(IntegrityFailure, match="proof"):
        at_13.adopt(new.key, note)
    at_13.adopt(new.key, note, proof_of(13, 20))
    assert new.key.name in at_13.origins


def test_it_adopts_nothing_else(at_13):
    forked, fork_note = begun_anew(13, FORKED)
    with pytest.raises(IntegrityFailure, match="fork"):
        at_13.adopt(forked.key, fork_note)
    older, older_note = begun_anew(12)
    with pytest.raises(IntegrityFailure, match="rollback"):
        at_13.adopt(older.key, older_note)
    stranger, strange_note = begun_anew(13, LEAVES, Signer.generate(LOG.key.name).key)
    with pytest.raises(IntegrityFailure, match="another key"):
        at_13.adopt(stranger.key, strange_note)
    new, note = begun_anew(13)
    with pytest.raises(IntegrityFailure):
        at_13.adopt(Signer.generate(new.key.name).key, note)
    unknown, unknown_note = begun_anew(13, LEAVES, Signer.generate("cloche/log/unknown").key)
    with pytest.raises(Refused, match="does not watch"):
        at_13.adopt(unknown.key, unknown_note)
    with pytest.raises(Refused, match="another key"):  # a pin is no adoption
        at_13.pin(Signer.generate(LOG.key.name).key)
    assert at_13.origins == (LOG.key.name,)
    unmoved(at_13)


# -- its file


def test_the_state_is_private_and_holds_no_secret_in_clear(at_13):
    assert at_13.path.stat().st_mode & 0o777 == 0o600
    data = at_13.path.read_bytes()
    found = json.loads(data)
    private = at_13._cosigner.to_bytes()
    assert private not in data and private.hex().encode() not in data and found["private"]["kdf"] == "argon2id"
    with pytest.raises(Refused, match="exists already"):
        WitnessState.create(at_13.path, b"pass", CHEAP)


def test_a_wrong_passphrase_or_none_is_refused(at_13):
    with pytest.raises(Refused, match="passphrase"):
        WitnessState.open(at_13.path, b"wrong")
    with pytest.raises(Refused, match="empty"):
        WitnessState.create(at_13.path.with_name("other"), b"", CHEAP)
    locked = WitnessState.load(at_13.path)
    for act in (
        lambda: locked.cosign(note_of(20), 13, proof_of(13, 20)),
        lambda: locked.pin(Signer.generate("x").key),
        lambda: locked.visit(LOG.key.name),
    ):
        with pytest.raises(Refused, match="locked"):
            act()
    unmoved(at_13)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_state_that_others_can_read_is_refused(at_13, mode):
    at_13.path.chmod(mode)
    with pytest.raises(Refused, match="read by others"):
        WitnessState.load(at_13.path)


def test_a_truncated_state_is_named_not_a_traceback(at_13):
    data = at_13.path.read_bytes()
    for length in [0, 1, 10, *range(20, len(data) - 1, 97), len(data) - 2]:
        at_13.path.write_bytes(data[:length])
        with pytest.raises((BadInput, IntegrityFailure)):
            WitnessState.load(at_13.path)
    at_13.path.unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        WitnessState.load(at_13.path)
    at_13.path.mkdir(mode=0o700)
    with pytest.raises((BadInput, Refused)):
        WitnessState.load(at_13.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(kind="other"),
        lambda found: found.update(format=2),
        lambda found: found.update(format="1"),
        lambda found: found.pop("private"),
        lambda found: found.update(logs=[]),
        lambda found: found.update(signature="AAAA"),
        lambda found: found["private"].update(salt="AAAA"),
        lambda found: found["logs"][LOG.key.name].update(key=Signer.generate(LOG.key.name).key.to_text()),
        lambda found: found["logs"][LOG.key.name].update(cosigned=""),
        lambda found: found["logs"][LOG.key.name].update(successor="x"),
        lambda found: found["logs"][LOG.key.name].update(reads=[{}]),
        lambda found: found["logs"][LOG.key.name].update(carried="1"),
        lambda found: found["logs"].update({"other\nname": found["logs"][LOG.key.name]}),
        lambda found: found["logs"].clear(),
        lambda found: found.update(public=Cosigner.generate("cloche/witness/other").key.to_text()),
    ],
)
def test_a_state_changed_by_hand_is_refused(at_13, change):
    found = json.loads(at_13.path.read_bytes())
    change(found)
    at_13.path.write_text(json.dumps(found))
    with pytest.raises((BadInput, Refused, IntegrityFailure)):
        WitnessState.open(at_13.path, b"pass")
    with pytest.raises((BadInput, Refused, IntegrityFailure)):
        at_13.cosign(note_of(20), 13, proof_of(13, 20), NOW)


def test_json_that_is_no_state(tmp_path):
    path = tmp_path / "w.json"
    for text in ("[]", "null", "1", '"x"', "{}", "[" * 5000, "\x00"):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(BadInput):
            WitnessState.load(path)


def test_a_kill_between_write_and_rename_leaves_the_old_state(at_13):
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from audit.witness import WitnessState\n"
        "state = WitnessState.open(Path(sys.argv[1]), b'pass')\n"
        "def die(*_): os.kill(os.getpid(), 9)\n"
        "os.replace = die\n"
        "state.cosign(bytes.fromhex(sys.argv[2]), 13, [bytes.fromhex(one) for one in sys.argv[4:]], int(sys.argv[3]))\n"
    )
    proof = [one.hex() for one in proof_of(13, 20)]
    arguments = [sys.executable, "-c", program, str(at_13.path), note_of(20).hex(), str(NOW + 5), *proof]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path for path in at_13.path.parent.iterdir() if path != at_13.path]
    assert len(left) == 1 and len(left[0].read_bytes()) > 500, "it died after the writing"
    unmoved(at_13)
    assert at_13.cosign(note_of(20), 13, proof_of(13, 20), NOW + 5)


def test_a_full_disk_leaves_the_old_state(at_13):
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from audit.witness import WitnessState\n"
        "state = WitnessState.open(Path(sys.argv[1]), b'pass')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "state.add_read(sys.argv[2], 'grace', 'audit show', {})\n"
    )
    arguments = [sys.executable, "-c", program, str(at_13.path), LOG.key.name]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "EnvironmentProblem" in done.stderr, done.stderr
    assert os.listdir(at_13.path.parent) == [at_13.path.name]
    unmoved(at_13)


# -- readings


def test_readings_are_noted_without_the_passphrase(at_13):
    locked = WitnessState.load(at_13.path)
    assert locked.add_read(LOG.key.name, "grace", "audit show", {"kind": "object.used", "patient": "P-ABC"}) == 1
    assert at_13.add_read(LOG.key.name, "grace", "audit review", {"findings": "none", "patients": ["P-1", "P-2"]}) == 2
    unmoved(at_13)
    again = WitnessState.load(at_13.path)
    first, second = again.watched(LOG.key.name).waiting
    assert first.patients == ("P-ABC",) and second.patients == ("P-1", "P-2") and first.at.endswith("Z")
    again.acknowledge(LOG.key.name, 1)
    assert [one.number for one in again.watched(LOG.key.name).waiting] == [2]
    again.acknowledge(LOG.key.name, 0)
    with pytest.raises(Refused, match="never had"):
        again.acknowledge(LOG.key.name, 3)
    assert [one.number for one in WitnessState.load(at_13.path).watched(LOG.key.name).waiting] == [2]
    with pytest.raises(Refused, match="does not watch"):
        again.add_read("cloche/log/other", "grace", "audit show", {})
    for bad in ({"x": float("nan")}, {"x": object()}, {"x": "y" * 20_000}):
        with pytest.raises(BadInput):
            again.add_read(LOG.key.name, "grace", "audit show", bad)
    for user, command, detail in (
        ("", "audit show", {}),
        ("grace\nroot", "audit show", {}),
        ("grace", "audit \x1b[2J", {}),
        ("grace", "audit show", {"patient": "P-1\n"}),
        ("grace", "audit review", {"findings": "two\nlines"}),
    ):
        with pytest.raises(BadInput):
            again.add_read(LOG.key.name, user, command, detail)
    assert len(WitnessState.load(at_13.path).watched(LOG.key.name).reads) == 2


TEXTS = st.text(min_size=1, max_size=40)
LINES = TEXTS.filter(lambda one: one.isprintable() and one.strip())
READS = st.builds(
    Read,
    number=st.integers(1, 10**9),
    at=st.datetimes().map(lambda one: one.isoformat(timespec="seconds") + "Z"),
    user=LINES,
    command=LINES,
    detail=st.dictionaries(
        TEXTS, st.one_of(st.none(), st.booleans(), st.integers(), TEXTS, st.lists(TEXTS)), max_size=4
    ),
)


@given(st.lists(READS, max_size=5, unique_by=lambda one: one.number), st.integers(0, 9))
def test_what_is_watched_comes_back_from_json(reads, carried):
    watched = Watched(LOG.key, reads=tuple(sorted(reads, key=lambda one: one.number)), carried=carried)
    assert Watched.from_dict(json.loads(json.dumps(watched.to_dict()))) == watched


# -- a real log against it


@pytest.fixture
def witnessed(kit, event, tmp_path):
    """A log of 15 entries of which the witness has cosigned the first 12."""
    state = WitnessState.create(tmp_path / "w.json", b"pass", CHEAP)
    state.pin(kit.signer.key)
    with kit.open() as log:
        log.append_many([event(number) for number in range(11)])
        state.cosign(log.checkpoint(), 0, [], NOW)
        log.append_many([event(number) for number in range(3)])
    return kit, state.last(kit.signer.key.name)[0]


def test_the_witness_catches_a_rebuild_with_the_stolen_key_up_to_its_n(witnessed, event):
    kit, checkpoint = witnessed
    assert checkpoint.size == 12 and verify(kit.path, kit.signer.key, None, checkpoint).state == "intact"
    kit.path.unlink()
    kit.mark.unlink()
    recipients = [kit.auditor.recipient, kit.recovery.recipient]
    with Log.create(kit.path, kit.signer, recipients, kit.mark) as log:
        log.append_many([event(number) for number in range(14)])
    assert verify(kit.path, kit.signer.key, kit.mark).state == "intact", "pin and mark cannot tell"
    verdict = verify(kit.path, kit.signer.key, kit.mark, checkpoint)
    assert verdict.state == "failed" and "kept elsewhere" in verdict.why and verdict.failed_at < 12


def test_beyond_its_n_who_has_the_key_can_rewrite(kit, event, tmp_path):
    """What the witness does not promise; it is promised again with its next cosignature."""
    state = WitnessState.create(tmp_path / "w.json", b"pass", CHEAP)
    state.pin(kit.signer.key)
    with kit.open() as log:
        log.append_many([event(number) for number in range(11)])
        state.cosign(log.checkpoint(), 0, [], NOW)
    at_12, mark = kit.path.read_bytes(), kit.mark.read_bytes()
    with kit.open() as log:
        log.append(event(1))
        true = log.checkpoint()
    way = prepare(kit.path, 12)
    kit.path.write_bytes(at_12)
    kit.mark.write_bytes(mark)
    with kit.open() as log:
        log.append_many([event(2), event(3)])
    first = state.last(kit.signer.key.name)[0]
    assert first.size == 12 and verify(kit.path, kit.signer.key, kit.mark, first).state == "intact"
    state.cosign(true, 12, way.proof.hashes, NOW)
    second = state.last(kit.signer.key.name)[0]
    verdict = verify(kit.path, kit.signer.key, kit.mark, second)
    assert second.size == 14 and verdict.state == "failed" and "kept elsewhere" in verdict.why


@pytest.mark.parametrize("keep", [0, 5, 11])
def test_the_witness_catches_a_log_cut_short(witnessed, event, keep):
    kit, checkpoint = witnessed
    recipients = [kit.auditor.recipient, kit.recovery.recipient]
    shorter = kit.path.with_name("shorter")
    with Log.create(shorter, kit.signer, recipients, kit.path.with_name("mark")) as log:
        if keep:
            log.append_many([event(number) for number in range(keep - 1)])
    verdict = verify(shorter, kit.signer.key, None, checkpoint)
    assert verdict.state == "failed"


def test_the_witness_catches_an_older_copy_and_a_dropped_wal(kit, event, tmp_path):
    state = WitnessState.create(tmp_path / "w.json", b"pass", CHEAP)
    state.pin(kit.signer.key)
    log = kit.open()
    log.append(event(1))
    older = kit.path.read_bytes()  # the entries stand in the write-ahead log alone
    wal = kit.path.with_name(kit.path.name + "-wal")
    assert wal.stat().st_size > 0
    state.cosign(log.checkpoint(), 0, [], NOW)
    checkpoint = state.last(kit.signer.key.name)[0]
    assert verify(kit.path, kit.signer.key, None, checkpoint).state == "intact"
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(older)
    assert verify(copy, kit.signer.key, None).state == "intact", "nothing inside can tell"
    verdict = verify(copy, kit.signer.key, None, checkpoint)
    assert verdict.state == "failed" and "it is missing" in verdict.why
    log.close()
