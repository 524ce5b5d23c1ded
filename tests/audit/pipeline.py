"""A small pipeline in a real vault, without a model's arithmetic: what the stages record, freeze, store and log."""

from dataclasses import dataclass

from audit.actor import Actor
from audit.datasets import freeze, places
from audit.events import Event
from audit.models import store_model
from audit.rows import Model, NewObject, Record, Run
from audit.vault import Vault

STEWARD, CLINICIAN = Actor("ada", "steward"), Actor("grace", "clinician")
LEARNED, LATER, HELD_OUT = "P-LEARNEDFRO", "P-LEARNTLATE", "P-HELDOUTXXX"
"""Learned from by synthesis and training; by alignment, too; by nothing."""


@dataclass(frozen=True)
class Pipeline:
    """What was made."""

    records: dict[str, Record]
    """By patient."""
    runs: dict[str, Run]
    """By kind."""
    adapter: Model
    """Trained."""
    aligned: Model
    """Aligned."""
    gguf: Model
    """Exported."""
    answer: int
    """Entry of the answer that it gave."""


def ingest(vault: Vault, patient: str, split: str) -> Record:
    """One record of a patient."""
    parts = [NewObject("image", b"i" + patient.encode(), patient), NewObject("report", b"r", patient)]
    image, report = vault.put_many(parts, actor=STEWARD, activity="ingest")
    record = Record("", patient, image, report, vault.fingerprint(patient.encode()), split)
    record = vault.catalogue.add_record(record)
    objects, detail = (record.id, image, report), {"split": split}
    vault.record(
        Event("record.ingested", STEWARD, patients=(patient,), objects=objects, activity="ingest", detail=detail)
    )
    return record


def run_of(vault: Vault, kind: str, members: list[str], inputs: list[str], root: str = "") -> Run:
    """Freeze what a run reads, begin it, and open it: as the stages do."""
    root = root or freeze(vault, members, actor=STEWARD, activity="freeze").hex()
    run = vault.catalogue.start_run(kind, {"members": len(members)}, 0, root)
    detail = {"run": run.id, "manifest": root}
    vault.record(Event("run.started", STEWARD, "HRESCH", activity=kind, objects=tuple(inputs), detail=detail))
    with vault.use(members, "HRESCH", STEWARD, kind, detail):
        return run


def finish(vault: Vault, run: Run) -> None:
    """Close a run."""
    vault.record(Event("run.finished", STEWARD, "HRESCH", activity=run.kind, detail={"run": run.id}))
    vault.catalogue.finish_run(run.id, {})


def live(vault: Vault, learned: tuple[str, ...] = (LEARNED, LATER)) -> Pipeline:
    """Ingest three patients, synthesise and train on some of them, align, export and ask."""
    records = {one: ingest(vault, one, "train" if one in learned else "held-out") for one in (LEARNED, LATER, HELD_OUT)}
    return learn(vault, records, learned)


def learn(vault: Vault, records: dict[str, Record], learned: tuple[str, ...]) -> Pipeline:
    """The same without the ingest."""
    parts = [o for one in learned for o in (records[one].image, records[one].report)]
    synth = run_of(vault, "synth", parts, [])
    new = [NewObject(kind, b"text", None, parts, {"run": synth.id}) for kind in ("triplets", "conversations")]
    triplets, talks = vault.put_many(new, actor=STEWARD, activity="synth")
    finish(vault, synth)
    train = run_of(vault, "train", [talks, *parts], [talks])
    at = places(vault, [talks, *parts])
    batches = [sorted(at[o] for o in (records[one].image, records[one].report)) for one in learned]
    named = tuple(sorted(records[one].id for one in learned))
    detail = {"run": train.id, "manifest": train.manifest_root, "steps": [0, len(learned) - 1], "batches": batches}
    detail["records"] = [[named.index(records[one].id)] for one in learned]
    vault.record(Event("run.step", STEWARD, "HRESCH", activity="train", objects=named, detail=detail))
    adapter = _model(vault, train, "adapter", [talks, *parts[::2]], "")
    align = run_of(vault, "align", [triplets, adapter.objects[0], *parts[-2:]], [adapter.objects[0]])
    aligned = _model(vault, align, "adapter", [adapter.objects[0], triplets, parts[-2]], adapter.id)
    export = run_of(vault, "export", [aligned.objects[0]], [aligned.objects[0]], align.manifest_root)
    gguf = _model(vault, export, "gguf", [aligned.objects[0]], aligned.id)
    asked = {"model": gguf.id, "gguf": "ab" * 32, "question": "0" * 64}
    with vault.use(gguf.objects, "TREAT", CLINICIAN, "ask", {"model": gguf.id}):
        answered = Event("question.answered", CLINICIAN, "TREAT", objects=gguf.objects, activity="ask", detail=asked)
        answer = vault.record(answered)
    return Pipeline(
        records, {r.kind: r for r in (synth, train, align, export)}, adapter, aligned, gguf, answer
    )  # fmt: skip


def _model(vault: Vault, run: Run, kind: str, parents: list[str], parent: str) -> Model:
    made = vault.put_many([NewObject(kind, b"w", None, parents, {"run": run.id})], actor=STEWARD, activity=run.kind)
    model = store_model(vault, kind, made, run, actor=STEWARD, parent=parent, note={"sha256": "ab" * 32})
    finish(vault, run)
    return model
