"""The options that choose events, shared by the commands that list, export and report them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from audit.questions import Filter

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
_OUTCOMES = ("success", "minor", "serious", "major", "failed")
_TIME = "a date, an RFC 3339 time, or how long ago: 12h, 7d, 6m (UTC)"

SINCE = click.option("--since", metavar="TIME", help=f"Not before this time: {_TIME}.")
UNTIL = click.option("--until", metavar="TIME", help="Up to this time; a date means to the end of that day.")
RANGE = click.option("--range", "entries", metavar="A..B", help="Only entries A to B of the log; A.. and ..B will do.")
_OPTIONS = (
    SINCE,
    UNTIL,
    click.option("--actor", default="", help="Only what this account did."),
    click.option("--role", default="", help="Only in this role: steward, clinician, officer, operator, service."),
    click.option("--patient", default="", help="Only about this patient (the appliance's pseudonym)."),
    click.option("--kind", "kinds", multiple=True, help="Only this kind (object.used) or family (run). Repeatable."),
    click.option(
        "--action",
        "actions",
        multiple=True,
        type=click.Choice(tuple("CRUDE"), case_sensitive=False),
        help="Only this FHIR action: create, read, update, delete, execute. Repeatable.",
    ),
    click.option("--purpose", default="", help="Only for this purpose of use: TREAT, HRESCH, HOPERAT."),
    click.option(
        "--outcome",
        default="",
        type=click.Choice(("", *_OUTCOMES)),
        metavar="|".join(_OUTCOMES),
        help="Only with this outcome; failed: every failure and refusal.",
    ),
    RANGE,
)


def filter_options(function: Decorated) -> Decorated:
    """Give a command every option of a filter, as keyword arguments for `filter_of`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def filter_of(
    *,
    since: str | None = None,
    until: str | None = None,
    entries: str | None = None,
    kinds: tuple[str, ...] = (),
    purpose: str = "",
    actions: tuple[str, ...] = (),
    **rest: str,
) -> "Filter":
    """The filter that a person typed. Raises BadInput where a part of it cannot be."""
    from audit.errors import BadInput
    from audit.events import KINDS, PURPOSES
    from audit.moments import moment
    from audit.questions import Filter

    known = {*KINDS, *(kind.partition(".")[0] for kind in KINDS)}
    for kind in kinds:
        if kind not in known:
            raise BadInput(
                "there is no such kind of event", where=repr(kind), hint=f"one of {', '.join(sorted(KINDS))}"
            )
    if purpose and purpose not in PURPOSES:
        raise BadInput("there is no such purpose of use", where=repr(purpose), hint=f"one of {', '.join(PURPOSES)}")
    now = datetime.now(UTC)
    first, last = entry_range(entries)
    return Filter(
        since=moment(since, now) if since else None,
        until=moment(until, now, end=True) if until else None,
        kinds=kinds,
        actions=tuple(action.upper() for action in actions),
        purpose=purpose,
        first=first,
        last=last,
        **rest,
    )


def entry_range(text: str | None) -> tuple[int, int | None]:
    """``A..B`` as first and last entry. Raises BadInput."""
    from audit.errors import BadInput

    if not text:
        return 0, None
    first, dots, last = text.partition("..")
    whole = all(not part or (part.isascii() and part.isdigit() and len(part) < 16) for part in (first, last))
    if not dots or not (first or last) or not whole or (first and last and int(first) > int(last)):
        raise BadInput("this is no range of entries", where=repr(text[:40]), hint="--range 100..250, 100.. or ..250")
    return int(first or 0), int(last) if last else None


def asked(command: str, chosen: "Filter") -> dict[str, Any]:
    """What was asked, as JSON values, the parts that choose nothing left out."""
    found: dict[str, Any] = {"command": command}
    for name, value in vars(chosen).items():
        if isinstance(value, datetime):
            found[name] = value.isoformat().replace("+00:00", "Z")
        elif value not in ("", (), None, 0):
            found[name] = list(value) if isinstance(value, tuple) else value
    return found
