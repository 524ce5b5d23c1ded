"""A visit brings cosignature and readings to the appliance, once, and only from the witness and the log it is about."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.actor import Actor
from audit.checkpoint import Signer
from audit.cosignature import Cosigner
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.events import Event
from audit.handout import prepare
from audit.home import HIGH_WATER, LOG, WITNESSED
from audit.keys import Cost
from audit.reading import read
from audit.vault import Vault
from audit.visit import Visit
from audit.watched import Read
from audit.witness import WitnessState
from audit.witnessed import READINGS, import_visit, last_cosigned, readings_taken, witnesses

CHEAP = Cost(memory_kib=64, iterations=1, lanes=1)
GRACE = Actor("grace", "officer")
WITNESS = Cosigner.generate("cloche/witness/test")


@pytest.fixture
def laptop(tmp_path, vault):
    made = WitnessState.create(tmp_path / "witness.json", b"pass", CHEAP)
    made.pin(vault.log_key)
    return made


def cosign(laptop, vault):
    """What an officer's walk does: checkpoint and proof over, cosigned there."""
    origin = vault.log_key.name
    last = laptop.last(origin)
    way = prepare(vault.home / LOG, last[0].size if last else 0).proof
    return laptop.cosign(way.note, way.old_size, way.hashes)


def events(vault, pair):
    size = prepare(vault.home / LOG, 0).checkpoint.size
    return [one.event for one in read(vault.home / LOG, pair, size)]


def test_a_visit_pins_its_witness_and_becomes_events(laptop, vault, people):
    origin = vault.log_key.name
    laptop.add_read(origin, "hopper", "audit show", {"patient": "P-ABC", "kind": "object.used"})
    laptop.add_read(origin, "hopper", "audit review", {"from": 0, "until": 2, "findings": "nothing unusual"})
    made = cosign(laptop, vault)
    done = import_visit(vault, laptop.visit(origin), GRACE)
    assert (done.pinned, done.reads, done.reads_to, done.witnessed_to) == (True, 2, 2, 2)
    assert witnesses(vault.home) == (laptop.key,)
    stands = last_cosigned(vault.home, origin)
    assert stands.note == made == (vault.home / WITNESSED).read_bytes() and stands.witness == laptop.key.name
    pinned, first, second, witnessed = events(vault, people[0])[-4:]
    assert pinned.kind == "keys.changed" and pinned.detail["key"] == laptop.key.to_text() and pinned.actor == GRACE
    assert first.kind == "audit.read" and first.actor == Actor("hopper", "officer") and first.patients == ("P-ABC",)
    assert first.detail["command"] == "audit show" and first.detail["number"] == 1
    assert first.detail["read_at"] == laptop.watched(origin).reads[0].at
    assert second.kind == "audit.reviewed" and second.detail["findings"] == "nothing unusual"
    assert (second.detail["from"], second.detail["until"]) == (0, 2)
    assert witnessed.kind == "checkpoint.witnessed" and witnessed.detail["size"] == 2
    assert witnessed.detail["checkpoint"] == stands.checkpoint.root.hex() and witnessed.actor == GRACE
    assert done.sequences == tuple(range(done.sequences[0], done.sequences[0] + 4))


def test_the_same_visit_twice_adds_nothing(laptop, vault):
    origin = vault.log_key.name
    laptop.add_read(origin, "hopper", "audit show", {})
    cosign(laptop, vault)
    carried = laptop.visit(origin)
    import_visit(vault, carried, GRACE)
    before = {path: (vault.home / path).read_bytes() for path in (WITNESSED, READINGS)}
    size = prepare(vault.home / LOG, 0).checkpoint.size
    again = import_visit(vault, carried, GRACE)
    assert (again.reads, again.sequences, again.pinned, again.reads_to, again.witnessed_to) == (0, (), False, 1, 2)
    assert prepare(vault.home / LOG, 0).checkpoint.size == size
    assert {path: (vault.home / path).read_bytes() for path in before} == before


def test_an_older_visit_moves_nothing_back(laptop, vault):
    origin = vault.log_key.name
    cosign(laptop, vault)
    older = laptop.visit(origin)
    import_visit(vault, older, GRACE)
    laptop.add_read(origin, "hopper", "audit show", {})
    cosign(laptop, vault)
    done = import_visit(vault, laptop.visit(origin), GRACE)
    assert done.reads == 1 and done.witnessed_to > 2
    again = import_visit(vault, older, GRACE)
    assert again.witnessed_to == done.witnessed_to and not again.sequences
    assert last_cosigned(vault.home, origin).checkpoint.size == done.witnessed_to


def test_readings_are_taken_up_where_the_last_visit_ended(laptop, vault):
    origin = vault.log_key.name
    for number in range(3):
        laptop.add_read(origin, "hopper", "audit show", {"number": number})
    assert import_visit(vault, laptop.visit(origin), GRACE).reads == 3
    laptop.add_read(origin, "hopper", "audit user", {})
    assert import_visit(vault, laptop.visit(origin), GRACE).reads == 1  # the receipt has not come yet
    assert readings_taken(vault.home, origin) == {laptop.key.name: 4}
    laptop.acknowledge(origin, 4)
    assert Visit.open(laptop.visit(origin)).reads == ()
    laptop.add_read(origin, "hopper", "audit user", {})
    assert [one.number for one in Visit.open(laptop.visit(origin)).reads] == [5]


def test_another_witness_is_refused_unless_it_is_asked_for(laptop, vault, tmp_path):
    origin = vault.log_key.name
    cosign(laptop, vault)
    import_visit(vault, laptop.visit(origin), GRACE)
    second = WitnessState.create(tmp_path / "second.json", b"pass", CHEAP)
    second.pin(vault.log_key)
    second.add_read(origin, "mallory", "audit show", {})
    cosign(second, vault)
    size = prepare(vault.home / LOG, 0).checkpoint.size
    with pytest.raises(Refused, match="not the one that the appliance knows"):
        import_visit(vault, second.visit(origin), GRACE)
    assert prepare(vault.home / LOG, 0).checkpoint.size == size and witnesses(vault.home) == (laptop.key,)
    done = import_visit(vault, second.visit(origin), GRACE, new_witness=True)
    assert done.pinned and witnesses(vault.home) == (laptop.key, second.key)
    assert last_cosigned(vault.home, origin).witness == second.key.name
    assert readings_taken(vault.home, origin) == {second.key.name: 1}
    assert import_visit(vault, laptop.visit(origin), GRACE).sequences == ()


def test_a_visit_from_another_log_is_refused(laptop, vault):
    other = Signer.generate("cloche/log/other")
    laptop.pin(other.key)
    with pytest.raises(Refused, match="another log"):
        import_visit(vault, laptop.visit("cloche/log/other"), GRACE)
    cosign(laptop, vault)
    mixed = Visit("cloche/log/other", laptop.key, laptop.watched(vault.log_key.name).cosigned, ())
    with pytest.raises(IntegrityFailure, match="another log"):
        import_visit(vault, mixed.sign(laptop._cosigner.notes), GRACE)


def test_a_log_that_is_not_the_one_that_was_cosigned_is_an_integrity_failure(laptop, vault):
    """An appliance put back, log and mark, to what it was before the officer's visit: it cannot tell, the visit can."""
    vault.close()
    log, mark = (vault.home / LOG).read_bytes(), (vault.home / HIGH_WATER).read_bytes()
    with Vault.open(vault.home, b"correct horse") as live:
        live.record(Event("note", GRACE))
        cosign(laptop, live)
    carried = laptop.visit(vault.log_key.name)
    (vault.home / LOG).write_bytes(log)
    (vault.home / HIGH_WATER).write_bytes(mark)
    with Vault.open(vault.home, b"correct horse") as back:
        with pytest.raises(IntegrityFailure, match="not the one that was witnessed to 4 entries: it has 2"):
            import_visit(back, carried, GRACE)
        back.record_many([Event("note", GRACE), Event("note", GRACE)])
        with pytest.raises(IntegrityFailure, match="not the one that was witnessed"):
            import_visit(back, carried, GRACE)
    assert not (vault.home / WITNESSED).exists() and witnesses(vault.home) == ()


def test_a_visit_must_be_signed_by_its_witness(laptop, vault):
    origin = vault.log_key.name
    laptop.add_read(origin, "hopper", "audit show", {})
    cosign(laptop, vault)
    good = laptop.visit(origin)
    text = good.rpartition(b"\n\n")[0] + b"\n"
    thief = Cosigner.generate(laptop.key.name)
    for bad in (
        thief.notes.sign_text(text),
        good.replace(b"hopper", b"nobody"),
        good[:-10] + b"\n",
        good + b"more\n",
        text + b"\n",
        Visit(origin, thief.key, laptop.watched(origin).cosigned, ()).sign(thief.notes),
    ):
        with pytest.raises((IntegrityFailure, BadInput)):
            import_visit(vault, bad, GRACE)
    assert not (vault.home / WITNESSED).exists()
    assert import_visit(vault, good, GRACE).reads == 1


@pytest.mark.parametrize("data", [b"", b"\n\n", b"cloche/visit/v1\nx\n{}\n\n", b"\xff" * 40, b"[" * 9000])
def test_what_is_no_visit_is_bad_input(data):
    with pytest.raises(BadInput):
        Visit.open(data)


def test_readings_out_of_order_are_no_visit():
    twice = tuple(Read(number, "2026-10-01T00:00:00Z", "grace", "audit show") for number in (2, 1))
    for reads in (twice, (twice[0], twice[0])):
        with pytest.raises(BadInput):
            Visit.open(Visit("cloche/log/test", WITNESS.key, b"", reads).sign(WITNESS.notes))


TEXT = st.text(min_size=1, max_size=30)
LINE = TEXT.filter(lambda one: one.isprintable() and one.strip())


@given(st.lists(st.tuples(LINE, LINE, st.dictionaries(TEXT, TEXT, max_size=3)), max_size=4))
@settings(deadline=None)
def test_a_visit_comes_back_whatever_its_readings_say(found):
    reads = tuple(
        Read(number, "2026-10-01T00:00:00Z", user, command, {f"_{key}": value for key, value in detail.items()})
        for number, (user, command, detail) in enumerate(found, 1)
    )
    visit = Visit("cloche/log/test", WITNESS.key, b"", reads)
    assert Visit.open(visit.sign(WITNESS.notes)) == visit


@given(st.binary(max_size=200))
def test_no_bytes_end_in_a_traceback(data):
    good = Visit("cloche/log/test", WITNESS.key, b"", ()).sign(WITNESS.notes)
    for found in (data, good[:60] + data, data + good, good + data):
        if found != good:
            with pytest.raises((BadInput, IntegrityFailure)):
                Visit.open(found)


def test_a_changed_byte_of_a_visit_is_refused():
    reads = (Read(1, "2026-10-01T00:00:00Z", "grace", "audit show", {"patient": "P-ABC"}),)
    good = Visit("cloche/log/test", WITNESS.key, b"", reads).sign(WITNESS.notes)
    for spot in range(len(good)):
        changed = bytearray(good)
        changed[spot] ^= 1
        with pytest.raises((BadInput, IntegrityFailure)):
            Visit.open(bytes(changed))


@pytest.mark.parametrize("content", [b"[]", b'{"x": 1}', b'{"x": {"y": "z"}}', b"{", b"\xff"])
def test_a_damaged_account_of_readings_is_named(laptop, vault, content):
    laptop.add_read(vault.log_key.name, "hopper", "audit show", {})
    (vault.home / READINGS).write_bytes(content)
    size = prepare(vault.home / LOG, 0).checkpoint.size
    with pytest.raises(BadInput, match="imported readings"):
        import_visit(vault, laptop.visit(vault.log_key.name), GRACE)
    assert prepare(vault.home / LOG, 0).checkpoint.size == size


def test_a_changed_witnessed_file_is_an_integrity_failure(laptop, vault):
    cosign(laptop, vault)
    import_visit(vault, laptop.visit(vault.log_key.name), GRACE)
    path = vault.home / WITNESSED
    path.write_bytes(path.read_bytes().replace(b"\n2\n", b"\n1\n"))
    with pytest.raises(IntegrityFailure, match="not cosigned"):
        last_cosigned(vault.home, vault.log_key.name)
    assert json.loads((vault.home / READINGS).read_bytes() if (vault.home / READINGS).exists() else b"{}") == {}
