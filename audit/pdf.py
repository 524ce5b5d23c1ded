"""A report as a PDF document, by reportlab (the ``report`` extra)."""

import io
from collections.abc import Iterator
from html import escape
from typing import Any

from audit.charts import Box, Drawing, Rule
from audit.errors import EnvironmentProblem
from audit.printable import printable
from audit.qr import Matrix
from audit.report import Facts, Report, Table, Text, grouped, headline, meaning, sections

_INK, _SOFT, _LINE, _FAINT = "#1c2430", "#5d6a7a", "#dedad0", "#eeebe3"
_TONES = {"good": "#1f7a5c", "warn": "#8a6414", "bad": "#a2452f"}
_COLOURS = {
    "tick": _SOFT,
    "label": _INK,
    "axis": _FAINT,
    "base": _LINE,
    "done": _TONES["good"],
    "failed": _TONES["bad"],
    "rest": "#a9b3bd",
    "silence": "#f1e3c6",
}
_MARGIN = 42.0


def render(report: Report) -> bytes:
    """The document, A4.

    Raises:
        EnvironmentProblem: reportlab is not installed.
    """
    needed()
    from reportlab.lib.pagesizes import A4
    from reportlab.platypus import SimpleDocTemplate

    file = io.BytesIO()
    document = SimpleDocTemplate(
        file,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=_MARGIN,
        title=_latin(f"Audit report, {report.verdict.origin or 'unknown log'}"),
        author=_latin(report.made_by),
        creator="Cloche",
    )
    made = _Made(document.width - 12)  # a frame keeps 6 points free at each side

    def foot(canvas: Any, page: Any) -> None:
        canvas.setFont("Helvetica", 7.5)
        canvas.setFillColor(_SOFT)
        canvas.drawString(_MARGIN, 24, _latin(f"Cloche audit report, {report.made:%Y-%m-%d %H:%M} UTC"))
        canvas.drawRightString(A4[0] - _MARGIN, 24, f"page {page.page}")

    document.build(list(_story(report, made)), onFirstPage=foot, onLaterPages=foot)
    return file.getvalue()


def needed() -> None:
    """See that a document can be made. Raises EnvironmentProblem where reportlab is not installed."""
    try:
        import reportlab  # noqa: F401
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            "a PDF needs the package reportlab, which is not installed",
            hint="pip install 'cloche[report]', or print the page from a browser",
        ) from error


def _story(report: Report, made: "_Made") -> Iterator[Any]:
    from reportlab.platypus import Spacer

    verdict = report.verdict
    words, tone = headline(verdict)
    yield made.words("CLOCHE AUDIT TRAIL", size=7.5, colour=_SOFT)
    yield made.words("Audit report", size=20, bold=True, after=2)
    made_at = f"{report.made:%Y-%m-%d %H:%M} UTC"
    yield made.words(f"{report.period}; made {made_at} by {report.made_by}", colour=_SOFT, after=8)
    yield made.line()
    told = [
        made.words(words, size=15, bold=True, colour=_TONES[tone], after=3),
        made.words(meaning(verdict), after=5),
        made.words(verdict.sentence, colour=_SOFT, after=5),
        made.words(f"log {verdict.origin or 'unknown'}", size=7.5, font="Courier"),
        made.words(f"key {grouped(verdict.fingerprint) or 'unknown'}", size=7.5, font="Courier"),
    ]
    yield made.beside(told, report.code)
    for section in sections(report):
        first, *rest = [made.block(block) for block in section.blocks]
        yield made.together([made.words(section.title, size=12, bold=True, before=12, after=4), *first[:1]])
        yield from first[1:]
        for blocks in rest:
            yield from blocks
    yield made.words("Checkpoint", size=12, bold=True, before=12, after=4)
    for line in verdict.checkpoint.split("\n") if verdict.checkpoint else ["none: the log was changed"]:
        yield made.words(line, size=7, font="Courier") if line else Spacer(1, 7)
    if report.no_code:
        yield made.words(report.no_code, size=8.5, colour=_SOFT, before=4)


class _Made:
    """Makes reportlab's pieces out of ours."""

    def __init__(self, room: float) -> None:
        self.room = room
        """Width of the text, points."""

    def words(
        self,
        text: str,
        *,
        size: float = 9,
        bold: bool = False,
        colour: str = _INK,
        font: str = "",
        before: float = 0,
        after: float = 1,
        right: bool = False,
    ) -> Any:
        """A paragraph; nothing in `text` is markup."""
        from reportlab.lib.styles import ParagraphStyle
        from reportlab.platypus import Paragraph

        face = font or ("Helvetica-Bold" if bold else "Helvetica")
        style = ParagraphStyle(
            "own",
            fontName=face,
            fontSize=size,
            leading=size * 1.35,
            textColor=colour,
            spaceBefore=before,
            spaceAfter=after,
            alignment=2 if right else 0,
            splitLongWords=1,
        )
        return Paragraph(escape(_latin(text)), style)

    def line(self) -> Any:
        """A line across."""
        from reportlab.platypus import HRFlowable

        return HRFlowable(width="100%", thickness=1, color=_INK, spaceBefore=0, spaceAfter=10)

    def together(self, pieces: list[Any]) -> Any:
        """Pieces that are not parted by the end of a page."""
        from reportlab.platypus import CondPageBreak, KeepTogether

        return KeepTogether([CondPageBreak(60), *pieces])

    def beside(self, told: list[Any], code: Matrix | None) -> Any:
        """Text, and the QR code at its right."""
        from reportlab.platypus import Table as Grid

        if code is None:
            return Grid([[told]], colWidths=[self.room], style=[("LEFTPADDING", (0, 0), (-1, -1), 0)], hAlign="LEFT")
        side = 118.0
        size = side / len(code)
        marks = tuple(
            Box(x * size, y * size, size, size, "label")
            for y, row in enumerate(code)
            for x, dark in enumerate(row)
            if dark
        )
        picture = _picture(Drawing("", side, side, marks), side)
        style = [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (1, 0), (1, 0), 0),
        ]
        return Grid([[told, picture]], colWidths=[self.room - side - 12, side + 12], style=style, hAlign="LEFT")

    def block(self, block: Drawing | Facts | Table | Text | tuple[Drawing, ...]) -> list[Any]:
        """The pieces of a block."""
        from reportlab.platypus import Table as Grid

        if isinstance(block, Text):
            return [self.words(block.text, size=8.5, colour=_SOFT if block.soft else _INK, before=3, after=4)]
        if isinstance(block, Drawing):
            return [self.words(block.title, size=7.5, colour=_SOFT, after=3), _picture(block, self.room)]
        if isinstance(block, tuple):
            width = self.room / len(block)
            cells = [[self.words(one.title, size=7.5, colour=_SOFT), _picture(one, width - 10)] for one in block]
            style = [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)]
            return [Grid([cells], colWidths=[width] * len(block), style=style, hAlign="LEFT")]
        if isinstance(block, Facts):
            cells = [
                [
                    self.words(number, size=15, bold=True, colour=_TONES["bad"] if alarm else _INK),
                    self.words(says, size=7.5, colour=_SOFT),
                ]
                for number, says, alarm in block.items
            ]
            style = [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)]
            return [Grid([cells], colWidths=[self.room / len(cells)] * len(cells), style=style, hAlign="LEFT")]
        return [self._table(block)]

    def _table(self, table: Table) -> Any:
        from reportlab.platypus import Table as Grid

        right = [column.startswith("#") for column in table.columns]
        head = [
            self.words(column.lstrip("#="), size=7.5, bold=True, colour=_SOFT, right=right[k])
            for k, column in enumerate(table.columns)
        ]
        body = [[self.words(cell, size=7.5, right=right[k]) for k, cell in enumerate(row)] for row in table.rows]
        longest = [
            max([len(c.lstrip("#=")), *(len(row[k]) for row in table.rows)]) for k, c in enumerate(table.columns)
        ]
        weights = [min(max(length, 6), 44) + 2 for length in longest]
        widths = [self.room * weight / sum(weights) for weight in weights]
        style = [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("TOPPADDING", (0, 0), (-1, -1), 2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
            ("LINEBELOW", (0, 0), (-1, 0), 0.8, _INK),
            ("LINEBELOW", (0, 1), (-1, -1), 0.4, _LINE),
        ]
        return Grid([head, *body], colWidths=widths, repeatRows=1, style=style, hAlign="LEFT")


def _picture(drawing: Drawing, width: float) -> Any:
    """A drawing of a width in points, as a piece of the document."""
    from reportlab.platypus import Flowable

    scale = width / drawing.width

    class Picture(Flowable):  # type: ignore[misc]
        def wrap(self, *_: float) -> tuple[float, float]:
            return width, drawing.height * scale + 4

        def draw(self) -> None:
            self.canv.saveState()
            self.canv.scale(scale, scale)
            for mark in drawing.marks:
                _draw(self.canv, mark, drawing.height + 2)
            self.canv.restoreState()

    return Picture()


def _draw(canvas: Any, mark: Any, height: float) -> None:
    colour = _COLOURS[mark.style]
    canvas.setFillColor(colour)
    canvas.setStrokeColor(colour)
    if isinstance(mark, Box):
        canvas.rect(mark.x, height - mark.y - mark.height, mark.width, mark.height, stroke=0, fill=1)
    elif isinstance(mark, Rule):
        canvas.line(mark.x1, height - mark.y1, mark.x2, height - mark.y2)
    else:
        canvas.setFont("Helvetica", 12)
        draw = {"start": canvas.drawString, "middle": canvas.drawCentredString, "end": canvas.drawRightString}
        draw[mark.anchor](mark.x, height - mark.y, _latin(mark.text))


def _latin(text: str) -> str:
    """The text in the letters of the fonts that every PDF reader has; others are written out."""
    return printable(text).encode("cp1252", "backslashreplace").decode("cp1252")
