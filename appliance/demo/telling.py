"""The end of the demo: its figures, results.json and the page, as told from the finished runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from appliance.demo.config import DemoConfig
from appliance.demo.hospital.scoring import score
from appliance.demo.hospital.truth import SliceTruth
from appliance.demo.judging import judged_by_atlas
from appliance.demo.page import Asked, Story, render
from appliance.jobs.common import Desk, images_in
from appliance.jobs.measure import figures_of
from appliance.jobs.synthesise import triplets_of
from audit.checkpoint import VerifierKey
from audit.events import Event
from audit.files import replace_file
from audit.home import HIGH_WATER, LOG, PIN
from audit.lineage import Node, trace
from audit.rows import Run
from audit.vault import Vault
from audit.verify import Verdict, verify
from synth.triplet import Triplet

ACTIVITY = "demo page"
"""What the log calls the work of this file."""


@dataclass(frozen=True)
class Runs:
    """The finished runs of the demo."""

    synthesis: Run
    """Of ``synth``."""
    learned: Run
    """Of ``train``."""
    aligned: Run
    """Of ``align``."""
    exported: Run
    """Of ``export``."""
    measured: Run
    """Of ``evaluate``."""


def tell(
    config: DemoConfig, desk: Desk, truths: Mapping[str, SliceTruth], runs: Runs, asked: list[Asked], seconds: float
) -> dict[str, Any]:
    """Score the triplets, verify the log, write results.json and the page: a deliberate disclosure, logged as one.

    Args:
        truths: ground truth by record.
        seconds: what the runs took.
    """
    triplets = triplets_of(desk, runs.synthesis, ACTIVITY)
    synthesis = judged_by_atlas(triplets, truths, score) | {"reasons": runs.synthesis.result["reasons"]}
    figures, gates = figures_of(desk, runs.measured, ACTIVITY), runs.measured.result["gates"]
    parity = runs.exported.result["parity"]
    loss, steps = metrics_of(desk, runs.learned), metrics_of(desk, runs.aligned)
    shown = list(dict.fromkeys(t.record for t in triplets if t.instruction))[:4]
    samples = samples_of(desk, shown, triplets)
    verdict = verdict_of(config.home)
    results = {
        "figures": figures,
        "gates": gates,
        "parity": parity,
        "synthesis": synthesis,
        "audit": verdict.sentence,
        "seconds": round(seconds),
        "fast": config.fast,
        "base": runs.exported.config["base"],
    }
    replace_file(config.folder / "results.json", json.dumps(results, indent=2).encode() + b"\n", 0o600)
    held = figures["held-out"]
    facts = {
        "held-out accuracy before": f"{held['base']['strict']['mean']:.1%}",
        "and after": f"{held['candidate']['strict']['mean']:.1%}",
        "records used": f"{runs.synthesis.result['pairs']:,}",
        "entries in the audit log, which is " + verdict.state: f"{verdict.size:,}",
    }
    story = Story(
        figures=figures,
        gates=gates,
        parity=parity,
        loss=[m["loss"] for m in loss],
        rehearsed=runs.learned.config["rehearse"],
        align=steps,
        synthesis=synthesis,
        samples=samples,
        asked=asked,
        trail=trail_of(desk.vault, shown[0]),
        verdict=verdict.sentence,
        facts=facts,
        model="the starter" if config.model.name == "model" else config.model.name,
    )
    replace_file(config.page, render(story).encode(), 0o600)
    return results


def samples_of(
    desk: Desk, records: Sequence[str], triplets: Sequence[Triplet]
) -> list[tuple[Image.Image, str, list[Triplet]]]:
    """Image, caption and some triplets of each record; that they will be shown is logged first."""
    vault = desk.vault
    patients = tuple(sorted({vault.catalogue.record(name).patient for name in records}))
    detail = {"to": "page.html", "recipient": "whoever is shown the demo's page"}
    said = Event(
        "disclosure.made", desk.actor, activity=ACTIVITY, patients=patients, objects=tuple(records), detail=detail
    )
    vault.record(said)
    with vault.use([o for r in records for o in objects_of(vault, r)], "HOPERAT", desk.actor, ACTIVITY) as opened:
        image = images_in(opened)
        return [
            (
                image(vault.catalogue.record(r).image),
                json.loads(opened.read(vault.catalogue.record(r).report))["caption"],
                [t for t in triplets if t.record == r and t.instruction][:6],
            )
            for r in records
        ]


def objects_of(vault: Vault, record: str) -> tuple[str, str]:
    """Image and report of a record."""
    found = vault.catalogue.record(record)
    return found.image, found.report


def metrics_of(desk: Desk, run: Run) -> list[dict[str, float]]:
    """The metrics of a run, a row a step."""
    with desk.vault.use([run.result["metrics"]], "HRESCH", desk.actor, ACTIVITY) as opened:
        return [json.loads(line) for line in opened.read(run.result["metrics"]).decode().splitlines()]


def trail_of(vault: Vault, record: str) -> list[tuple[str, str, str]]:
    """What became of a record: (what, id, when), oldest first."""

    def rows(node: Node) -> Iterator[tuple[str, str, str]]:
        if not node.repeated:
            yield node.kind, node.id, node.created
        for relative in node.relatives:
            yield from rows(relative)

    return sorted(rows(trace(vault.catalogue, record).results), key=lambda row: row[2])


def verdict_of(home: Path) -> Verdict:
    """What ``cloche audit verify`` says of the home's log."""
    key = VerifierKey.from_text((home / PIN).read_text(), where=str(home / PIN))
    return verify(home / LOG, key, home / HIGH_WATER)
