"""A small hospital's year in a real vault: two patients, one learned from, one held out, a model, its answers."""

from dataclasses import dataclass

from audit.actor import Actor
from audit.events import Event
from audit.rows import NewObject
from audit.vault import Vault

LEARNED, HELD_OUT = "P-LEARNEDFRO", "P-HELDOUTXXX"
STEWARD, CLINICIAN = Actor("ada", "steward"), Actor("grace", "clinician")
ROOT = "ab" * 32


@dataclass(frozen=True)
class History:
    """Ids of what was made."""

    records: dict[str, str]
    images: dict[str, str]
    pack: str
    adapter: str
    gguf: str


def live(vault: Vault) -> History:
    """Ingest, write samples, train, export, evaluate, ask, disclose: the events that the appliance really commits."""
    records, images = {}, {}
    for patient, split in ((LEARNED, "train"), (HELD_OUT, "held-out")):
        parts = [NewObject("image", b"i", patient), NewObject("report", b"r", patient)]
        image, report = vault.put_many(parts, actor=STEWARD, activity="ingest")
        records[patient], images[patient] = f"rec-{patient[2:9].lower()}", image
        objects = (records[patient], image, report)
        detail = {"split": split, "numbers_taken_out": 0}
        vault.record(
            Event("record.ingested", STEWARD, patients=(patient,), objects=objects, activity="ingest", detail=detail)
        )
    _begin(vault, "synth", "run-synth", [])
    _use(vault, [images[LEARNED]], "synth", "run-synth")
    pack = vault.put(
        "conversations", b"c", actor=STEWARD, parents=[images[LEARNED]], activity="synth", note=_by("synth")
    )
    _end(vault, "synth", "run-synth")
    _begin(vault, "train", "run-train", [pack])
    _use(vault, [pack], "train", "run-train")
    detail = {"run": "run-train", "steps": [0, 1]}
    step = Event("run.step", STEWARD, "HRESCH", objects=(records[LEARNED],), activity="train", detail=detail)
    vault.record(step)
    adapter = vault.put(
        "adapter", b"a", actor=STEWARD, activity="train", note=_by("train")
    )  # its parents: only the run tells
    _end(vault, "train", "run-train")
    _begin(vault, "export", "run-export", [adapter])
    gguf = vault.put("gguf", b"g", actor=STEWARD, parents=[adapter], activity="export", note=_by("export"))
    _end(vault, "export", "run-export")
    _begin(vault, "evaluate", "run-eval", [gguf])
    _use(vault, [gguf, images[HELD_OUT]], "evaluate", "run-eval")
    _end(vault, "evaluate", "run-eval")
    for kind, run in (("model.evaluated", "run-eval"), ("model.signed", "run-sign")):
        activity = kind.partition(".")[2]
        vault.record(Event(kind, STEWARD, "HRESCH", objects=(gguf,), activity=activity, detail={"run": run}))
    for _ in range(2):
        with vault.use([gguf], "TREAT", CLINICIAN, "ask", {"model": "model-one"}):
            detail = {"model": "model-one", "question": "0" * 64}
            answered = Event("question.answered", CLINICIAN, "TREAT", objects=(gguf,), activity="ask", detail=detail)
            vault.record(answered)
    vault.record(Event("access.refused", CLINICIAN, reason="wrong passphrase"))
    disclosed = {"recipient": "Uppsala University", "address": "Box 256, Uppsala", "to": "out.zip"}
    objects = (records[LEARNED], records[HELD_OUT])
    vault.record(Event("disclosure.made", STEWARD, "HRESCH", objects=objects, activity="study", detail=disclosed))
    vault.record(Event("model.exported", STEWARD, "HRESCH", objects=(gguf,), detail={"to": "model.gguf"}))
    return History(records, images, pack, adapter, gguf)


def _by(activity: str) -> dict[str, str | int | float]:
    """The note of what a run made."""
    return {"run": f"run-{activity}"}


def _begin(vault: Vault, activity: str, run: str, inputs: list[str]) -> None:
    detail = {"run": run, "manifest": ROOT}
    vault.record(Event("run.started", STEWARD, "HRESCH", objects=tuple(inputs), activity=activity, detail=detail))


def _end(vault: Vault, activity: str, run: str) -> None:
    vault.record(Event("run.finished", STEWARD, "HRESCH", activity=activity, detail={"run": run}))


def _use(vault: Vault, objects: list[str], activity: str, run: str) -> None:
    with vault.use(objects, "HRESCH", STEWARD, activity, {"run": run}):
        pass
