"""Stage: the candidate. Merge into the unquantised base, convert, quantise, compare with transformers (DESIGN §8)."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.jobs.common import RESEARCH, Desk, as_config, begin, finish, latest_adapter, origin_of
from appliance.jobs.workdir import workdir
from audit.errors import GateFailed, Refused
from audit.models import store_model
from audit.rows import NewObject, Run
from train.evaluation.answerers import logits_of
from train.gguf.convert import convert
from train.gguf.engine import Engine
from train.gguf.files import digest_of
from train.gguf.header import stamp
from train.gguf.merge import merge
from train.gguf.quantise import quantise
from train.gguf.verify import Parity, Prompt, compare
from train.models.loading import load

LOGIT_COSINE = {"F16": 0.999, "Q8_0": 0.99, "Q5_K_M": 0.99, "Q4_K_M": 0.97}
"""Least mean cosine of logits with the merged fp32 model."""
SAME_ANSWERS = {"F16": 0.99, "Q8_0": 0.95, "Q5_K_M": 0.90, "Q4_K_M": 0.85}
"""Least share of equal greedy answers."""


@dataclass(frozen=True)
class ExportConfig:
    """What to make."""

    quantisation: str = "Q8_0"
    """Kind of the language model's matrices; the vision part is always f16."""
    max_tokens: int = 16
    """Tokens of an answer in the comparison."""
    bounded: bool = True
    """Refuse below the bounds; off only for a demo of a few prompts, whose figures mean nothing."""


def export(desk: Desk, model_dir: Path, config: ExportConfig, prompts: Sequence[Prompt]) -> Run:
    """Make the unsigned candidate GGUF of the newest adapter, and that of the base, and keep both in the vault.

    Args:
        prompts: questions with images, fitted, that the GGUF and transformers are compared by.
    Raises:
        BadInput: no adapter. GateFailed: the GGUF does not agree with the merged model.
        Refused: the adapter is a control of an experiment.
    """
    adapter = latest_adapter(desk)
    if control := adapter.note.get("control"):
        raise Refused(
            f"{adapter.id} is for an experiment only: {control}",
            where="export",
            hint="cloche align with another table, or none, makes one that may be released",
        )
    run = begin(
        desk,
        "export",
        as_config(config, adapter=adapter.id, base=digest_of(model_dir), prompts=len(prompts)),
        0,
        adapter.manifest_root,
        adapter.objects,
    )
    if run.state == "done":
        return run
    size = sum(p.stat().st_size for p in model_dir.glob("*.safetensors"))
    with (
        workdir(desk.vault.home, 8 * size) as work,
        desk.vault.use(adapter.objects, RESEARCH, desk.actor, "export", {"run": run.id}) as opened,
    ):
        (work / "adapter.safetensors").write_bytes(opened.read(adapter.objects[0]))
        desk.progress(0, 6, "merging")
        merge(model_dir, work / "adapter.safetensors", work / "merged", "float32")
        merge(model_dir, None, work / "base", "float32")
        desk.progress(1, 6, "converting")
        full = convert(work / "merged", work, "f16", "candidate")
        base = convert(work / "base", work, "f16", "base")
        desk.progress(2, 6, "quantising")
        small, small_base = work / "candidate.gguf", work / "base.gguf"
        quantise(full.text, small, config.quantisation)
        quantise(base.text, small_base, config.quantisation)
        came = origin_of(desk, run, adapter.note["base"]) | {"adapter": adapter.note["sha256"], "learned": adapter.run}
        stamp(small, small, {f"cloche.{key}": fact for key, fact in came.items()})
        merged = load(work / "merged", "fp32", "cpu", adapter.note.get("max_visual_tokens"))
        reference = logits_of(merged)
        parity: dict[str, Parity] = {}
        for at, (kind, file) in enumerate((("F16", full.text), (config.quantisation, small)), 3):
            desk.progress(at, 6, f"comparing {kind}")
            with Engine(file, full.mmproj) as engine:
                parity[kind] = compare(reference, engine, prompts, config.max_tokens)
        if config.bounded:
            check(parity)
        data = [p.read_bytes() for p in (small, full.mmproj, small_base) if p is not None]
    desk.progress(5, 6, "keeping")
    note = {"run": run.id, "quantisation": config.quantisation}
    new = [
        NewObject(kind, blob, None, adapter.objects if kind == "gguf" else (), note)
        for kind, blob in zip(("gguf", "mmproj", "base-gguf"), data, strict=True)
    ]
    new.append(
        NewObject(
            "parity",
            json.dumps({k: dataclasses.asdict(v) for k, v in parity.items()}).encode(),
            None,
            adapter.objects,
            note,
        )
    )
    ids = desk.vault.put_many(new, actor=desk.actor, activity="export")
    numbers = {
        k: v.numbers() | {"bound_cosine": LOGIT_COSINE[k], "bound_same": SAME_ANSWERS[k]} for k, v in parity.items()
    }
    model = store_model(
        desk.vault,
        "gguf",
        ids[:2],
        run,
        actor=desk.actor,
        parent=adapter.id,
        note={
            "state": "candidate",
            "base": adapter.note["base"],
            "sha256": hashlib.sha256(data[0]).hexdigest(),
            "family": merged.family.noted(),
            **note,
        },
    )
    result = {
        "gguf": ids[0],
        "mmproj": ids[1],
        "base_gguf": ids[2],
        "parity_log": ids[3],
        "parity": numbers,
        "model": model.id,
    }
    desk.progress(6, 6, "done")
    return finish(desk, run, result)


def check(parity: dict[str, Parity]) -> None:
    """Refuse a candidate that does not agree. Raises GateFailed naming the bound and the figure."""
    for kind, found in parity.items():
        if found.cosine_mean < LOGIT_COSINE[kind]:
            raise GateFailed(
                f"the {kind} GGUF differs from the merged model: mean logit cosine {found.cosine_mean:.5f}, "
                f"bound {LOGIT_COSINE[kind]}",
                where="export",
                hint="export with a finer --quantisation",
            )
        if found.same_answers < SAME_ANSWERS[kind] * found.n:
            raise GateFailed(
                f"the {kind} GGUF answers otherwise: {found.same_answers} of {found.n} answers equal, "
                f"bound {SAME_ANSWERS[kind]:.0%}",
                where="export",
                hint="export with a finer --quantisation",
            )
