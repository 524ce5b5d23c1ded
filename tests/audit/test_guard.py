"""The policy enforced: in the vault, and through its own process."""

import base64
import os
from collections import Counter

import pytest

from audit.actor import Actor
from audit.errors import BadInput, ClocheError, Refused
from audit.events import Event
from audit.guard import groups_of
from audit.kinds import PURPOSES
from audit.policy import OF_ROLE, ROLES
from audit.reading import read
from audit.remote import RemoteVault
from audit.rows import NewObject, Record
from audit.vault import Vault
from audit.verify import verify
from tests.audit.conftest import PASSPHRASE

ME = Actor.current("steward")
OPERATOR = Actor.current("operator")
OFFICER = Actor.current("officer")
TAGS = "[consent]\nrequired = true\n[consent.tags]\nresearch = ['HRESCH', 'HOPERAT']\ncare = ['TREAT']\n"
SECRET = b"the plaintext of nobody else"


@pytest.fixture(params=["engine", "process"])
def both(vault, request):
    """The engine itself, and the same vault through its own process."""
    if request.param == "engine":
        yield vault
    else:
        with RemoteVault.open(vault.home, PASSPHRASE) as remote:
            yield remote


def put_policy(vault, text):
    path = vault.home / "policy.toml"
    path.write_text(text)
    path.chmod(0o600)


def add(vault, number, patient="P-AAAAAAAAAA", consent="", expires="", source="", created=""):
    image, report = vault.put_many(
        [NewObject("image", SECRET, patient), NewObject("report", SECRET, patient)], actor=ME, activity="ingest"
    )
    made = Record(
        f"rec-{number}", patient, image, report, f"digest {number}", "train", created, consent, expires, source
    )
    return vault.catalogue.add_record(made)


def events(vault, people, kind):
    path = vault.home / "audit" / "log.sqlite"
    found = [one.event for one in read(path, people[0], verify(path).size)]
    return [event for event in found if event.kind == kind]


def use(vault, objects, purpose="HRESCH", actor=ME):
    with vault.use(objects, purpose, actor, "test") as opened:
        return [opened.read(one) for one in opened.ids]


def refused(vault, people, objects, rule, purpose="HRESCH", actor=ME):
    """A use is refused by a rule, as one event more and without one of use; the event is returned."""
    used, before = events(vault, people, "object.used"), events(vault, people, "access.refused")
    with pytest.raises(Refused, match="does not allow") as told:
        use(vault, objects, purpose, actor)
    assert told.value.where == f'policy.toml, rule "{rule}"'
    assert "P-" not in str(told.value) and "rec-" not in str(told.value)
    assert events(vault, people, "object.used") == used
    *earlier, last = events(vault, people, "access.refused")
    assert earlier == before and last.detail["rule"] == rule
    assert (last.actor.role, last.purpose, last.activity, last.outcome) == (actor.role, purpose, "test", "serious")
    assert not last.patients and not last.objects and last.detail["objects"] in (0, len(objects))
    return last


@pytest.mark.parametrize("role", ROLES)
def test_each_role_for_each_purpose(vault, people, role):
    record = add(vault, 1, consent="research")
    put_policy(vault, "[purposes]\n[consent.tags]\nresearch = ['TREAT', 'HRESCH', 'HOPERAT']\n")
    for purpose in PURPOSES:
        if purpose in OF_ROLE[role]:
            assert use(vault, [record.image], purpose, Actor("ada", role)) == [SECRET]
        else:
            refused(vault, people, [record.image], f"purposes.{role}", purpose, Actor("ada", role))


def test_a_home_without_a_policy_is_as_before(both, people):
    record = add(both, 1)
    assert all(use(both, [record.image], purpose) == [SECRET] for purpose in PURPOSES)
    assert not events(both, people, "access.refused") and not events(both, people, "settings.changed")
    assert not (both.home / "audit" / "policy").exists()
    with pytest.raises(Refused, match="purpose of use"):
        use(both, [record.image], "CURIOSITY")
    assert len(events(both, people, "access.refused")) == 1


def test_consent_is_asked_for_record_by_record(both, people):
    records = [
        add(both, 1, consent="research"),
        add(both, 2, consent="care"),
        add(both, 3, consent="withdrawn"),
        add(both, 4, consent="research", expires="2020-01-01"),
        add(both, 5),
        add(both, 6, consent="mistyped"),
        add(both, 7, consent="research", expires="2999-01-01"),
    ]
    put_policy(both, TAGS)
    assert use(both, [records[0].image, records[6].report]) == [SECRET] * 2
    rules = ["consent.tags.care", "consent.withdrawn", "consent.expired", "consent.required", "consent.tags.unknown"]
    for record, rule in zip(records[1:6], rules, strict=True):
        refused(both, people, [record.report], rule)
    whole = refused(both, people, [o for r in records for o in (r.image, r.report)], "consent.expired")
    assert whole.detail["records"] == 7 and whole.detail["rules"] == dict.fromkeys(rules, 1)
    allowed, left_out = both.permitted([one.id for one in records], "HRESCH")
    assert allowed == ["rec-1", "rec-7"] and left_out == dict.fromkeys(rules, 1)


def test_a_refusal_gives_no_key(vault, people, monkeypatch):
    record = add(vault, 1, consent="withdrawn")
    given = []
    monkeypatch.setattr(vault._custodian, "release", lambda *a: given.append(a))  # must not even be asked
    refused_error = pytest.raises(Refused)
    with refused_error:
        use(vault, [record.image])
    assert not given


def test_what_was_made_from_a_record_is_held_to_it(vault, people):
    record, fine = add(vault, 1, consent="withdrawn"), add(vault, 2, "P-BBBBBBBBBB")
    feature = vault.put("features", b"f", actor=ME, patient=record.patient, parents=[record.image])
    deeper = vault.put("features", b"f", actor=ME, patient=record.patient, parents=[feature])
    alone = vault.put("features", b"f", actor=ME, patient=record.patient)  # leads nowhere: all of the patient's
    packed = vault.put("conversations", b"p", actor=ME, parents=[record.image, fine.image])
    put_policy(vault, "")
    for object_id in (feature, deeper, alone):
        refused(vault, people, [fine.image, object_id], "consent.withdrawn")
    assert use(vault, [packed, fine.image]) == [b"p", SECRET]
    nobodys = vault.put("image", b"i", actor=ME, patient="P-CCCCCCCCCC")
    assert use(vault, [nobodys]) == [b"i"]
    put_policy(vault, TAGS)
    refused(vault, people, [nobodys], "consent.required")


def test_sources_and_retention(both, people):
    old = add(both, 1, created="2001-01-01T00:00:00.000Z")
    scan = add(both, 2, source="pacs-2019")
    put_policy(
        both, "[retention]\ndays = 3650\n[[rules]]\nname = 'no-research-2019'\nsource = 'pacs-2019'\npurposes = []\n"
    )
    refused(both, people, [old.image], "retention.days")
    refused(both, people, [scan.image], "no-research-2019")


def test_roles_are_granted_to_accounts_and_groups(both, people):
    record = add(both, 1)
    group = groups_of(ME.user)[0]
    put_policy(both, f"[roles]\nsteward = ['@{group}']\nofficer = ['nobody-else']\n")
    assert use(both, [record.image]) == [SECRET]
    for actor in (OFFICER, Actor.current("clinician"), Actor.current("janitor")):
        with pytest.raises(Refused, match="does not allow") as told:
            both.put("report", b"x", actor=actor)
        assert "roles." in told.value.where
        with pytest.raises(Refused, match="does not allow"):
            both.delete([record.image], actor=actor, activity="clean")
        with pytest.raises(Refused, match="does not allow"):
            use(both, [record.image], "HOPERAT", actor)
    assert len(events(both, people, "access.refused")) == 9 and both.catalogue.objects("report") == [
        both.catalogue.object(record.report)
    ]
    assert not list((both.home / "vault" / "incoming").iterdir())
    assert groups_of("no such account") == []


def test_an_event_cannot_claim_a_role_that_is_not_granted(vault, people):
    put_policy(vault, f"[roles]\nsteward = ['{ME.user}']\nofficer = ['nobody-else']\n")
    with RemoteVault.open(vault.home, PASSPHRASE) as remote:
        assert remote.record(Event("note", ME))
        with pytest.raises(Refused, match="does not allow"):
            remote.record(Event("audit.reviewed", OFFICER))
    assert not events(vault, people, "audit.reviewed")


def test_ceremonies_need_the_role(vault, people):
    put_policy(vault, f"[roles]\nsteward = ['{ME.user}']\nofficer = ['nobody-else']\n")
    vault.close()
    with RemoteVault.open(vault.home, PASSPHRASE, alone=True) as alone:
        for act in (
            lambda: alone.ceremonies.rotate_key(OFFICER),
            lambda: alone.ceremonies.add_recipient(people[2].recipient.to_dict(), OFFICER),
            lambda: alone.ceremonies.change_passphrase(b"new", actor=OFFICER),
        ):
            with pytest.raises(Refused, match="does not allow"):
                act()
        assert alone.ceremonies.drilled() == {}
    assert [e.activity for e in events(vault, people, "access.refused")] == [
        "rotate_key", "add_recipient", "change_passphrase",
    ]  # fmt: skip


def test_a_policy_swapped_while_the_vault_is_open_counts_and_is_told_once(vault, people):
    record = add(vault, 1)
    with RemoteVault.open(vault.home, PASSPHRASE) as remote, RemoteVault.open(vault.home, PASSPHRASE) as other:
        assert use(remote, [record.image]) == [SECRET]
        put_policy(vault, TAGS)
        refused(remote, people, [record.image], "consent.required")
        refused(other, people, [record.image], "consent.required")
        (told,) = events(vault, people, "settings.changed")
        assert told.detail["after"] == remote.policy()["digest"] != told.detail["before"]
        (vault.home / "policy.toml").unlink()
        assert use(other, [record.image]) == [SECRET]
    back = events(vault, people, "settings.changed")[-1]
    assert (back.detail["before"], back.detail["after"]) == (told.detail["after"], told.detail["before"])
    with Vault.open(vault.home, PASSPHRASE):
        assert len(events(vault, people, "settings.changed")) == 2


def test_a_policy_changed_while_the_vault_was_shut_is_told_when_it_opens(vault, people):
    put_policy(vault, TAGS)
    vault.close()
    with Vault.open(vault.home, PASSPHRASE) as again:
        (told,) = events(again, people, "settings.changed")
    assert told.actor.role == "service" and told.detail["after"] == again.guard.policy().digest()
    note = vault.home / "audit" / "policy"
    digest, mark = note.read_text().split()
    for forged in (f"{'0' * 64} {mark}", f"{digest} {'0' * 64}", "", "\xff\xfe", f"{digest} {mark} x"):
        note.write_bytes(forged.encode("latin-1"))
        with Vault.open(vault.home, PASSPHRASE):
            last = events(vault, people, "settings.changed")[-1]
        assert "altered" in last.detail["change"] and note.read_text().split() == [digest, mark]
    assert len(events(vault, people, "settings.changed")) == 6


def repr_short(value):
    return repr(value)[:20]


def break_by(path, how):
    if how == "pipe":
        os.mkfifo(path)
    elif how == "directory":
        path.mkdir()
    elif how == "dangling":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(how)
        path.chmod(0o602 if how == b"" else 0o600)


BROKEN = [b"[roles", b"a = 1\0", b"#" * 70_000, b"", "pipe", "directory", "dangling"]


@pytest.mark.parametrize("how", BROKEN, ids=repr_short)
def test_a_policy_that_cannot_be_read_forbids_everything_but_a_better_one(both, people, how):
    record = add(both, 1)
    path = both.home / "policy.toml"
    break_by(path, how)
    for act in (
        lambda: use(both, [record.image]),
        lambda: both.put("report", b"x", actor=ME),
        lambda: both.delete([record.image], actor=ME, activity="clean"),
        lambda: both.set_consent([record.id], ME, withdraw=True),
    ):
        with pytest.raises(ClocheError) as told:
            act()
        assert "policy" in str(told.value) and isinstance(told.value, BadInput | Refused)
    assert len(events(both, people, "access.refused")) == 4
    with RemoteVault.open(both.home, PASSPHRASE) as again:  # it opens, so that it can be mended
        if how == "directory":
            with pytest.raises(BadInput, match="directory"):
                again.set_policy(b"", OPERATOR)
            assert not events(both, people, "settings.changed")
        else:
            assert again.set_policy(b"", OPERATOR)["where"] == "policy.toml"
            assert use(both, [record.image]) == [SECRET]


def test_setting_a_policy_is_an_event_of_who_did_it(both, people):
    before = both.policy()["digest"]
    for actor in (ME, Actor.current("clinician")):
        with pytest.raises(Refused):
            both.set_policy(TAGS.encode(), actor)
    with pytest.raises(BadInput):
        both.set_policy(b"nonsense", OPERATOR)
    assert not (both.home / "policy.toml").exists()
    after = both.set_policy(TAGS.encode(), OPERATOR)["digest"]
    (told,) = events(both, people, "settings.changed")
    assert (told.actor.role, told.detail["before"], told.detail["after"]) == ("operator", before, after)
    assert (both.home / "policy.toml").stat().st_mode & 0o777 == 0o600
    mine = f"[roles]\nofficer = ['{ME.user}']\n".encode()
    both.set_policy(mine, OFFICER)
    with pytest.raises(Refused, match="does not allow"):
        both.set_policy(b"", OPERATOR)
    assert (both.home / "policy.toml").read_bytes() == mine
    both.set_policy(b"", OFFICER)


def test_nobody_sets_policy_consent_or_links_as_somebody_else(vault):
    record, other = add(vault, 1), add(vault, 2, "P-BBBBBBBBBB")
    eve = Actor("eve", "officer")
    with RemoteVault.open(vault.home, PASSPHRASE) as remote:
        for act in (
            lambda: remote.set_policy(b"", eve),
            lambda: remote.set_consent([record.id], eve, withdraw=True),
            lambda: remote.link(record.patient, other.patient, eve),
        ):
            with pytest.raises(Refused, match="somebody else"):
                act()


def test_consent_is_entered_changed_and_withdrawn(both, people):
    one, other = add(both, 1), add(both, 2, "P-BBBBBBBBBB")
    both.set_policy(TAGS.encode(), OPERATOR)
    assert both.set_consent([one.id, other.id, one.id], ME, tags=["research", "care"], expires="2999-12-31") == 2
    assert both.catalogue.record(one.id).consent == "care research" and use(both, [one.image]) == [SECRET]
    both.set_consent([one.id], ME, withdraw=True)
    refused(both, people, [one.image], "consent.withdrawn")
    assert use(both, [other.image], "HOPERAT") == [SECRET]
    both.set_consent([one.id], ME, tags=["research"], expires="")
    assert both.catalogue.record(one.id).expires == "" and use(both, [one.image]) == [SECRET]
    said = [(e.objects, e.detail) for e in events(both, people, "record.consented")]
    assert said[0] == ((one.id, other.id), {"consent": "care research", "expires": "2999-12-31"})
    assert [detail for _, detail in said[1:]] == [{"consent": "withdrawn"}, {"consent": "research", "expires": ""}]
    for wrong in ({"tags": ["unheard-of"]}, {"expires": "soon"}, {}, {"tags": ["care"], "withdraw": True}):
        with pytest.raises(BadInput):
            both.set_consent([one.id], ME, **wrong)
    with pytest.raises(BadInput, match="no such record"):
        both.set_consent([one.id, "rec-none"], ME, withdraw=True)
    assert both.catalogue.record(one.id).consent == "research"


def test_identities_of_one_patient_are_found_from_each(both, people):
    names = [f"P-{letter * 10}" for letter in "ABCDE"]
    for number, name in enumerate(names):
        add(both, number, name)
    a, b, c, d, e = names
    assert both.catalogue.identities(a) == (a,) and both.catalogue.identities("P-NOBODY") == ("P-NOBODY",)
    assert both.link(b, a, ME) == (a, b)
    both.link(d, c, ME)
    assert both.link(a, c, OFFICER) == (a, b, c, d)
    assert all(both.catalogue.identities(name) == (a, b, c, d) for name in (a, b, c, d))
    for pair in ((a, b), (b, a), (b, d), (a, a)):  # no cycle can be made
        with pytest.raises(BadInput, match="one patient already"):
            both.link(*pair, ME)
    with pytest.raises(BadInput, match="no record"):
        both.link(a, "P-NOBODY", ME)
    with pytest.raises(Refused, match="may not"):
        both.link(a, e, OPERATOR)
    with pytest.raises(Refused, match="may not"):
        both.link(a, c, ME, undo=True)
    with pytest.raises(BadInput, match="not linked with one another"):
        both.link(b, d, OFFICER, undo=True)
    assert both.link(c, a, OFFICER, undo=True) == (c, d) and both.catalogue.identities(b) == (a, b)
    linked, undone = events(both, people, "patient.linked"), events(both, people, "patient.unlinked")
    assert [e.patients for e in linked] == [(a, b), (c, d), (a, c)] and undone[0].patients == (a, c)
    assert linked[0].detail == {"splits": {"train": 2}}


def test_a_cycle_in_the_table_ends(vault):
    for one, other in (("a", "b"), ("b", "c"), ("a", "c"), ("c", "c")):
        vault.catalogue.change("INSERT INTO links VALUES (?, ?, '')", one, other)
    assert vault.catalogue.identities("b") == ("a", "b", "c")


def named(number):
    """An id as the vault gives them."""
    return base64.b32encode(number.to_bytes(16, "big")).decode().rstrip("=").lower()


def test_twenty_thousand_objects_in_a_handful_of_statements(vault, people):
    records = [add(vault, number, f"P-{number}", consent="research") for number in range(3)]
    template = vault.catalogue.object(records[0].image)
    with vault.catalogue.transaction():
        for number in range(20_000):
            columns = "kind, patient, size, digest, salt, version, created, note, deleted"
            query = f"INSERT INTO objects SELECT ?, {columns} FROM objects WHERE id = ?"  # noqa: S608
            vault.catalogue.change(query, named(number), template.id)
            vault.catalogue.change("INSERT INTO parents VALUES (?, ?)", named(number), records[number % 3].image)
    put_policy(vault, TAGS)
    vault.policy()
    asked = [named(number) for number in range(20_000)]
    said = Counter()
    vault.catalogue._connection.set_trace_callback(lambda statement: said.update([statement.split()[0]]))
    with vault.use(asked, "HRESCH", ME, "train") as opened:
        assert opened.ids == asked
    assert sum(said.values()) <= 4, said
    vault.catalogue._connection.set_trace_callback(None)
    vault.set_consent([records[1].id], ME, withdraw=True)
    last = refused(vault, people, asked, "consent.withdrawn")
    assert last.detail["records"] == 3 and last.detail["rules"] == {"consent.withdrawn": 1}
