"""The policy: who may act in which role, for which purposes, on which records; a file in TOML, HOME/policy.toml.

It is read strictly: an unknown key or a value of another type refuses the whole file, as a rule with a slip in it must
not pass for no rule. Without a file the appliance asks for roles and purposes in its events and refuses nothing but
what a record's own consent says. docs/policy.md explains each key.
"""

import json
import re
import tomllib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from hashlib import sha256
from typing import Any, TypeVar

from audit.actor import Actor
from audit.errors import BadInput
from audit.kinds import PURPOSES

FILE = "policy.toml"
"""Name in the home."""
MOST_BYTES = 64 << 10
"""Bytes of the file at most."""
ROLES = ("steward", "clinician", "officer", "operator", "service")
"""Roles that a policy can grant."""
EVERYBODY, GROUP = "*", "@"
"""What stands for every account, and before the name of a group of the operating system."""
WITHDRAWN = "withdrawn"
"""The consent tag of a record whose consent was withdrawn: no purpose is allowed, whatever a policy says."""
OF_ROLE: Mapping[str, tuple[str, ...]] = {
    "steward": ("HOPERAT", "HRESCH"),
    "clinician": ("TREAT",),
    "officer": ("HOPERAT",),
    "operator": ("HOPERAT",),
    "service": ("HOPERAT",),
}
"""Purposes of a role that a policy file does not name."""
LONGEST_RETENTION = 36_500
"""Days; a hundred years."""
_TAG = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}", re.ASCII)
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_TAG_SAYS = "tag has 1 to 40 small letters, digits, dots and hyphens"
_SOURCE_SAYS = "a source has 1 to 64 letters, digits, dots, hyphens and underscores"
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Terms:
    """Under what a record may be used."""

    consent: str
    """Its consent tags, sorted, with spaces between; empty where none is known."""
    expires: str
    """Last day on which its consent holds, ``2031-12-31``; empty where it has no end."""
    source: str
    """Name of the system that it came from; empty where none was named."""
    created: str
    """Day on which it came in."""


@dataclass(frozen=True)
class Rule:
    """A restriction of the records of one source, of one consent tag, or of both together."""

    name: str
    """What a refusal names."""
    source: str = ""
    """Source that it is about; empty: any."""
    consent: str = ""
    """Consent tag that it is about; empty: any."""
    purposes: tuple[str, ...] | None = None
    """Purposes that such records may be used for; None where the rule does not limit them."""
    retention_days: int = 0
    """Days after which such records may not be used; 0 where the rule sets none."""

    def covers(self, terms: Terms) -> bool:
        """Whether a record is one of those that it is about."""
        return self.source in ("", terms.source) and (not self.consent or self.consent in terms.consent.split())


@dataclass(frozen=True)
class Policy:
    """What is allowed. Its methods name the rule that forbids something, or say nothing."""

    roles: Mapping[str, tuple[str, ...]] | None = None
    """Accounts, ``@groups`` or ``*`` by role; None: every account has every role."""
    purposes: Mapping[str, tuple[str, ...]] | None = None
    """Purposes of use by role; None: any."""
    consent_required: bool = False
    """Whether a record without a consent tag may not be used."""
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Purposes that a consent tag allows; a tag that is not here allows none."""
    retention_days: int = 0
    """Days after which no record may be used; 0: no end."""
    rules: tuple[Rule, ...] = ()
    """Further restrictions; each that covers a record must allow the use."""
    where: str = "no policy.toml"
    """The file that it stands in, for messages."""

    @classmethod
    def default(cls) -> "Policy":
        """The policy of a home without a file: one user who has all roles; only a record's own consent binds."""
        return cls()

    def digest(self) -> str:
        """SHA-256 of what it says, hex: comments, order and layout of the file do not count."""
        said = asdict(replace(self, where=""))
        return sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The policy as JSON values, with its digest."""
        return {**json.loads(json.dumps(asdict(self))), "digest": self.digest()}

    def refuses_actor(self, actor: Actor, groups: Callable[[], Sequence[str]]) -> str:
        """The rule by which somebody may not act in a role; `groups` gives the account's, where they are needed."""
        if self.roles is None:
            return ""
        granted = self.roles.get(actor.role, ())
        if EVERYBODY in granted or (actor.user in granted and not actor.user.startswith(GROUP)):
            return ""
        of_groups = [name.removeprefix(GROUP) for name in granted if name.startswith(GROUP)]
        return "" if of_groups and not set(of_groups).isdisjoint(groups()) else f"roles.{_known(actor.role)}"

    def refuses_purpose(self, role: str, purpose: str) -> str:
        """The rule by which a role may not use anything for a purpose."""
        if self.purposes is None or purpose in self.purposes.get(role, ()):
            return ""
        return f"purposes.{_known(role)}"

    def refuses_record(self, terms: Terms, purpose: str, today: date) -> str:
        """The rule by which a record may not be used for a purpose on a day."""
        tags = terms.consent.split()
        if WITHDRAWN in tags:
            return "consent.withdrawn"
        if terms.expires and terms.expires < today.isoformat():
            return "consent.expired"
        if not tags and self.consent_required:
            return "consent.required"
        if tags and not any(purpose in self.tags.get(tag, ()) for tag in tags):
            return f"consent.tags.{next((tag for tag in tags if tag in self.tags), 'unknown')}"
        if _past(terms.created, self.retention_days, today):
            return "retention.days"
        return next((rule.name for rule in self.rules if _forbids(rule, terms, purpose, today)), "")


def parse(data: bytes, where: str = FILE) -> Policy:
    """The policy of a file's bytes.

    Args:
        data: TOML in UTF-8.
        where: the file's name, for errors.

    Raises:
        BadInput: it is no TOML, longer than `MOST_BYTES`, has an unknown key or a value of another type; it names
            file and key, never what stands there.
    """
    if len(data) > MOST_BYTES:
        raise BadInput(f"the policy is longer than {MOST_BYTES >> 10} KiB", where=where, hint=_HINT)
    try:
        found = tomllib.loads(data.decode())
    except RecursionError:
        raise BadInput("the policy's values stand too deep in one another", where=where, hint=_HINT) from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column \d+\)$", str(error))
        at = f"{where}:{place[1]}" if place else where
        raise BadInput("the policy is no TOML", where=at, hint=_HINT) from None
    except ValueError:  # no UTF-8, or a number of thousands of digits
        raise BadInput("the policy is no TOML in UTF-8", where=where, hint=_HINT) from None
    return _Reader(where).policy(found)


def tags_of(given: Sequence[str], known: Container[str]) -> str:
    """Consent tags as a record holds them. Raises BadInput where one is malformed, or none of the policy's."""
    for tag in given:
        if not _TAG.fullmatch(tag) or tag == WITHDRAWN:
            raise BadInput(f"a consent {_TAG_SAYS}", where="--consent, --tag")
        if tag not in known:
            raise BadInput(
                f"the policy knows no consent tag {tag!r}, so records with it could not be used at all",
                where="policy.toml, consent.tags",
                hint="name it there, then type cloche policy set FILE",
            )
    return " ".join(sorted(set(given)))


def check_source(name: str) -> str:
    """A source's name, if it is one. Raises BadInput."""
    if name and not _SOURCE.fullmatch(name):
        raise BadInput(_SOURCE_SAYS, where="--source")
    return name


def check_date(text: str, where: str = "--expires") -> str:
    """A day, if it is one. Raises BadInput."""
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        date.fromisoformat(text)
    except (TypeError, ValueError):
        raise BadInput("this is no day such as 2031-12-31", where=where) from None
    return text


def _known(role: str) -> str:
    return role if role in ROLES else "unknown"


def _past(created: str, days: int, today: date) -> bool:
    """Whether more than so many days have gone since a day."""
    return days > 0 and created[:10] < (today - timedelta(days=days)).isoformat()


def _forbids(rule: Rule, terms: Terms, purpose: str, today: date) -> bool:
    if not rule.covers(terms):
        return False
    return (rule.purposes is not None and purpose not in rule.purposes) or _past(
        terms.created, rule.retention_days, today
    )


_HINT = "docs/policy.md explains every key; cloche policy check FILE reads one without using it"


class _Reader:
    """Reads the tables of a policy file; every error names file and key."""

    def __init__(self, where: str) -> None:
        self._where = where

    def policy(self, found: Mapping[str, Any]) -> Policy:
        self._keys(found, "", ("roles", "purposes", "consent", "retention", "rules"))
        consent, retention = self._table(found, "consent"), self._table(found, "retention")
        self._keys(consent, "consent", ("required", "tags"))
        self._keys(retention, "retention", ("days",))
        tags = self._tags(self._table(consent, "tags", "consent.tags"))
        return Policy(
            roles=self._roles(self._table(found, "roles")) if "roles" in found else None,
            purposes=self._purposes(self._table(found, "purposes")),
            consent_required=self._of(bool, consent.get("required", False), "consent.required"),
            tags=tags,
            retention_days=self._days(retention.get("days"), "retention.days"),
            rules=self._rules(found.get("rules", []), tags),
            where=self._where,
        )

    def _roles(self, table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        self._keys(table, "roles", ROLES)
        found = {role: self._words(value, f"roles.{role}") for role, value in table.items()}
        if not (found.get("officer") or found.get("operator")):
            raise self._bad("nobody is officer or operator, so nobody could change this policy", "roles")
        return {role: found[role] for role in ROLES if role in found}

    def _purposes(self, table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        self._keys(table, "purposes", ROLES)
        return {**OF_ROLE, **{role: self._uses(value, f"purposes.{role}") for role, value in table.items()}}

    def _tags(self, table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        for tag in table:
            if not _TAG.fullmatch(tag) or tag == WITHDRAWN:
                raise self._bad(f"a {_TAG_SAYS}", "consent.tags")
        return {tag: self._uses(table[tag], f"consent.tags.{tag}") for tag in sorted(table)}

    def _rules(self, rows: Any, tags: Mapping[str, Any]) -> tuple[Rule, ...]:
        rules = [self._rule(row, f"rules[{i}]") for i, row in enumerate(self._of(list, rows, "rules"), 1)]
        for i, rule in enumerate(rules, 1):
            if any(other.name == rule.name for other in rules[: i - 1]):
                raise self._bad("another rule has this name", f"rules[{i}].name")
            if rule.consent and rule.consent not in tags:
                raise self._bad("[consent.tags] does not name this tag", f"rules[{i}].consent")
        return tuple(rules)

    def _rule(self, row: Any, key: str) -> Rule:
        table = self._of(dict, row, key)
        self._keys(table, key, ("name", "source", "consent", "purposes", "retention_days"))
        name, source, consent = (self._of(str, table.get(one, ""), f"{key}.{one}") for one in _TEXTS)
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name, re.ASCII):
            raise self._bad("a rule's name has 1 to 64 small letters, digits and hyphens", f"{key}.name")
        if "source" in table and not _SOURCE.fullmatch(source):
            raise self._bad(_SOURCE_SAYS, f"{key}.source")
        if "consent" in table and not _TAG.fullmatch(consent):
            raise self._bad(f"a {_TAG_SAYS}", f"{key}.consent")
        if not table.keys() & {"purposes", "retention_days"}:
            raise self._bad("the rule says neither purposes nor retention_days, so it would allow everything", key)
        uses = self._uses(table["purposes"], f"{key}.purposes") if "purposes" in table else None
        return Rule(name, source, consent, uses, self._days(table.get("retention_days"), f"{key}.retention_days"))

    def _uses(self, value: Any, key: str) -> tuple[str, ...]:
        found = self._words(value, key)
        if not set(found) <= set(PURPOSES):
            raise self._bad(f"a purpose is one of {', '.join(PURPOSES)}", key)
        return found

    def _days(self, value: Any, key: str) -> int:
        if value is None:
            return 0
        if not 0 < self._of(int, value, key) <= LONGEST_RETENTION:
            raise self._bad(f"this must be 1 to {LONGEST_RETENTION} days; leave it out for no end", key)
        return int(value)

    def _words(self, value: Any, key: str) -> tuple[str, ...]:
        words = [self._of(str, one, key) for one in self._of(list, value, key)]
        if not all(word.isprintable() and word.strip(" @") and len(word) <= 128 for word in words):
            raise self._bad("each of these must be a short printable name", key)
        return tuple(sorted(set(words)))

    def _table(self, found: Mapping[str, Any], name: str, key: str = "") -> Mapping[str, Any]:
        return self._of(dict, found.get(name, {}), key or name)

    def _of(self, kind: type[Value], value: Any, key: str) -> Value:
        if type(value) is not kind:
            raise self._bad(f"this must be {_NAMES[kind]}", key)
        return value

    def _keys(self, table: Mapping[str, Any], key: str, known: Sequence[str]) -> None:
        for name in table:
            if name not in known:
                shown = name if name.isprintable() and len(name) <= 40 else "a name that cannot be shown"
                raise self._bad(f"there is no such key; known are {', '.join(known)}", f"{key}.{shown}".lstrip("."))

    def _bad(self, what: str, key: str) -> BadInput:
        return BadInput(f"the policy cannot be used: {what}", where=f"{self._where}, {key}", hint=_HINT)


_TEXTS = ("name", "source", "consent")
_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "text",
    list: "a list of texts",
    dict: "a table",
}
