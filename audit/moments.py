"""Points in time as a person names them and as events carry them; all of it is UTC.

Order in the log is by sequence, never by clock: times choose and describe entries, they do not sort them.
"""

import re
from datetime import UTC, date, datetime, timedelta

from audit.errors import BadInput
from audit.events import Event

_AGO = re.compile(r"([1-9][0-9]{0,4})([hdwmy])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_HINT = "a date (2026-01-31), a time (2026-01-31T08:00:00Z), or how long ago: 12h, 7d, 4w, 6m, 2y"


def moment(text: str, now: datetime, *, end: bool = False) -> datetime:
    """What a person typed, as a time in UTC.

    Args:
        text: a date, an RFC 3339 time (UTC where it names no offset), or how long ago: ``12h``, ``7d``, ``4w``,
            ``6m``, ``2y``.
        now: what "ago" counts from.
        end: whether it ends a range; a date then means the end of that day.

    Returns:
        The time; of a range's end the first moment that lies outside.

    Raises:
        BadInput: it is none of these.
    """
    try:
        ago = _AGO.fullmatch(text)
        if ago:
            return _before(now, int(ago[1]), ago[2])
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=1 if end else 0)
        found = _utc(datetime.fromisoformat(text))
        return found + timedelta(microseconds=1 if end else 0)
    except (ValueError, OverflowError) as error:
        raise BadInput("this is no time", where=repr(text[:40]), hint=_HINT) from error


def years_before(now: datetime, years: int) -> datetime:
    """Midnight of the day that many years ago; of 29 February the 28th where there is none. Raises BadInput."""
    try:
        return _before(now.replace(hour=0, minute=0, second=0, microsecond=0), years, "y")
    except (ValueError, OverflowError) as error:
        raise BadInput("these are too many years", where=str(years), hint="--years 6") from error


def when(event: Event) -> datetime | None:
    """The time of an event by the appliance's clock; None where what it carries is no time."""
    try:
        return _utc(datetime.fromisoformat(event.at))
    except (ValueError, OverflowError):
        return None


def day_of(event: Event) -> date | None:
    """The UTC day of an event; None where it carries no time."""
    at = when(event)
    return at.date() if at else None


def spoken(length: timedelta) -> str:
    """A length of time for a person: ``3 days 4 h``, ``5 h 10 min``, ``42 min``."""
    minutes = max(int(length.total_seconds()) // 60, 0)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days:,} {'day' if days == 1 else 'days'}" + (f" {hours} h" if hours else "")
    if hours:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    return f"{minutes} min"


def when_text(at: str) -> str:
    """An event's time for a table: to the minute, without the letters between."""
    return at[:16].replace("T", " ")


def _before(now: datetime, count: int, unit: str) -> datetime:
    if unit in _UNITS:
        return now - count * _UNITS[unit]
    months = now.year * 12 + now.month - 1 - count * (12 if unit == "y" else 1)
    year, month = divmod(months, 12)
    for day in (now.day, 30, 29, 28):
        try:
            return now.replace(year=year, month=month + 1, day=day)
        except ValueError:
            if day == 28:
                raise
    raise AssertionError("every month has a 28th")


def _utc(found: datetime) -> datetime:
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
