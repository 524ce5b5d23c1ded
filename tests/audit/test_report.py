"""The report: what it says, that strangers' names stay text, and that a browser asks nobody for anything."""

import importlib.util
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from audit import page, pdf
from audit.actor import Actor
from audit.events import Event
from audit.qr import matrix
from audit.reading import Logged
from audit.report import Report, Text, grouped, headline, meaning, sections
from audit.summary import summarise
from audit.verify import Verdict
from audit.works import Works
from tests.audit.history import live

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
NOTE = "cloche/log/test\n7\nAAAA\n\n— cloche/log/test BBBB\n"
INTACT = Verdict("intact", True, 0, 7, None, "", "0aaf85a7bf578a0a", origin="cloche/log/test", checkpoint=NOTE)
HOSTILE = [
    "<script>document.title='ran'</script>", "'><img src=http://evil.invalid/a.png onerror=console.log(1)>",
    '"><svg onload=console.log(1)>', "</title><script>1</script>", "&lt;b&gt;", "<style>@import 'http://evil.invalid/'</style>",
    "<link rel=stylesheet href=//evil.invalid>", "<para><b>x</para>", "url(http://evil.invalid)", "</pre><h1>x",
]  # fmt: skip
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
REPORT_EXTRA = all(importlib.util.find_spec(name) for name in ("segno", "reportlab"))
needs_extra = pytest.mark.skipif(not REPORT_EXTRA, reason="pip install 'cloche[report]'")


def report_of(events, **fields):
    works = Works()
    for one in events:
        works.see(one)
    models = tuple(works.answer(model) for model in works.models.values())
    return Report(INTACT, summarise(events), models, "the whole log", NOW, "lise", **fields)


def hostile_report():
    """Hostile text wherever an event can carry it; the dash comes first so that no name equals its neighbour."""
    events = []
    for k, text in enumerate(HOSTILE):
        at, who = f"2026-01-{k + 1:02}T00:00:00Z", Actor(text[:60], text[:40])
        events += [
            Logged(4 * k, Event("access.refused", who, reason=text, at=at)),
            Logged(4 * k + 1, Event("disclosure.made", who, detail={"recipient": text}, patients=(text,), at=at)),
            Logged(4 * k + 2, Event("audit.reviewed", who, detail={"by": text, "findings": text}, at=at)),
            Logged(4 * k + 3, Event("model.signed", who, objects=(text,), detail={"model": text}, at=at)),
        ]
    verdict = replace(INTACT, origin=HOSTILE[0], checkpoint=f"{HOSTILE[1]}\n{HOSTILE[9]}\n", fingerprint=HOSTILE[2])
    return replace(report_of(events), verdict=verdict, period=HOSTILE[3], made_by=HOSTILE[0], no_code=HOSTILE[4])


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_asks_for_nothing_and_runs_nothing():
    elements = Elements(page.render(hostile_report()))
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use", "a", "h3"}
    for tag, attributes in elements.found:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("href", "src", "srcset", "action", "style"), (tag, name)
            assert "http://" not in (value or "") or name == "aria-label"
    assert [tag for tag, _ in elements.found].count("h1") == 1 and [t for t, _ in elements.found].count("style") == 1
    assert not re.search(r"url\(|@import|expression\(", page.STYLE)
    policy = next(a["content"] for tag, a in elements.found if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_strangers_text_is_shown_as_it_is():
    said = "".join(Elements(page.render(hostile_report())).text)
    for text in HOSTILE:
        assert said.count(text) >= 3, text


def test_hidden_letters_are_written_out():
    report = replace(report_of([]), period="a\x1b[2J\u202eb\ud800")
    assert "a\\x1b[2J\\u202eb\\ud800" in page.render(report) and "\u202e" not in page.render(report)


@pytest.mark.parametrize(
    ("change", "words", "tone"),
    [
        ({}, "Intact", "good"),
        ({"witnessed_to": 5}, "Intact", "good"),
        ({"anchored": False}, "Consistent, but not anchored", "warn"),
        (
            {"state": "failed", "failed_at": 3, "why": "it is missing", "checkpoint": ""},
            "The log was changed or is damaged",
            "bad",
        ),
    ],
)
def test_the_verdict_is_the_first_thing_said(change, words, tone):
    verdict = replace(INTACT, **change)
    assert headline(verdict) == (words, tone)
    text = page.render(replace(report_of([]), verdict=verdict))
    assert f"<section class='verdict {tone}'>" in text and words in text
    assert ("it is missing" in meaning(verdict)) == (tone == "bad")
    assert ("first 5 entries" in meaning(verdict)) == bool(verdict.witnessed_to)
    assert ("AAAA" in text) != (tone == "bad")


def test_a_report_tells_what_happened(vault, people):
    from audit.home import LOG
    from audit.reading import read

    live(vault)
    text = page.render(report_of(list(read(vault.home / LOG, people[0], 1 << 40))))
    for expected in ("model-one", "Uppsala University", "wrong passphrase", "grace (clinician)", "treatment"):
        assert expected in text
    assert "P-LEARNEDFRO" not in text  # numbers of patients, no patient
    assert grouped("0aaf85a7bf578a0a") in page.render(report_of([]))


def test_a_report_of_nothing_says_so():
    said = [block.text for section in sections(report_of([])) for block in section.blocks if isinstance(block, Text)]
    assert "There is no event in this period that this key can read." in said and "None in this period." in said
    assert page.render(report_of([])).count("<figure>") == 0


@needs_extra
def test_the_qr_code_is_that_of_the_checkpoint():
    import segno

    code = matrix(NOTE)
    assert code == tuple(
        tuple(map(bool, row)) for row in segno.make(NOTE, error="m", micro=False).matrix_iter(border=4)
    )
    text = page.render(report_of([], code=code))
    path = re.search(r"<path d='([^']*)'", text)[1]
    drawn = {(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", path)}
    assert drawn == {(x, y) for y, row in enumerate(code) for x, dark in enumerate(row) if dark}
    from audit.errors import BadInput

    with pytest.raises(BadInput):
        matrix("x" * 5000)


@needs_extra
def test_the_pdf_holds_the_report_and_survives_strangers():
    report = hostile_report()
    data = pdf.render(replace(report, code=matrix(NOTE)))
    assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF") and data.count(b"/Type /Page\n") >= 2
    assert b"/JavaScript" not in data and b"/URI" not in data and b"/Launch" not in data
    wide = [Logged(k, Event("note", Actor("Łukasz 李" * 10, "r" * 60), at="2026-01-01T00:00:00Z")) for k in range(3)]
    assert pdf.render(report_of(wide)).startswith(b"%PDF-")
    assert pdf.render(report_of([])).startswith(b"%PDF-")
    long = [
        Logged(k, Event("audit.reviewed", Actor("a", "b"), at="2026-01-01T00:00:00Z", detail={"findings": "x" * 500}))
        for k in range(60)
    ]
    assert pdf.render(report_of(long)).count(b"/Type /Page\n") >= 3


def requested(url_page: Path, tmp_path: Path):
    """What Chromium asks the network for because of a page, and the page's title after its scripts ran."""
    log = tmp_path / "net.json"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--log-net-log={log}", "--dump-dom", url_page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    events = json.loads(log.read_text(errors="replace"))["events"]
    urls = {event["params"]["url"] for event in events if "url" in (event.get("params") or {})}
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    # The browser itself calls its maker; that is not the page's doing.
    return {url for url in urls if ".invalid" in url}, title[1] if title else ""


@pytest.mark.browser
@needs_browser
def test_a_browser_asks_nobody_for_anything(tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page.render(hostile_report()))
    asked, title = requested(file, tmp_path)
    assert asked == set() and title.startswith("Audit report, ")


@pytest.mark.browser
@needs_browser
def test_the_browser_would_have_shown_it(tmp_path):
    """The test above sees what it looks for: the same strangers' text, not escaped."""
    file = tmp_path / "open.html"
    file.write_text(f"<!doctype html><title>x</title><p>{HOSTILE[0]}{HOSTILE[1]}")
    asked, title = requested(file, tmp_path)
    assert title == "ran" and any("evil.invalid" in url for url in asked)
