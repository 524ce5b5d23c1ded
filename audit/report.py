"""What a report tells, block by block; `page` makes HTML of it and `pdf` a document."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from audit.charts import WIDE, Drawing, bars, over_time
from audit.events import KINDS, PURPOSES
from audit.lineage_chart import chain
from audit.moments import spoken, when_text
from audit.qr import Matrix
from audit.summary import SILENCE, Summary
from audit.verify import Verdict
from audit.works import ModelAnswer

_DRAWN = 3
"""Newest models whose runs are drawn."""


@dataclass(frozen=True)
class Report:
    """What was found, for one page."""

    verdict: Verdict
    """Whether the log is what it was."""
    summary: Summary
    """The period at a glance."""
    models: tuple[ModelAnswer, ...]
    """Models that the log tells of."""
    period: str
    """Which part of the log, in words."""
    made: datetime
    """When the report was made, UTC."""
    made_by: str
    """Account that made it."""
    code: Matrix | None = None
    """The checkpoint as a QR code; None where there is none."""
    no_code: str = ""
    """Why there is none."""
    silence: timedelta = SILENCE
    """From which length on a gap counts as silence."""


@dataclass(frozen=True)
class Facts:
    """Numbers to see first."""

    items: tuple[tuple[str, str, bool], ...]
    """Number, what it counts, whether it asks for attention."""


@dataclass(frozen=True)
class Table:
    """Rows of text."""

    columns: tuple[str, ...]
    """Heads; one that begins with # is of numbers, one that begins with = is not broken into lines."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, not yet escaped."""
    code: tuple[int, ...] = ()
    """Columns of ids, set in a fixed width."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    """Not yet escaped."""
    soft: bool = True
    """Whether it is a remark."""


@dataclass(frozen=True)
class Section:
    """One part of the report."""

    title: str
    """Its head."""
    blocks: tuple["Drawing | Facts | Table | Text | tuple[Drawing, ...]", ...]
    """What stands in it, top down; a tuple of drawings stands side by side."""


def sections(report: Report) -> Iterator[Section]:
    """The parts of a report that follow its verdict."""
    summary = report.summary
    yield Section("At a glance", (_facts(summary), *_remarks(report)))
    yield Section("Use over time", tuple(_time(report)))
    yield Section("Who, why and what", tuple(_shares(summary)))
    yield Section("Failures and refusals", tuple(_failures(summary)))
    yield Section("Silences", tuple(_silences(report)))
    yield Section("Models", tuple(_models(report.models)))
    yield Section("What left the appliance", tuple(_left(summary)))
    yield Section("Reviews", tuple(_reviews(summary)))


def headline(verdict: Verdict) -> tuple[str, str]:
    """The verdict in a few words, and its tone: ``good``, ``warn`` or ``bad``."""
    if verdict.state != "intact":
        return "The log was changed or is damaged", "bad"
    if not verdict.anchored:
        return "Consistent, but not anchored", "warn"
    return "Intact", "good"


def meaning(verdict: Verdict) -> str:
    """What the verdict means, for who reads it for the first time."""
    if verdict.state != "intact":
        return (
            f"Entry {verdict.failed_at:,} is the first that is not vouched for: {verdict.why}. "
            "This report tells of the entries before it only."
        )
    if not verdict.anchored:
        return (
            "Every entry fits the log's own signed checkpoint. No pinned key was given, so this does not show whose "
            "log it is: give the key that was noted at installation with --key-pin."
        )
    told = "Every entry is what was logged, in order, none missing in the middle, signed by the pinned key."
    if not verdict.witnessed_to:
        return told + " No checkpoint from elsewhere was held against it: a tail that was cut off may not show here."
    return told + f" A checkpoint that was kept elsewhere vouches for the first {verdict.witnessed_to:,} entries."


def grouped(fingerprint: str) -> str:
    """A fingerprint in groups of four, to be compared by eye."""
    return " ".join(fingerprint[i : i + 4] for i in range(0, len(fingerprint), 4))


def _facts(summary: Summary) -> Facts:
    people = len({name.rpartition(" (")[0] for name, _ in summary.actors})
    return Facts(
        (
            (f"{summary.events:,}", "event" if summary.events == 1 else "events", False),
            (f"{people:,}", "account" if people == 1 else "accounts", False),
            (f"{summary.patients:,}", "patients named", False),
            (f"{summary.failed:,}", "failures and refusals", summary.failed > 0),
            (f"{summary.silent:,}", "silences", summary.silent > 0),
            (f"{summary.departures:,}", "things that left", False),
        )
    )


def _remarks(report: Report) -> Iterator[Text]:
    summary = report.summary
    if not summary.events:
        yield Text("There is no event in this period that this key can read.")
    if summary.sealed:
        yield Text(f"{summary.sealed:,} further events are sealed to other keys and not counted here.", soft=False)
    if summary.set_back:
        times = "once" if summary.set_back == 1 else f"{summary.set_back:,} times"
        yield Text(
            f"The clock went back {times} between two entries. The order of entries does not depend on it.", soft=False
        )


def _time(report: Report) -> "Iterator[Drawing | Text]":
    summary = report.summary
    drawing = over_time(summary.days, summary.silences, "Events, failures and refusals on top, silences shaded")
    if drawing is None:
        yield Text("Nothing to draw.")
        return
    yield drawing
    yield Text(
        f"First event {when_text(summary.first)}, last event {when_text(summary.last)} (entry {summary.last_entry:,})."
    )


def _shares(summary: Summary) -> "Iterator[tuple[Drawing, ...] | Text]":
    purposes = [(f"{PURPOSES.get(code, code)}", count) for code, count in summary.purposes]
    drawings = (bars("Events by account and role", summary.actors), bars("Events by purpose of use", purposes))
    kinds = bars("Events by kind", summary.kinds, at_most=10, width=WIDE)
    found = tuple(one for one in drawings if one)
    if not found or kinds is None:
        yield Text("Nothing to draw.")
        return
    yield found
    yield (kinds,)


def _failures(summary: Summary) -> "Iterator[Drawing | Table | Text]":
    drawing = bars("Failures and refusals by kind", summary.failed_kinds, width=WIDE, style="failed")
    if drawing is None:
        yield Text("None in this period.")
        return
    yield drawing
    yield from _of(len(summary.failures), summary.failed)
    yield Table(
        ("#entry", "=when (UTC)", "who", "=what", "=outcome", "why"),
        tuple(
            (f"{f.entry:,}", when_text(f.at), f"{f.user} ({f.role})", f.kind, f.outcome, f.why)
            for f in reversed(summary.failures)
        ),
    )


def _silences(report: Report) -> "Iterator[Table | Text]":
    summary = report.summary
    yield Text(
        f"A silence is a gap of more than {spoken(report.silence)} between two entries; a signed heartbeat ends one "
        f"({summary.heartbeats:,} in this period). It may be a quiet weekend, a machine switched off, or a log that "
        "was not written."
    )
    if not summary.silences or summary.longest is None:
        yield Text("None in this period.")
        return
    yield from _of(len(summary.silences), summary.silent)
    longest = summary.longest
    yield Text(f"The longest: {spoken(longest.length)}, after entry {longest.entry:,}.", soft=False)
    yield Table(
        ("#after entry", "=from (UTC)", "=to (UTC)", "#length"),
        tuple(
            (f"{s.entry:,}", f"{s.begins:%Y-%m-%d %H:%M}", f"{s.ends:%Y-%m-%d %H:%M}", spoken(s.length))
            for s in reversed(summary.silences)
        ),
    )


def _models(models: Sequence[ModelAnswer]) -> "Iterator[Drawing | Table | Text]":
    if not models:
        yield Text("The log tells of no model.")
        return
    rows = []
    for model in models:
        count = {kind: sum(use.count for use in model.uses if use.kind == kind) for kind in KINDS}
        runs = ", ".join(dict.fromkeys(run.activity for run in model.runs))
        rows.append(
            (
                model.name,
                runs,
                ", ".join(root[:12] for root in model.manifests),
                f"{count['model.evaluated']:,}",
                f"{count['model.signed']:,}",
                f"{count['model.exported']:,}",
                f"{count['question.answered']:,}",
            )
        )
    columns = ("=model", "came out of", "=data set", "#evaluated", "#signed", "#exported", "#answers")
    yield Table(columns, tuple(rows), code=(0, 2))
    within = {one.id for model in models for one in model.made_from if one.id not in model.objects}
    for model in [one for one in models if not within.intersection(one.objects)][-_DRAWN:]:  # no step of another
        if drawn := chain(model):
            yield drawn
    yield Text("Over the whole log. cloche audit model MODEL tells everything about one.")


def _left(summary: Summary) -> "Iterator[Table | Text]":
    if not summary.left:
        yield Text("Nothing in this period, as far as the log knows.")
        return
    yield from _of(len(summary.left), summary.departures)
    yield Table(
        ("#entry", "=when (UTC)", "who", "what", "to", "purpose", "#patients", "#objects"),
        tuple(
            (
                f"{one.entry:,}",
                when_text(one.at),
                one.user,
                KINDS[one.kind].says,
                one.to,
                PURPOSES.get(one.purpose, one.purpose),
                f"{one.patients:,}",
                f"{one.objects:,}",
            )
            for one in reversed(summary.left)
        ),
    )


def _reviews(summary: Summary) -> "Iterator[Table | Text]":
    if not summary.reviews:
        yield Text("No review is recorded in this period (45 CFR 164.308(a)(1)(ii)(D)): cloche audit review.")
        return
    yield Table(
        ("#entry", "=when (UTC)", "by", "=entries", "finding"),
        tuple(
            (f"{r.entry:,}", when_text(r.at), r.by or r.user, f"{r.first:,} to {r.last:,}", r.finding)
            for r in reversed(summary.reviews)
        ),
    )


def _of(shown: int, all_: int) -> Iterator[Text]:
    if shown < all_:
        yield Text(f"The newest {shown:,} of {all_:,}; cloche audit show lists all.")
