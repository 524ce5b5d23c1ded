"""The demo, stage by stage: a hospital is made, ingested, learned from, measured, signed and asked.

Every stage finds what it has already done, so the same command goes on wherever it was cut off.
"""

import dataclasses
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from appliance.ask.answer import ask
from appliance.demo.hospital.export import Hospital, build
from appliance.demo.hospital.questions import Question
from appliance.demo.hospital.scoring import score
from appliance.demo.judging import judged_by_atlas
from appliance.demo.page import Asked, Story, render
from appliance.intake.ingest import ingest
from appliance.jobs.common import Desk, images_in
from appliance.jobs.export import ExportConfig, export
from appliance.jobs.learn import align, train
from appliance.jobs.measure import Gates, Suite, measure, sign_candidate
from appliance.jobs.questions import prompts_of, read_questions, sources_of
from appliance.jobs.synthesise import Writers, synthesise, triplets_of
from appliance.progress import Progress
from appliance.starter.exams import general_suite
from audit.actor import Actor
from audit.checkpoint import VerifierKey
from audit.events import Event
from audit.home import HIGH_WATER, LOG, PIN
from audit.keys import Recipient, generate
from audit.rows import Run
from audit.vault import Opened, Vault
from audit.verify import verify
from synth.pipeline import SynthConfig
from synth.triplet import PRECISE
from train.evaluation.run import Item
from train.models.loading import family_of
from train.rl.grpo import GrpoConfig
from train.sft import SftConfig


@dataclass(frozen=True)
class DemoConfig:
    """What to run with."""

    folder: Path
    """Where everything goes: hospital, home, keys, page."""
    model: Path
    """The model to adapt."""
    synthesizer: Path
    """The model that writes triplets."""
    judge: Path
    """The model, or GGUF file, that judges them."""
    fast: bool = False
    """Small numbers, for tests of the whole way: its figures mean nothing."""

    @property
    def home(self) -> Path:
        """The appliance's home."""
        return self.folder / "home"

    @property
    def page(self) -> Path:
        """The page, beside the home."""
        return self.folder / "page.html"


Stage = Callable[[str], AbstractContextManager[Progress]]
"""Opens the progress of a stage by its title."""


def run_demo(config: DemoConfig, stage: Stage, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the whole main job; returns the figures, which also stand in results.json."""
    started = time.time()
    with stage("making the hospital"):
        hospital = build(config.folder / "hospital", patients=36, fast=config.fast)
    with open_home(config) as vault:
        desk = Desk(vault, Actor.current("steward"))
        split = hospital.patients
        with stage("ingesting") as progress:
            ingest(vault, hospital.pairs, desk.actor, split=lambda patient: split[patient], progress=progress)
        sources = sources_of(desk)
        held = read_questions(desk, hospital.folder / "questions.jsonl", sources)
        with stage("writing and judging triplets") as progress:
            synthesis = synthesise(
                dataclasses.replace(desk, progress=progress),
                Writers(config.synthesizer, config.judge),
                synth_config(config.fast),
            )
        with stage("single-stage QLoRA") as progress:
            learned = train(dataclasses.replace(desk, progress=progress), config.model, sft_config(config.fast))
        with stage("GRPO with the mirror constraint") as progress:
            aligned = align(dataclasses.replace(desk, progress=progress), config.model, grpo_config(config.fast))
        family = family_of(config.model)
        with stage("merging, GGUF, parity") as progress:
            prompts = prompts_of(desk, held, family.fitted, 12 if config.fast else 200)
            exported = export(dataclasses.replace(desk, progress=progress), config.model, ExportConfig(), prompts)
        with stage("measuring base and candidate") as progress:
            gates = Gates(worse=100.0, forgetting=100.0) if config.fast else Gates()
            measured = measure(
                dataclasses.replace(desk, progress=progress),
                exported,
                [held, general(24 if config.fast else 300)],
                family.fitted,
                gates,
                opener,
            )
        with stage("signing"):
            sign_candidate(desk, exported, measured, config.model)
        with stage("asking"):
            asked = ask_three(vault, hospital)
        with stage("writing the page"):
            results = tell(
                config,
                desk,
                hospital,
                sources,
                Runs(synthesis, learned, aligned, exported, measured),
                asked,
                time.time() - started,
            )
    say(f"the page: {config.page}")
    return results


@dataclass(frozen=True)
class Runs:
    """The finished runs of the demo."""

    synthesis: Run
    learned: Run
    aligned: Run
    exported: Run
    measured: Run


def synth_config(fast: bool) -> SynthConfig:
    """Numbers of the synthesis stage."""
    return SynthConfig(samples=1, borrow=1, max_new_tokens=160, chunk=16) if fast else SynthConfig()


def sft_config(fast: bool) -> SftConfig:
    """Numbers of the supervised stage."""
    return SftConfig(epochs=1, checkpoint_every=2) if fast else SftConfig(epochs=6)


def grpo_config(fast: bool) -> GrpoConfig:
    """Numbers of the alignment stage."""
    return GrpoConfig(steps=2, prompts=4, group=4, checkpoint_every=1) if fast else GrpoConfig()


def open_home(config: DemoConfig) -> Vault:
    """The demo's appliance: opened, or made with two demo recipients and a passphrase that lies beside it."""
    config.folder.mkdir(parents=True, exist_ok=True)
    secret = config.folder / "passphrase.demo"
    if not secret.exists():
        _private(secret, secrets.token_urlsafe(24).encode() + b"\n")
    passphrase = secret.read_bytes().strip()
    if config.home.exists():
        return Vault.open(config.home, passphrase)
    recipients: list[Recipient] = []
    for name in ("auditor", "recovery"):
        key = generate(name, label="DEMO - not for real data")
        path = config.folder / f"{name}.demo.key"
        path.unlink(missing_ok=True)
        key.save(path, passphrase)
        recipients.append(key.recipient)
    return Vault.create(config.home, passphrase, recipients, actor=Actor.current("operator"))


def _private(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def general(count: int) -> Suite:
    """Held-out questions about drawn pictures: what the starter could do before."""
    drawn = general_suite(count)
    images = {d.id: d.image for d in drawn}
    items = [
        Item(f"general/{k}", d.id, f"{PRECISE}\n{d.fact.question}", (d.fact.precise,), d.fact.precise, "drawn", d.id)
        for k, d in enumerate(drawn)
    ]
    return Suite("general", tuple(items), images.__getitem__)


def opener(opened: Opened, suite: Suite) -> Callable[[str], Image.Image]:
    """Images of a suite: the vault's by record, the drawn ones as they are."""
    return images_in(opened) if suite.objects else suite.image


def ask_three(vault: Vault, hospital: Hospital) -> list[Asked]:
    """Three questions about three held-out pictures, through the same door as ``cloche ask``."""
    clinician = Actor.current("clinician")
    chosen: dict[str, Question] = {}
    for question in hospital.questions:
        chosen.setdefault(question.kind, question)
    found = []
    for kind in ("plane_which", "side_which", "structure_yesno"):
        if kind in chosen:
            question = chosen[kind]
            image = Image.open(hospital.image(question.slice_id))
            (said,) = ask(vault, clinician, image, [question.text])
            found.append(Asked(image, question.text, said.text, question.answer))
    return found


def tell(
    config: DemoConfig,
    desk: Desk,
    hospital: Hospital,
    sources: Mapping[str, str],
    runs: Runs,
    asked: list[Asked],
    seconds: float,
) -> dict[str, Any]:
    """Score the triplets, verify the log, write results.json and the page: a deliberate disclosure, logged as one."""
    vault = desk.vault
    by_record = {sources[t.slice_id]: t for t in hospital.truths}
    triplets = triplets_of(desk, runs.synthesis, "demo page")
    synthesis = judged_by_atlas(triplets, by_record, score) | {"reasons": runs.synthesis.result["reasons"]}
    figures = runs.measured.result["figures"]
    loss, steps = metrics_of(desk, runs.learned), metrics_of(desk, runs.aligned)
    shown = [r for r in dict.fromkeys(t.record for t in triplets if t.instruction)][:4]
    vault.record(
        Event(
            "disclosure.made",
            desk.actor,
            "HOPERAT",
            activity="demo page",
            objects=tuple(shown),
            detail={"to": "page.html"},
        )
    )
    with vault.use([o for r in shown for o in objects_of(vault, r)], "HOPERAT", desk.actor, "demo page") as opened:
        image = images_in(opened)
        samples = [
            (
                image(vault.catalogue.record(r).image),
                json.loads(opened.read(vault.catalogue.record(r).report))["caption"],
                [t for t in triplets if t.record == r and t.instruction][:6],
            )
            for r in shown
        ]
    verdict = verdict_of(config.home)
    results = {
        "figures": figures, "gates": runs.measured.result["gates"], "parity": runs.exported.result["parity"], "synthesis": synthesis,
        "audit": verdict, "seconds": round(seconds), "fast": config.fast, "base": runs.exported.config["base"],
    }  # fmt: skip
    (config.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    held = figures["held-out"]
    story = Story(
        figures, runs.measured.result["gates"], runs.exported.result["parity"], [m["loss"] for m in loss], steps, synthesis, samples, asked,
        trail_of(vault, shown[0]), verdict,
        {
            "held-out accuracy before": f"{held['base']['strict']['mean']:.1%}", "and after": f"{held['candidate']['strict']['mean']:.1%}",
            "records used": str(runs.synthesis.result["pairs"]), "audit log": verdict,
        },
        "the starter" if config.model.name == "model" else config.model.name,
    )  # fmt: skip
    config.page.touch(mode=0o600)
    config.page.write_text(render(story))
    return results


def objects_of(vault: Vault, record: str) -> tuple[str, str]:
    """Image and report of a record."""
    found = vault.catalogue.record(record)
    return found.image, found.report


def metrics_of(desk: Desk, run: Run) -> list[dict[str, float]]:
    """The metrics of a run, a row a step."""
    with desk.vault.use([run.result["metrics"]], "HRESCH", desk.actor, "demo page") as opened:
        return [json.loads(line) for line in opened.read(run.result["metrics"]).decode().splitlines()]


def trail_of(vault: Vault, record: str) -> list[tuple[str, str, str]]:
    """What was made of a record: (what, id, when), oldest first."""
    image = vault.catalogue.record(record).image
    found, waiting = [("record", record, vault.catalogue.record(record).created)], [image]
    seen = set()
    while waiting:
        object_id = waiting.pop(0)
        if object_id not in seen:
            seen.add(object_id)
            stored = vault.catalogue.object(object_id)
            found.append((stored.kind, object_id, stored.created))
            waiting += vault.catalogue.children(object_id)
    return sorted(found, key=lambda row: row[2])


def verdict_of(home: Path) -> str:
    """What ``cloche audit verify`` says of the home's log."""
    key = VerifierKey.from_text((home / PIN).read_text(), where=str(home / PIN))
    return verify(home / LOG, key, home / HIGH_WATER).sentence
