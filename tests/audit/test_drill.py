"""The drill: box challenges, laptop answers, box records; and what must not pass for any of the three."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.actor import Actor
from audit.drill import Answer, Challenge
from audit.entry import Entry
from audit.errors import BadInput, IntegrityFailure, Refused
from audit.keys import Cost
from audit.reading import read
from audit.sealing import Segment, SegmentReader, open_with, seal_to, sealed_secrets
from audit.vault import Vault

ACTOR = Actor("grace", "officer")
PASSPHRASE = b"correct horse"
NOW = "2026-11-21T10:00:00+00:00"


def challenged(vault):
    return Challenge.from_bytes(vault.ceremonies.challenge(NOW), "there")


def drills(vault, people):
    path = vault.home / "audit" / "log.sqlite"
    events = [one.event for one in read(path, people[0], 10_000)]
    return [event for event in events if event.kind == "keys.drilled"]


def test_who_has_the_key_answers_and_it_stands_in_the_log(vault, people):
    challenge = challenged(vault)
    assert vault.ceremonies.drilled() == {}
    for pair in people[:2]:
        answer = challenge.answer(pair).to_bytes()
        assert vault.ceremonies.record_drill(answer, ACTOR, NOW) == (pair.recipient.to_dict(), True)
        assert vault.ceremonies.record_drill(answer, ACTOR, "later") == (pair.recipient.to_dict(), False)
    assert vault.ceremonies.drilled() == {pair.recipient.key_id.hex(): NOW for pair in people[:2]}
    first, second = drills(vault, people)
    assert (first.actor.user, first.detail["name"], second.detail["name"]) == ("grace", "auditor", "recovery")
    assert first.detail["key_id"] == people[0].recipient.key_id.hex() and first.detail["challenged_at"] == NOW


def test_what_the_box_keeps_makes_no_answer(vault, people):
    challenge = challenged(vault)
    answer = challenge.answer(people[0])
    kept = (vault.home / "audit" / "drills.json").read_text()
    assert answer.proof.hex() not in kept and answer.challenge.hex() in kept
    assert (vault.home / "audit" / "drills.json").stat().st_mode & 0o777 == 0o600


def test_a_wrong_a_strange_and_an_old_answer_are_refused(vault, people):
    challenge = challenged(vault)
    good = challenge.answer(people[0])
    for bad in (
        replace(good, proof=bytes(32)),
        replace(good, proof=challenge.answer(people[1]).proof),
        replace(good, key_id=people[1].recipient.key_id),
        replace(good, challenge=bytes(16)),
        replace(good, key_id=people[2].recipient.key_id),
    ):
        with pytest.raises(Refused):
            vault.ceremonies.record_drill(bad.to_bytes(), ACTOR, NOW)
    assert vault.ceremonies.record_drill(good.to_bytes(), ACTOR, NOW)[1]
    next_ = challenged(vault)
    assert vault.ceremonies.record_drill(next_.answer(people[0]).to_bytes(), ACTOR, NOW)[1]
    with pytest.raises(Refused, match="no challenge"):  # the first again: it is not the last any more
        vault.ceremonies.record_drill(good.to_bytes(), ACTOR, NOW)
    assert len(drills(vault, people)) == 2


def test_a_challenge_is_for_recipients_and_whole(vault, people):
    challenge = challenged(vault)
    with pytest.raises(Refused, match="not for this key"):
        challenge.answer(people[2])
    key_id = people[0].recipient.key_id
    sealed = dict(challenge.sealed)
    for changed in (
        replace(challenge, id=bytes(16)),
        replace(challenge, origin="cloche/log/other"),
        replace(challenge, commitment=bytes(32)),
        replace(challenge, sealed={**sealed, key_id: sealed[people[1].recipient.key_id]}),
        replace(challenge, sealed={**sealed, key_id: b""}),
    ):
        with pytest.raises(IntegrityFailure):
            changed.answer(people[0])


def test_recipients_challenged_with_different_secrets_are_told(people):
    """Who gives each another secret could later say that one of them did not drill."""
    from audit import drill

    challenge, _ = Challenge.make("cloche/log/test", [people[0].recipient, people[1].recipient], NOW)
    context = drill._context(challenge.id, challenge.origin, challenge.commitment)
    other = seal_to(people[1].recipient, b"another secret".ljust(32), context)
    split = replace(challenge, sealed={**challenge.sealed, people[1].recipient.key_id: other})
    split.answer(people[0])
    with pytest.raises(IntegrityFailure, match="promises to all"):
        split.answer(people[1])


def test_an_opening_of_the_log_does_not_pass_for_a_challenge(people):
    """The box must not learn anything of what it cannot read by asking for a drill."""
    origin = b"o" * 32
    segment = Segment(origin, 0, [people[0].recipient, people[1].recipient])
    sealed = sealed_secrets(segment.opening)
    trick = Challenge(bytes(16), "cloche/log/test", NOW, segment.opening.body[:32], sealed)
    with pytest.raises(IntegrityFailure, match="does not open"):
        trick.answer(people[0])


def test_an_opening_that_hands_out_different_secrets_is_told_by_each_honest_recipient(people):
    """Each checks its secret against the opening's commitment; only who was given the committed one reads."""
    segment = Segment(b"o" * 32, 0, [people[0].recipient, people[1].recipient])
    header, body = segment.opening.header, segment.opening.body
    info = b"cloche/audit/v1/opening\x00" + header
    secret = open_with(people[0], sealed_secrets(segment.opening)[people[0].recipient.key_id], info)

    def handing(*secrets):
        parts = [body[:32], bytes([2])]
        for pair, one in zip(people, secrets, strict=False):
            parts += [pair.recipient.key_id, seal_to(pair.recipient, one, info)]
        return Entry(header, b"".join(parts).ljust(len(body), b"\x00"))

    assert SegmentReader.open(handing(secret, secret), people[0]) is not None
    split = handing(secret, b"another".ljust(32))
    assert SegmentReader.open(split, people[0]) is not None
    with pytest.raises(IntegrityFailure, match="promised"):
        SegmentReader.open(split, people[1])
    both = handing(b"one".ljust(32), b"another".ljust(32))
    for pair in people[:2]:
        with pytest.raises(IntegrityFailure, match="promised"):
            SegmentReader.open(both, pair)


def test_a_retired_recipient_drills_no_more_and_a_new_one_does(vault, people):
    challenge = challenged(vault)
    vault.close()
    with Vault.open(vault.home, PASSPHRASE, alone=True) as again:
        again.ceremonies.add_recipient(people[2].recipient.to_dict(), ACTOR)
        again.ceremonies.retire_recipient("auditor", ACTOR)
        with pytest.raises(Refused, match="no more"):
            again.ceremonies.record_drill(challenge.answer(people[0]).to_bytes(), ACTOR, NOW)
        answer = challenged(again).answer(people[2]).to_bytes()
        assert again.ceremonies.record_drill(answer, ACTOR, NOW)[1]


def test_a_changed_book_is_told(vault, people):
    challenge, book = challenged(vault), vault.home / "audit" / "drills.json"
    found = json.loads(book.read_text())
    whole = book.read_bytes()
    found["drilled"][people[1].recipient.key_id.hex()] = {"at": NOW, "check": "00"}
    for changed in (json.dumps(found), "{}", "[]", "", json.dumps({**json.loads(whole), "mark": "é"})):
        book.write_text(changed)
        with pytest.raises(IntegrityFailure, match="book of drills"):
            vault.ceremonies.drilled()
        with pytest.raises(IntegrityFailure, match="book of drills"):
            vault.ceremonies.record_drill(challenge.answer(people[0]).to_bytes(), ACTOR, NOW)
    book.write_bytes(whole)
    assert vault.ceremonies.drilled() == {}


def test_only_the_last_challenges_are_kept(vault, people):
    first = challenged(vault)
    for _ in range(16):
        last = challenged(vault)
    with pytest.raises(Refused, match="no challenge"):
        vault.ceremonies.record_drill(first.answer(people[0]).to_bytes(), ACTOR, NOW)
    assert vault.ceremonies.record_drill(last.answer(people[0]).to_bytes(), ACTOR, NOW)[1]


def test_an_answer_that_cannot_be_logged_is_not_noted(vault, people):
    answer = challenged(vault).answer(people[0]).to_bytes()
    connection = vault._custodian._log._connection
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(Exception, match="disk"):
        vault.ceremonies.record_drill(answer, ACTOR, NOW)
    connection.execute("PRAGMA query_only = OFF")
    assert vault.ceremonies.drilled() == {}
    assert vault.ceremonies.record_drill(answer, ACTOR, NOW)[1]


@given(st.binary(max_size=400))
def test_bytes_that_are_neither_are_bad_input(data):
    for kind in (Challenge, Answer):
        with pytest.raises(BadInput):
            kind.from_bytes(data, "there")


def test_files_with_fields_of_other_kinds_are_bad_input(vault, people):
    challenge = challenged(vault)
    for kind, whole in ((Challenge, challenge.to_bytes()), (Answer, challenge.answer(people[0]).to_bytes())):
        found = json.loads(whole)
        assert kind.from_bytes(whole, "there").to_bytes() == whole
        for field in found:
            if field in ("origin", "made"):
                continue
            for value in (None, 1, "zz", [], {"a": 1}):
                with pytest.raises(BadInput):
                    kind.from_bytes(json.dumps({**found, field: value}).encode(), "there")
        with pytest.raises(BadInput):
            kind.from_bytes(b"[" * 100_000, "there")
        with pytest.raises(BadInput):
            kind.from_bytes(whole.ljust(300_000), "there")


def test_both_suites_drill(tmp_path):
    from audit.keys import generate

    pair = generate("auditor", "MLKEM768-X25519")
    challenge, checks = Challenge.make("cloche/log/test", [pair.recipient], NOW)
    answer = Challenge.from_bytes(challenge.to_bytes(), "there").answer(pair)
    assert set(checks) == {answer.key_id} and Answer.from_bytes(answer.to_bytes(), "there") == answer


# -- as typed


def test_a_drill_as_typed(type_, vault, people, tmp_path, monkeypatch):
    people[0].save(tmp_path / "auditor.key", b"pass", Cost(64, 1, 1))
    secret = tmp_path / "key-passphrase"
    secret.write_text("pass\n")
    secret.chmod(0o600)
    code, out, _ = type_("audit", "drill", "challenge", tmp_path / "c.json")
    assert code == 0 and "auditor, recovery" in out
    assert type_("audit", "drill", "challenge", tmp_path / "c.json")[0] == 3  # it is there already
    with monkeypatch.context() as laptop:
        laptop.setenv("CLOCHE_PASSPHRASE_FILE", str(secret))
        typed = ("audit", "drill", "answer", tmp_path / "c.json", "--key", tmp_path / "auditor.key")
        code, out, _ = type_(*typed, tmp_path / "a.json", home=tmp_path / "nowhere")
        assert code == 0 and "auditor can read the log" in out
        assert type_(*typed, tmp_path / "a.json", home=tmp_path / "nowhere")[0] == 3
        swapped = ("audit", "drill", "answer", tmp_path / "a.json", "--key", tmp_path / "auditor.key")
        code, _, err = type_(*swapped, tmp_path / "b.json")
        assert code == 3 and "no file of the kind" in err
    assert type_("audit", "drill", "record", tmp_path / "c.json")[0] == 3
    code, out, _ = type_("audit", "drill", "record", tmp_path / "a.json")
    assert code == 0 and out == "auditor has drilled\n"
    code, out, _ = type_("audit", "drill", "record", tmp_path / "a.json", "--json")
    assert code == 0 and json.loads(out)["recorded"] is False
    rows = {row["name"]: row for row in json.loads(type_("audit", "recipient", "list", "--json")[1])}
    assert rows["auditor"]["overdue"] is False and rows["recovery"]["last_drill"] == ""
    assert type_("audit", "recipient", "list")[1].count("OVERDUE") == 2  # recovery, and what to do
    assert len(drills(vault, people)) == 1
