"""A report as one HTML page: nothing in it runs, nothing in it is fetched, and it prints."""

from collections.abc import Iterable
from html import escape

from audit.charts import Box, Drawing, Rule
from audit.printable import printable
from audit.qr import Matrix
from audit.report import Facts, Report, Section, Table, Text, grouped, headline, meaning, sections

STYLE = """
:root{color-scheme:light;--ink:#1c2430;--soft:#5d6a7a;--paper:#fbfaf7;--card:#fff;--line:#dedad0;--faint:#eeebe3;
--good:#1f7a5c;--warn:#8a6414;--bad:#a2452f}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
main{max-width:1000px;margin:0 auto;padding:44px 40px 72px}
header{display:flex;justify-content:space-between;align-items:flex-end;gap:24px;border-bottom:2px solid var(--ink);
padding-bottom:14px}
h1{font-size:30px;line-height:1.15;margin:0;letter-spacing:-.02em;font-weight:650}
header p{margin:0;text-align:right;font-size:13px;color:var(--soft);line-height:1.5}
.kicker{font-size:12px;letter-spacing:.09em;text-transform:uppercase;color:var(--soft);margin:0 0 6px}
h2{font-size:18px;letter-spacing:-.01em;font-weight:650;margin:42px 0 10px}
p{margin:0 0 10px;max-width:76ch;overflow-wrap:anywhere}.soft{color:var(--soft);font-size:14px}
code,pre,td.id,span.id{font-family:ui-monospace,"SF Mono","Cascadia Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:12px}
.verdict{background:var(--card);border:1px solid var(--line);border-left:6px solid var(--tone);border-radius:6px;
margin:26px 0 0;padding:22px 24px;display:flex;gap:28px;align-items:flex-start}
.verdict>div{flex:1 1 auto;min-width:0}
.verdict h2{margin:0 0 6px;font-size:26px;letter-spacing:-.02em;color:var(--tone)}
.good{--tone:var(--good)}.warn{--tone:var(--warn)}.bad{--tone:var(--bad)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:14px 0 0;font-size:14px}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
.verdict>.qr{flex:0 0 184px}.qr{text-align:center;font-size:12px;color:var(--soft);line-height:1.4}
.qr svg{width:184px;height:184px;display:block;margin:0 0 6px}
.facts{display:grid;grid-template-columns:repeat(6,1fr);gap:0;border-top:1px solid var(--line);
border-bottom:1px solid var(--line);margin:6px 0 14px}
.fact{padding:14px 16px 12px;border-left:1px solid var(--line)}.fact:first-child{border-left:0;padding-left:0}
.big{font-size:28px;line-height:1.2;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.big.bad{color:var(--bad)}.fact div:last-child{font-size:13px;color:var(--soft);line-height:1.35}
figure{margin:0 0 14px;min-width:0}figcaption{font-size:13px;color:var(--soft);margin:0 0 6px}
.row{display:grid;grid-template-columns:1fr 1fr;gap:28px}.row>:only-child{grid-column:1/-1}
svg{width:100%;height:auto;overflow:visible}svg text{font-size:12px}
.tick{fill:var(--soft)}.label{fill:var(--ink)}.axis{stroke:var(--faint)}.base{stroke:var(--line)}
.done{fill:var(--good)}.failed{fill:var(--bad)}.rest{fill:#a9b3bd}.silence{fill:#f1e3c6}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px;line-height:1.45;margin:4px 0 12px}
th{font-weight:600;color:var(--soft);text-align:left;border-bottom:1px solid var(--ink);padding:4px 14px 4px 0;
white-space:nowrap}
td{border-bottom:1px solid var(--line);padding:5px 14px 5px 0;vertical-align:top;overflow-wrap:anywhere;min-width:48px}
td.t{white-space:nowrap}
th.n,td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}th:last-child,td:last-child{padding-right:0}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:12px 14px;margin:4px 0 12px;
white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.5}
footer{margin-top:44px;border-top:1px solid var(--line);padding-top:12px;font-size:13px;color:var(--soft)}
@media(max-width:720px){main{padding:24px 18px 48px}header,.verdict{display:block}
header p{text-align:left;margin-top:8px}
.facts{grid-template-columns:repeat(3,1fr)}.fact:nth-child(3n+1){border-left:0;padding-left:0}.row{display:block}
.qr{margin-top:16px;text-align:left}}
@page{size:A4;margin:15mm 14mm 16mm}
@media print{:root{--paper:#fff}body{font-size:10.5pt}main{max-width:none;padding:0}
h2{break-after:avoid;margin-top:26px}
.verdict,.facts,figure,tr,pre,dl{break-inside:avoid}thead{display:table-header-group}.scroll{overflow:visible}
table{font-size:8.6pt}dl{font-size:9.5pt}.verdict>.qr{flex-basis:150px}.qr svg{width:150px;height:150px}
.verdict h2{margin:0 0 6px}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(report: Report) -> str:
    """The page."""
    parts = [_header(report), _verdict(report)]
    parts += [_section(section) for section in sections(report)]
    parts += [_evidence(report)]
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name=viewport content='width=device-width,initial-scale=1'><meta name=referrer content=no-referrer>"
        f"<title>Audit report, {_text(report.verdict.origin or 'unknown log')}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _header(report: Report) -> str:
    made = f"{report.made:%Y-%m-%d %H:%M} UTC"
    return (
        f"<header><div><div class=kicker>Cloche audit trail</div><h1>Audit report</h1></div><p>{_text(report.period)}"
        f"<br>made {made} by {_text(report.made_by)}</p></header>"
    )


def _verdict(report: Report) -> str:
    verdict, code = report.verdict, report.code
    words, tone = headline(verdict)
    image = f"<div class=qr>{_qr(code)}the checkpoint below,<br>to be kept elsewhere</div>" if code else ""
    facts = (
        ("verdict", f"<span>{_text(verdict.sentence)}</span>"),
        ("log", f"<span class=id>{_text(verdict.origin or 'unknown')}</span>"),
        ("key fingerprint", f"<span class=id>{_text(grouped(verdict.fingerprint) or 'unknown')}</span>"),
        ("entries vouched for", f"{verdict.size:,}"),
    )
    listed = "".join(f"<dt>{name}<dd>{value}" for name, value in facts)
    return (
        f"<section class='verdict {tone}'><div><h2>{words}</h2><p>{_text(meaning(verdict))}</p><dl>{listed}</dl></div>"
        f"{image}</section>"
    )


def _section(section: Section) -> str:
    return f"<section><h2>{_text(section.title)}</h2>{''.join(map(_block, section.blocks))}</section>"


def _block(block: Drawing | Facts | Table | Text | tuple[Drawing, ...]) -> str:
    if isinstance(block, Drawing):
        return _figure(block)
    if isinstance(block, tuple):
        return f"<div class=row>{''.join(map(_figure, block))}</div>"
    if isinstance(block, Facts):
        items = "".join(
            f"<div class=fact><div class='big{' bad' if alarm else ''}'>{_text(number)}</div>"
            f"<div>{_text(says)}</div></div>"
            for number, says, alarm in block.items
        )
        return f"<div class=facts>{items}</div>"
    if isinstance(block, Text):
        return f"<p{' class=soft' if block.soft else ''}>{_text(block.text)}</p>"
    return _table(block)


def _table(table: Table) -> str:
    marks = {"#": "n", "=": "t"}
    classes = [
        " ".join(filter(None, (marks.get(column[0], ""), "id" if k in table.code else "")))
        for k, column in enumerate(table.columns)
    ]
    head = "".join(
        f"<th class='{class_}'>{_text(column.lstrip('#='))}"
        for class_, column in zip(classes, table.columns, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f"<td class='{class_}'>{_text(cell)}" for class_, cell in zip(classes, row, strict=True))
        for row in table.rows
    )
    return f"<div class=scroll><table><thead><tr>{head}</thead><tbody>{body}</tbody></table></div>"


def _figure(drawing: Drawing) -> str:
    return (
        f"<figure><figcaption>{_text(drawing.title)}</figcaption><svg viewBox='0 0 {drawing.width:g} "
        f"{drawing.height:g}' role=img aria-label='{_text(drawing.title)}'>{''.join(map(_mark, drawing.marks))}</svg>"
        "</figure>"
    )


def _mark(mark: object) -> str:
    if isinstance(mark, Box):
        title = f"<title>{_text(mark.title)}</title>" if mark.title else ""
        place = f"x='{mark.x:.1f}' y='{mark.y:.1f}' width='{mark.width:.1f}' height='{mark.height:.1f}'"
        return f"<rect {place} class={mark.style}>{title}</rect>"
    if isinstance(mark, Rule):
        place = f"x1='{mark.x1:.1f}' y1='{mark.y1:.1f}' x2='{mark.x2:.1f}' y2='{mark.y2:.1f}'"
        return f"<line {place} class={mark.style} />"
    place = f"x='{mark.x:.1f}' y='{mark.y:.1f}' text-anchor={mark.anchor}"  # type: ignore[attr-defined]
    return f"<text {place} class={mark.style}>{_text(mark.text)}</text>"  # type: ignore[attr-defined]


def _qr(code: Matrix) -> str:
    size = len(code)
    path = "".join(f"M{x} {y}h1v1h-1z" for y, row in enumerate(code) for x, dark in enumerate(row) if dark)
    return (
        f"<svg viewBox='0 0 {size} {size}' role=img aria-label='QR code of the checkpoint' shape-rendering=crispEdges>"
        f"<rect width={size} height={size} fill='#fff' /><path d='{path}' fill='#000' /></svg>"
    )


def _evidence(report: Report) -> str:
    note = report.verdict.checkpoint
    told = (
        "The newest checkpoint of the log, a C2SP signed note. Keep it outside the appliance: whoever holds it can "
        "tell later whether anything up to here was taken out or changed."
    )
    held = f"<pre>{_text(note, lines=True)}</pre>" if note else "<p>A changed log has no checkpoint to keep.</p>"
    missing = f"<p class=soft>{_text(report.no_code)}</p>" if report.no_code else ""
    return (
        f"<section><h2>Checkpoint</h2><p class=soft>{told}</p>{held}{missing}</section>"
        "<footer>This page is complete in itself: it fetches nothing and runs nothing. "
        "What it tells is what the appliance logged; the order is the log's, "
        "times are the appliance's clock in UTC. "
        "Check it with <code>cloche audit verify LOG --key-pin KEY</code>.</footer>"
    )


def _text(text: str, *, lines: bool = False) -> str:
    """Text of anybody as text: no tag, no attribute's end, no hidden character."""
    shown: Iterable[str] = text.split("\n") if lines else (text,)
    return "\n".join(escape(printable(line)) for line in shown)
