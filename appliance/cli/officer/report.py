"""`cloche audit report`: a page for the file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.officer.filters import SINCE, UNTIL, asked, filter_of
from appliance.cli.officer.reading import Source, outside, reading, source
from appliance.cli.output import emit, json_option
from appliance.settings import Settings

if TYPE_CHECKING:
    from audit.qr import Matrix


@click.command()
@source
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="HTML file to write, for you alone (mode 0600); nothing is overwritten.",
)
@click.option(
    "--pdf",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A PDF beside it: needs pip install 'cloche[report]'.",
)
@SINCE
@UNTIL
@click.option(
    "--silence",
    type=click.FloatRange(min=0, max=87_600, min_open=True),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="A gap between two entries that is longer counts as silence.",
)
@json_option
@click.pass_obj
def report(
    settings: Settings,
    source: Source,
    out: Path,
    pdf: Path | None,
    since: str | None,
    until: str | None,
    silence: float,
) -> None:
    """Write a page for the file: the verdict, the checkpoint with its QR code, and charts of who used what, for what.

    The page fetches nothing and runs nothing; open it in any browser, or print it. It names accounts, models and
    numbers of patients, no patient. Of a log that was changed it tells the part before the change, and the exit code
    is 4.

    \b
    Examples:
      cloche audit report carried.sqlite --key auditor.key --key-pin log.pub --out report.html
      cloche audit report carried.sqlite --key auditor.key --out q1.html --pdf q1.pdf --since 2026-01-01
    """
    from datetime import UTC, datetime, timedelta

    from audit import page
    from audit import pdf as document
    from audit.actor import Actor
    from audit.newfile import new_file
    from audit.report import Report
    from audit.summary import Counting
    from audit.works import Works

    chosen = filter_of(since=since, until=until)
    for path in filter(None, (out, pdf)):
        outside(settings, path)
    if pdf:
        document.needed()
    with reading(settings, source, asked("report", chosen)) as found:
        counting, works = Counting(timedelta(hours=silence)), Works()
        for logged in found.events():
            works.see(logged)
            if logged.event is None or chosen.fits(logged):
                counting.add(logged)
        told = Report(
            found.verdict,
            counting.summary(),
            tuple(works.answer(model) for model in works.models.values()),
            _period(since, until),
            datetime.now(UTC),
            Actor.current("officer").user,
            *_code(found.verdict.checkpoint),
            timedelta(hours=silence),
        )
        with new_file(out) as file:
            file.write(page.render(told).encode("utf-8", "backslashreplace"))
        if pdf:
            with new_file(pdf) as file:
                file.write(document.render(told))
        made = {"html": str(out), "pdf": str(pdf) if pdf else None, "qr": told.code is not None}
        emit(settings, made | {"verdict": found.verdict.to_dict()}, "\n".join(str(one) for one in (out, pdf) if one))


def _code(checkpoint: str) -> "tuple[Matrix | None, str]":
    """The QR code of a checkpoint, or why there is none."""
    from audit.errors import ClocheError
    from audit.qr import matrix

    if not checkpoint:
        return None, ""
    try:
        return matrix(checkpoint), ""
    except ClocheError as error:
        return None, " ".join(error.diagnostics().split())


def _period(since: str | None, until: str | None) -> str:
    """The part of the log that is reported, in words."""
    if since and until:
        return f"{since} to {until}"
    return f"since {since}" if since else f"up to {until}" if until else "the whole log"
