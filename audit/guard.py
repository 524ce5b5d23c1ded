"""The guard: holds every use, storing, deletion and ceremony against the policy, inside the vault's process.

The file is read again at each call, so that a policy takes effect while the vault is open; one that cannot be read
forbids everything but putting a good one in its place. What is refused is an event, and no key is touched before.
"""

import os
import pwd
import stat
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

from audit import terms
from audit.actor import Actor
from audit.catalogue import Catalogue
from audit.ceremonies import Ceremonies
from audit.custodian import Custodian
from audit.errors import BadInput, ClocheError, Refused
from audit.events import Event
from audit.files import replace_file
from audit.policy import FILE, MOST_BYTES, Policy, parse
from audit.rows import StoredObject

LAST = Path("audit", "policy")
"""Digest of the policy that was in force last, with a keyed digest of it, in the home."""
CHANGERS = ("operator", "officer")
"""Who may put another policy in force."""
_MOST_RULES = 50
"""Rules that one event of a refusal names: an entry of the log holds 64 KiB."""
_HINT = "cloche policy show says what each rule allows, cloche records what each record's consent is"


class Guard:
    """What stands between the vault's calls and its keys."""

    def __init__(self, home: Path, catalogue: Catalogue, custodian: Custodian) -> None:
        """Of an open vault. A policy that was changed while it was closed is an event now, or at the first call."""
        self._path, self._last = home / FILE, home / LAST
        self._catalogue, self._custodian = catalogue, custodian
        self._lock = threading.RLock()
        self._read: tuple[bytes | None, Policy] | None = None
        with suppress(ClocheError):  # what is asked for raises the same; a better policy must still be able to come in
            self.policy()

    def policy(self) -> Policy:
        """The policy as the file says it now. Raises BadInput, Refused, EnvironmentProblem: nothing is allowed then."""
        with self._lock:
            data = _content(self._path)
            if self._read is None or self._read[0] != data:
                found = Policy.default() if data is None else parse(data, FILE)
                self._notice(found)
                self._read = data, found
            return self._read[1]

    def replace(self, data: bytes, actor: Actor, activity: str = "policy set") -> Policy:
        """Put another policy in force.

        Args:
            data: the file's bytes.
            actor: the operator or officer who does it; the policy before must grant the role, where it can be read.
            activity: for the event.

        Raises:
            BadInput: it is no policy; the one before stays. Refused: this role may not.
        """
        found = parse(data, "the new policy")
        with self._lock:
            try:
                before = self.policy()
            except (BadInput, Refused):
                before = Policy.default()
            self._permit(before, actor, activity)
            if actor.role not in CHANGERS:
                self._refuse(before, Event("note", actor, activity=activity), {"roles.operator": 1}, 0)
            if self._path.is_dir():
                raise BadInput(
                    "a directory stands where the policy belongs", where=str(self._path), hint="move it away"
                )
            change = {"change": "policy set", "before": before.digest(), "after": found.digest()}
            # Event, then its digest, then the file: a kill in between is told as a change back when it is opened next.
            self._custodian.commit([Event("settings.changed", actor, activity=activity, detail=change)])
            self._remember(found.digest())
            replace_file(self._path, data, mode=0o600)
            return self.policy()

    def permit(self, actor: Actor, activity: str) -> Policy:
        """See that somebody may act in a role; the policy that says so. Raises Refused, and as `policy`."""
        policy = self._policy_for(Event("note", actor, activity=activity))
        self._permit(policy, actor, activity)
        return policy

    def permit_use(self, event: Event, objects: Sequence[StoredObject]) -> None:
        """See that a use is allowed: role, purpose, and each record that is concerned. Raises as `permit`."""
        policy = self._policy_for(event)
        self._permit(policy, event.actor, event.activity, event.purpose)
        if rule := policy.refuses_purpose(event.actor.role, event.purpose):
            self._refuse(policy, event, {rule: 0}, len(objects))
        found = terms.concerned(self._catalogue, (one.id for one in objects if one.patient))
        today, refused = _today(), Counter[str]()
        for one, count in found.items():
            if rule := policy.refuses_record(one, event.purpose, today):
                refused[rule] += count
        if refused:
            self._refuse(policy, event, refused, len(objects), sum(found.values()))

    def permitted(self, record_ids: Sequence[str], purpose: str) -> tuple[list[str], dict[str, int]]:
        """Which records may be used for a purpose, in order, and how many each rule forbids. Raises as `policy`."""
        policy, found, today = self.policy(), terms.of_records(self._catalogue, record_ids), _today()
        rule_of = {one: policy.refuses_record(one, purpose, today) for one in set(found.values())}
        allowed = [record for record in record_ids if record in found and not rule_of[found[record]]]
        return allowed, dict(Counter(rule for one in found.values() if (rule := rule_of[one])))

    def refuse_purpose(self, actor: Actor, activity: str) -> None:
        """Tell the log that somebody named a purpose that there is not."""
        self._custodian.commit([Event("access.refused", actor, activity=activity, reason="no such purpose of use")])

    def ceremonies(self, inner: Ceremonies) -> "GuardedCeremonies":
        """The ceremonies, each permitted first."""
        return GuardedCeremonies(self, inner)

    def _policy_for(self, event: Event) -> Policy:
        """The policy; where it cannot be read, that somebody was turned away is an event."""
        try:
            return self.policy()
        except (BadInput, Refused):
            reason = "the policy cannot be read, so nothing is allowed"
            self._custodian.commit([replace(event, kind="access.refused", outcome="serious", reason=reason, detail={})])
            raise

    def _permit(self, policy: Policy, actor: Actor, activity: str, purpose: str = "HOPERAT") -> None:
        if rule := policy.refuses_actor(actor, lambda: groups_of(actor.user)):
            self._refuse(policy, Event("note", actor, purpose, activity=activity), {rule: 0}, 0)

    def _refuse(
        self, policy: Policy, event: Event, rules: Mapping[str, int], objects: int, records: int = 0
    ) -> NoReturn:
        """Commit the refusal and raise it; it names the rule, and nobody's record."""
        most = dict(sorted(rules.items(), key=lambda one: (-one[1], one[0]))[:_MOST_RULES])
        rule = next(iter(most))
        detail = {"rule": rule, "rules": most, "objects": objects, "records": records, "policy": policy.digest()}
        self._custodian.commit(
            [
                Event(
                    "access.refused",
                    event.actor,
                    event.purpose,
                    activity=event.activity,
                    reason="the policy does not allow it",
                    detail=detail,
                )
            ]
        )
        many = f" of {sum(rules.values())} of {records} records" if records else ""
        raise Refused(f"the policy does not allow this{many}", where=f'{policy.where}, rule "{rule}"', hint=_HINT)

    def _notice(self, found: Policy) -> None:
        """Make it an event that another policy is in force than last time."""
        digest = found.digest()
        before, true = self._remembered()
        if before == digest and true:
            return
        detail = {"change": "policy changed outside Cloche", "before": before, "after": digest}
        if not true:
            detail["change"] = "policy, and the note of the one before was altered"
        self._custodian.commit([Event("settings.changed", Actor.current("service"), activity="policy", detail=detail)])
        self._remember(digest)

    def _remembered(self) -> tuple[str, bool]:
        """Digest of the policy before, and whether the note of it is ours; without a note it was the default."""
        try:
            digest, mark = self._last.read_text().split()
        except FileNotFoundError:
            return Policy.default().digest(), True
        except (OSError, ValueError):
            return "0" * 64, False
        true = mark == self._custodian.mark("policy", digest.encode()).hex()
        return (digest, True) if true else ("0" * 64, False)

    def _remember(self, digest: str) -> None:
        note = f"{digest} {self._custodian.mark('policy', digest.encode()).hex()}\n"
        replace_file(self._last, note.encode(), mode=0o600)


class GuardedCeremonies:
    """The ceremonies of a vault; whoever acts in one must have the role in which they act."""

    def __init__(self, guard: Guard, inner: Ceremonies) -> None:
        self._guard, self._inner = guard, inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or "actor" not in signature(found).parameters:
            return found

        def act(*positional: Any, **named: Any) -> Any:
            given = signature(found).bind(*positional, **named)
            self._guard.permit(given.arguments["actor"], name)
            return found(*positional, **named)

        return act


def groups_of(user: str) -> list[str]:
    """Names of the groups of the operating system that an account belongs to."""
    import grp

    try:
        numbers = os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    except (KeyError, OSError):
        return []
    found = []
    for number in numbers:
        try:
            found.append(grp.getgrgid(number).gr_name)
        except KeyError:  # a group without a name, as in some containers
            continue
    return found


def _today() -> date:
    return datetime.now(UTC).date()


def _content(path: Path) -> bytes | None:
    """The file's bytes, None where there is none. Raises BadInput, Refused."""
    mend = "cloche policy set FILE"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe in its place must not hold us up
        try:
            state = os.fstat(handle)
            if not stat.S_ISREG(state.st_mode):
                raise BadInput("the policy is no plain file", where=str(path), hint=mend)
            if state.st_mode & stat.S_IWOTH:
                raise Refused("everybody can write the policy", where=str(path), hint=f"chmod 600 {path}")
            return os.read(handle, MOST_BYTES + 1)
        finally:
            os.close(handle)
    except FileNotFoundError:
        if path.is_symlink():
            raise BadInput("the policy is a link to nothing", where=str(path), hint=mend) from None
        return None
    except OSError as error:
        raise BadInput(f"the policy cannot be read: {error.strerror}", where=str(path), hint=mend) from error
