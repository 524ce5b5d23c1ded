"""The demo, stage by stage: a hospital is made, ingested, learned from, measured, signed and asked.

Every stage finds what it has already done, so the same command goes on wherever it was cut off.
"""

import dataclasses
import os
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from PIL import Image

from appliance.ask.answer import ask
from appliance.demo.config import DemoConfig
from appliance.demo.hospital.export import Hospital, build
from appliance.demo.hospital.questions import Question
from appliance.demo.page import Asked
from appliance.demo.telling import Runs, tell
from appliance.intake.ingest import ingest
from appliance.jobs.align import AlignSettings, align
from appliance.jobs.common import Desk
from appliance.jobs.defaults import ALIGNMENT_STEPS, REHEARSED
from appliance.jobs.export import ExportConfig, export
from appliance.jobs.learn import train
from appliance.jobs.measure import Gates, measure, sign_candidate
from appliance.jobs.questions import general, opener, prompts_of, read_questions, sources_of
from appliance.jobs.synthesise import Writers, synthesise
from appliance.progress import Progress
from audit.actor import Actor
from audit.errors import GateFailed
from audit.keys import Recipient, generate
from audit.remote import RemoteVault
from audit.vault import Vault
from synth.pipeline import SynthConfig
from train.models.directory import family_of
from train.rl.grpo import GrpoConfig
from train.sft import SftConfig

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
            learned = train(
                dataclasses.replace(desk, progress=progress),
                config.model,
                sft_config(config.fast),
                rehearse=24 if config.fast else REHEARSED,
            )
        with stage("GRPO with the mirror constraint") as progress:
            constrained = AlignSettings(domain="brain-mri")
            aligned = align(
                dataclasses.replace(desk, progress=progress), config.model, grpo_config(config.fast), constrained
            )
        family = family_of(config.model)
        with stage("merging, GGUF, parity") as progress:
            prompts = prompts_of(desk, held, family.fitted, 12 if config.fast else 200)
            exported = export(
                dataclasses.replace(desk, progress=progress),
                config.model,
                ExportConfig(bounded=not config.fast),
                prompts,
            )
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
        refused: GateFailed | None = None
        with stage("signing"):
            try:
                sign_candidate(desk, exported, measured, config.model)
            except GateFailed as failure:
                refused = failure  # the page must tell it before the command fails
        with stage("asking"):
            asked = ask_three(vault, hospital)
        with stage("writing the page"):
            truths = {sources[t.slice_id]: t for t in hospital.truths}
            runs = Runs(synthesis, learned, aligned, exported, measured)
            results = tell(config, desk, truths, runs, asked, time.time() - started)
    say(f"the page: {config.page}")
    if refused is not None:
        raise refused
    return results


def synth_config(fast: bool) -> SynthConfig:
    """Numbers of the synthesis stage."""
    return SynthConfig(borrow=4, max_new_tokens=160, chunk=16) if fast else SynthConfig()


def sft_config(fast: bool) -> SftConfig:
    """Numbers of the supervised stage."""
    return SftConfig(epochs=1, checkpoint_every=2) if fast else SftConfig()


def grpo_config(fast: bool) -> GrpoConfig:
    """Numbers of the alignment stage."""
    return GrpoConfig(steps=2, prompts=4, group=4, checkpoint_every=1) if fast else GrpoConfig(steps=ALIGNMENT_STEPS)


def open_home(config: DemoConfig) -> Vault:
    """The demo's appliance, opened or made. Its passphrase lies beside it; so do demo keys where none were named."""
    config.folder.mkdir(parents=True, exist_ok=True)
    secret = config.folder / "passphrase.demo"
    if not secret.exists():
        _private(secret, secrets.token_urlsafe(24).encode() + b"\n")
    passphrase = secret.read_bytes().strip()
    if config.home.exists():
        return RemoteVault.open(config.home, passphrase)
    recipients = [Recipient.load(path) for path in config.recipients]
    for name in () if recipients else ("auditor", "recovery"):
        key = generate(name, label="DEMO - not for real data")
        path = config.folder / f"{name}.demo.key"
        path.unlink(missing_ok=True)
        key.save(path, passphrase)
        recipients.append(key.recipient)
    Vault.create(config.home, passphrase, recipients, actor=Actor.current("operator")).close()
    return RemoteVault.open(config.home, passphrase)


def _private(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


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
