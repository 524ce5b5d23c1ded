"""Stage: captions into judged triplets and training conversations (METHODS 1.2-1.6)."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.jobs.common import (
    RESEARCH,
    Desk,
    as_config,
    begin,
    finish,
    images_in,
    lines_of,
    members_of,
    objects_of_run,
    pairs_in,
    root_of,
    training_records,
)
from audit.conversation import Conversation
from audit.errors import BadInput
from audit.rows import NewObject, Run
from synth.assembly import assemble
from synth.judge import EXAMPLES, GgufJudge, Judge, ModelJudge
from synth.pipeline import SynthConfig, reasons, write_chunk
from synth.pipeline import finish as finish_synthesis
from synth.triplet import Triplet
from train.gguf.files import digest_of, digest_of_file
from train.models.directory import check_directory
from train.models.features import Features
from train.models.loading import load


@dataclass(frozen=True)
class Writers:
    """Who writes and who judges."""

    synthesizer: Path
    """Directory of the model that writes."""
    judge: Path
    """Directory, or GGUF file, of the model that judges."""


def about(directory: Path) -> dict[str, Any]:
    """What a model directory says of itself in its cloche.json: ``judge_shots``, ``known_words``; all optional.

    Raises:
        BadInput: the file is no JSON object.
    """
    path = directory / "cloche.json"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BadInput(f"this is no JSON: {error}", where=str(path), hint="mend or remove it") from None
    if not isinstance(found, dict):
        raise BadInput("this is no JSON object", where=str(path), hint="mend or remove it")
    return found


def digest_of_judge(path: Path) -> str:
    """SHA-256 of a model directory or of a GGUF file."""
    return digest_of_file(path) if path.suffix == ".gguf" else digest_of(path)


def synthesise(desk: Desk, writers: Writers, config: SynthConfig, limit: int | None = None) -> Run:
    """Write, borrow, judge, filter and assemble; goes on where it was cut off, chunk by chunk."""
    check_directory(writers.synthesizer)
    config = dataclasses.replace(config, known=float(about(writers.synthesizer).get("known_words", config.known)))
    records = training_records(desk)[:limit]
    root = root_of(desk, members_of(records))
    shared = writers.judge == writers.synthesizer
    digest = digest_of(writers.synthesizer)
    judge_digest = digest if shared else digest_of_judge(writers.judge)
    run = begin(
        desk, "synth", as_config(config, limit=limit, synthesizer=digest, judge=judge_digest), config.seed, root
    )
    if run.state == "done":
        return run
    loaded = load(writers.synthesizer, digest=digest)
    with desk.vault.use(
        members_of(records), RESEARCH, desk.actor, "synth", {"run": run.id, "manifest": root}
    ) as opened:
        pairs = pairs_in(opened, records)
        features = Features(loaded, images_in(opened))
        written: list[Triplet] = []
        for number, start in enumerate(range(0, len(pairs), config.chunk)):
            kept = [o for o in objects_of_run(desk, run, "synth-part") if o.note.get("chunk") == number]
            if kept:
                with desk.vault.use([kept[0].id], RESEARCH, desk.actor, "resume", {"run": run.id}) as again:
                    written += [Triplet.from_json(line) for line in lines_of(again.read(kept[0].id))]
                continue
            some = pairs[start : start + config.chunk]
            desk.progress(start, len(pairs), "images written")
            found = write_chunk(loaded, some, features, config, number)
            data = "\n".join(t.to_json() for t in found).encode()
            desk.vault.put(
                "synth-part",
                data,
                actor=desk.actor,
                parents=[p.image for p in some],
                note={"run": run.id, "chunk": number},
                activity="synth",
            )
            written += found
        desk.progress(len(pairs), len(pairs), "images written")
        judge: Judge
        if writers.judge.suffix == ".gguf":
            judge = GgufJudge(writers.judge)
        else:
            judge = ModelJudge(
                loaded if shared else load(writers.judge, digest=judge_digest),
                int(about(writers.judge).get("judge_shots", len(EXAMPLES))),
            )
        triplets = finish_synthesis(loaded, judge, pairs, written, features, config, desk.progress)
    talks = assemble(pairs, triplets, config.seed)
    sources = members_of(records)
    new = [
        NewObject("triplets", "\n".join(t.to_json() for t in triplets).encode(), None, sources, {"run": run.id}),
        NewObject("conversations", "\n".join(c.to_json() for c in talks).encode(), None, sources, {"run": run.id}),
    ]
    ids = desk.vault.put_many(new, actor=desk.actor, activity="synth")
    parts = [o.id for o in objects_of_run(desk, run, "synth-part")]
    result = {
        "triplets": ids[0],
        "conversations": ids[1],
        "pairs": len(pairs),
        "reasons": reasons(triplets),
        "tasks": len(talks),
    }
    done = finish(desk, run, result)
    if parts:
        desk.vault.delete(parts, actor=desk.actor, activity="synth")
    return done


def conversations_of(desk: Desk, run: Run, activity: str) -> list[Conversation]:
    """The conversations that a synth run assembled."""
    with desk.vault.use([run.result["conversations"]], RESEARCH, desk.actor, activity) as opened:
        return [Conversation.from_json(line) for line in lines_of(opened.read(run.result["conversations"]))]


def triplets_of(desk: Desk, run: Run, activity: str) -> list[Triplet]:
    """The triplets of a synth run, dropped ones included."""
    with desk.vault.use([run.result["triplets"]], RESEARCH, desk.actor, activity) as opened:
        return [Triplet.from_json(line) for line in lines_of(opened.read(run.result["triplets"]))]
