"""The policy's file: read strictly, and what each of its rules forbids."""

import re
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.actor import Actor
from audit.errors import BadInput
from audit.kinds import PURPOSES
from audit.policy import MOST_BYTES, OF_ROLE, ROLES, Policy, Rule, Terms, check_date, check_source, parse, tags_of

TODAY = date(2030, 6, 15)
DOCUMENT = Path(__file__).parents[2] / "docs" / "policy.md"


def example() -> bytes:
    return re.search(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1].encode()


def terms(consent="", expires="", source="", created="2030-01-01"):
    return Terms(consent, expires, source, created)


def test_the_documented_policy_is_one_and_says_what_the_page_says():
    policy = parse(example())
    assert policy.roles["steward"] == ("@imaging-research", "ada") and policy.consent_required
    assert policy.purposes == OF_ROLE and policy.retention_days == 3650
    assert policy.tags["care-only"] == ("HOPERAT", "TREAT")
    assert policy.rules[0] == Rule("no-research-2019", "pacs-2019", "", ("HOPERAT", "TREAT"))
    assert policy.rules[1] == Rule("broad-consent-five-years", "", "broad-research", None, 1826)


def test_without_a_file_everybody_may_do_everything_but_what_a_record_forbids():
    policy = Policy.default()
    assert not policy.refuses_actor(Actor("anybody", "whatever"), list)
    assert not any(policy.refuses_purpose(role, purpose) for role in (*ROLES, "b") for purpose in PURPOSES)
    assert not policy.refuses_record(terms(created="1970-01-01"), "HRESCH", TODAY)
    assert policy.refuses_record(terms("withdrawn"), "HRESCH", TODAY) == "consent.withdrawn"
    assert policy.refuses_record(terms(expires="2030-06-14"), "TREAT", TODAY) == "consent.expired"


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("role", [*ROLES, "janitor"])
def test_each_role_has_its_purposes_and_no_others(role, purpose):
    found = parse(b"").refuses_purpose(role, purpose)
    allowed = purpose in OF_ROLE.get(role, ())
    assert found == ("" if allowed else f"purposes.{role if role in ROLES else 'unknown'}")


def test_a_file_can_give_a_role_other_purposes_or_none():
    policy = parse(b"[purposes]\nclinician = ['TREAT', 'HRESCH']\nsteward = []\n")
    assert not policy.refuses_purpose("clinician", "HRESCH") and not policy.refuses_purpose("officer", "HOPERAT")
    assert all(policy.refuses_purpose("steward", purpose) == "purposes.steward" for purpose in PURPOSES)


def test_roles_are_of_accounts_groups_or_everybody():
    policy = parse(b"[roles]\nsteward = ['ada', '@research']\nofficer = ['grace']\nclinician = ['*']\n")
    asked = []

    def groups(*names):
        return lambda: asked.append(1) or names

    assert not policy.refuses_actor(Actor("ada", "steward"), groups()) and not asked
    assert not policy.refuses_actor(Actor("eve", "steward"), groups("staff", "research"))
    assert policy.refuses_actor(Actor("eve", "steward"), groups("staff")) == "roles.steward"
    assert policy.refuses_actor(Actor("@research", "steward"), groups()) == "roles.steward"
    assert not policy.refuses_actor(Actor("eve", "clinician"), groups())
    assert policy.refuses_actor(Actor("ada", "operator"), groups("research")) == "roles.operator"
    assert policy.refuses_actor(Actor("ada", "x" * 60), groups()) == "roles.unknown"


@pytest.mark.parametrize(
    ("of", "purpose", "rule"),
    [
        (terms("broad-research"), "HRESCH", "broad-consent-five-years-no"),
        (terms("care-only"), "HRESCH", "consent.tags.care-only"),
        (terms("care-only"), "TREAT", ""),
        (terms("broad-research care-only"), "TREAT", ""),
        (terms(), "TREAT", "consent.required"),
        (terms("withdrawn"), "HOPERAT", "consent.withdrawn"),
        (terms("broad-research withdrawn"), "HOPERAT", "consent.withdrawn"),
        (terms("mistyped"), "TREAT", "consent.tags.unknown"),
        (terms("care-only", "2030-06-15"), "TREAT", ""),
        (terms("care-only", "2030-06-14"), "TREAT", "consent.expired"),
        (terms("care-only", created="2020-06-16"), "TREAT", "retention.days"),
        (terms("care-only", created="2020-06-17"), "TREAT", ""),
        (terms("broad-research", source="pacs-2019"), "HRESCH", "no-research-2019"),
        (terms("broad-research", source="pacs-2019"), "TREAT", ""),
        (terms("broad-research", created="2025-06-14"), "TREAT", "broad-consent-five-years"),
    ],
)
def test_each_rule_forbids_what_it_says_and_is_named(of, purpose, rule):
    found = parse(example()).refuses_record(of, purpose, TODAY)
    assert found == ("" if rule == "broad-consent-five-years-no" else rule)


def test_the_digest_is_of_what_it_says_not_of_how_it_stands_there():
    plain = parse(b"[consent]\nrequired = true\n[roles]\nofficer=['b','a']\n")
    assert plain.digest() == parse(b"# a remark\n[roles]\nofficer = ['a', 'b', 'a']\n[consent]\nrequired=true").digest()
    assert plain.digest() == parse(b"roles.officer=['a','b']\nconsent.required=true", "other").digest()
    assert len({plain.digest(), parse(b"").digest(), Policy.default().digest(), parse(example()).digest()}) == 4


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("retentoin = 3", "retentoin"),
        ("[roles]\nstewards = ['ada']", "roles.stewards"),
        ("[roles]\nsteward = 'ada'\nofficer = ['a']", "roles.steward"),
        ("[roles]\nofficer = [1]", "roles.officer"),
        ("[roles]\nofficer = ['@']", "roles.officer"),
        ("[roles]\nofficer = ['']", "roles.officer"),
        ('[roles]\nofficer = ["a\\u0000b"]', "roles.officer"),
        ("[roles]\nsteward = ['ada']", "roles"),
        ("roles = []", "roles"),
        ("[purposes]\nsteward = ['MARKETING']", "purposes.steward"),
        ("[purposes]\njanitor = ['TREAT']", "purposes.janitor"),
        ("[consent]\nrequired = 1", "consent.required"),
        ("[consent]\nrequired = 'yes'", "consent.required"),
        ("[consent]\nwanted = true", "consent.wanted"),
        ("consent = 3", "consent"),
        ("[consent]\ntags = ['a']", "consent.tags"),
        ("[consent.tags]\nwithdrawn = ['TREAT']", "consent.tags"),
        ("[consent.tags]\n'Müller, Anna' = ['TREAT']", "consent.tags"),
        ("[consent.tags]\na = 'TREAT'", "consent.tags.a"),
        ("[retention]\ndays = true", "retention.days"),
        ("[retention]\ndays = 0", "retention.days"),
        ("[retention]\ndays = -1", "retention.days"),
        ("[retention]\ndays = 1e3", "retention.days"),
        ("[retention]\ndays = 99999999999999999999", "retention.days"),
        ("rules = 3", "rules"),
        ("rules = [3]", "rules[1]"),
        ("[[rules]]\npurposes = []", "rules[1].name"),
        ("[[rules]]\nname = 'A rule'\npurposes = []", "rules[1].name"),
        ("[[rules]]\nname = 'a'", "rules[1]"),
        ("[[rules]]\nname = 'a'\npurpose = []", "rules[1].purpose"),
        ("[[rules]]\nname = 'a'\npurposes = []\nsource = ''", "rules[1].source"),
        ("[[rules]]\nname = 'a'\npurposes = []\nconsent = 'nowhere'", "rules[1].consent"),
        ("[[rules]]\nname = 'a'\npurposes = []\n[[rules]]\nname = 'a'\npurposes = []", "rules[2].name"),
        ("[[rules]]\nname = 'a'\nretention_days = '9'", "rules[1].retention_days"),
        ('"\\u0000" = 1', "a name that cannot be shown"),
    ],
)
def test_a_slip_refuses_the_file_and_names_the_key(text, key):
    with pytest.raises(BadInput) as refused:
        parse(text.encode(), "policy.toml")
    assert refused.value.where == f"policy.toml, {key}"
    assert "Müller" not in str(refused.value) and "\x00" not in str(refused.value)


@pytest.mark.parametrize(
    "data",
    [
        b"[roles",
        b"a = 1\x00",
        b"\xff\xfe",
        b"a = " + b"9" * 10_000,
        b"a = " + b"[" * 20_000,
        b"a = " + b"{a=" * 5_000,
        b"a." * 5_000 + b"a = 1",
        b"a = 1\na = 2",
        b"#" * (MOST_BYTES + 1),
        b"\x00" * 100,
    ],
    ids=range(10),
)
def test_hostile_files_are_bad_input(data):
    with pytest.raises(BadInput, match="policy"):
        parse(data)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_are_a_policy_or_bad_input(data):
    with suppress(BadInput):
        parse(data).digest()


def test_tags_sources_and_days_are_short_and_plain():
    assert tags_of(["b", "a", "b"], {"a", "b"}) == "a b" and tags_of([], ()) == ""
    for tag in ("", "A", "a b", "../x", "a\x00", "🙂" * 1000, "withdrawn"):
        with pytest.raises(BadInput):
            tags_of([tag], {tag})
    with pytest.raises(BadInput, match="knows no consent tag"):
        tags_of(["c"], {"a"})
    assert check_source("") == "" and check_source("PACS_2019.b") == "PACS_2019.b"
    for name in ("../x", "a b", "x" * 65, "a\n", "é"):
        with pytest.raises(BadInput):
            check_source(name)
    assert check_date("2031-12-31") == "2031-12-31"
    for day in ("2031-02-30", "31.12.2031", "20311231", "2031-W01-1", "", "never", "2031-12-31\n"):
        with pytest.raises(BadInput):
            check_date(day)
