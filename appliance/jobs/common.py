"""What the stages share: finding a run to go on with, reading pairs, and keeping checkpoints in the vault."""

import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from PIL import Image

from appliance.progress import Progress, aloud, silent
from audit.actor import Actor
from audit.catalogue import new_id
from audit.checkpoint import Checkpoint
from audit.datasets import freeze
from audit.errors import BadInput, Refused
from audit.events import Event
from audit.rows import Model, Record, Run, StoredObject
from audit.vault import Opened, Vault
from synth.synthesizer import Pair
from train.rl.views import original, shown

RESEARCH = "HRESCH"
"""Purpose of use of making a model."""
MISSING = {
    "synth": ("there are no synthetic tasks to learn from", "cloche synth"),
    "train": ("there is no trained adapter to align", "cloche train"),
    "export": ("there is no finished export run", "cloche export"),
    "adapter": ("there is no adapter to export", "cloche train"),
}
"""What is said where no run or model of a kind is there, and the command that makes one."""
Found = TypeVar("Found", Run, Model)


@dataclass(frozen=True)
class Desk:
    """Where a stage works."""

    vault: Vault
    """The opened vault."""
    actor: Actor
    """Who runs the stage."""
    progress: Progress = silent
    """Told how far the work is."""
    tell: Callable[[str], None] = aloud
    """Told what a person should know while it goes on."""


def as_config(*parts: Any, **more: Any) -> dict[str, Any]:
    """Dataclasses and values as one JSON-ready mapping."""
    found: dict[str, Any] = {}
    for part in parts:
        found |= json.loads(json.dumps(dataclasses.asdict(part)))
    return found | more


def earlier(desk: Desk, kind: str, config: Mapping[str, Any], root: str | None = None) -> Run | None:
    """The run of this kind and configuration that was cut off or is done; with this data set where one is named."""
    for run in reversed(desk.vault.catalogue.runs(kind)):
        same = dict(run.config) == dict(config) and root in (None, run.manifest_root)
        if same and run.state in ("running", "done"):
            return run
    return None


def begin(
    desk: Desk, kind: str, config: Mapping[str, Any], seed: int = 0, root: str = "", parents: Sequence[str] = ()
) -> Run:
    """The run of this kind and configuration: the one that was cut off, the one that is done, or a new one."""
    if found := earlier(desk, kind, config, root):
        return found
    detail = {"run": new_id("run-"), "manifest": root}
    # The event is first: where the work is cut off between the two, the log knows more than the catalogue, never less.
    desk.vault.record(Event("run.started", desk.actor, RESEARCH, activity=kind, objects=tuple(parents), detail=detail))
    return desk.vault.catalogue.start_run(kind, config, seed, root, id=detail["run"])


def origin_of(desk: Desk, run: Run, base: str) -> dict[str, str | int]:
    """What an artefact of a run carries of where it came from, so that it points to the log and the log to it."""
    at = Checkpoint.from_body(desk.vault.checkpoint().partition(b"\n\n")[0])
    return {
        "base": base,
        "manifest": run.manifest_root,
        "run": run.id,
        "log": at.origin,
        "log_size": at.size,
        "log_root": at.root.hex(),
    }


def finish(desk: Desk, run: Run, result: Mapping[str, Any]) -> Run:
    """Close a run with its figures."""
    desk.vault.record(Event("run.finished", desk.actor, RESEARCH, activity=run.kind, detail={"run": run.id}))
    return desk.vault.catalogue.finish_run(run.id, result)


def latest(desk: Desk, kind: Literal["synth", "train", "export"]) -> Run:
    """The newest finished run of a kind. Raises BadInput naming the command that makes one."""
    return _there(desk, kind, desk.vault.catalogue.latest(kind))


def latest_adapter(desk: Desk) -> Model:
    """The newest adapter, trained or aligned. Raises BadInput naming the command that makes one."""
    return _there(desk, "adapter", desk.vault.catalogue.latest_model("adapter"))


def _there(desk: Desk, kind: str, found: Found | None) -> Found:
    if found is None:
        what, command = MISSING[kind]
        retired = [one for one in desk.vault.catalogue.models() if one.note.get("state") == "retired"]
        if retired and kind != "synth":
            when = retired[-1].note.get("retired")
            what += f"; {retired[-1].id} was retired at {when}: it learned from a patient who was forgotten"
        raise BadInput(what, where=str(desk.vault.home), hint=command)
    return found


def training_records(desk: Desk, split: str = "train") -> list[Record]:
    """The records of a split that the policy allows for research. Raises BadInput, Refused where there is none."""
    found = desk.vault.catalogue.records(split)
    if not found:
        raise BadInput(
            f"the vault holds no records of the split {split!r}",
            where=str(desk.vault.home),
            hint="cloche ingest SOURCE",
        )
    return usable(desk, found)


def usable(desk: Desk, records: Sequence[Record]) -> list[Record]:
    """Those of some records that the policy allows for research; how many are left out, by which rule, is told.

    Raises:
        Refused: it allows none of them, or cannot be read.
    """
    ids, left_out = desk.vault.permitted([one.id for one in records], RESEARCH)
    allowed = set(ids)
    rules = ", ".join(f"{count} by {rule}" for rule, count in sorted(left_out.items()))
    if records and not allowed:
        raise Refused(
            f"the policy allows none of {len(records)} records for research: {rules}",
            where="policy.toml",
            hint="cloche policy show; cloche records lists what each record's consent is",
        )
    if left_out:
        desk.tell(f"the policy leaves out {sum(left_out.values())} of {len(records)} records: {rules}")
    return [one for one in records if one.id in allowed]


def members_of(records: Iterable[Record]) -> list[str]:
    """Ids of the images and reports of records."""
    return [o for r in records for o in (r.image, r.report)]


def root_of(desk: Desk, members: Iterable[str]) -> str:
    """Merkle root of the data set of these objects, hex; the data set is frozen under it."""
    return freeze(desk.vault, members, actor=desk.actor, activity="freeze").hex()


def pairs_in(opened: Opened, records: Sequence[Record]) -> list[Pair]:
    """The records' images and captions."""
    return [Pair(r.id, r.image, json.loads(opened.read(r.report))["caption"]) for r in records]


def images_in(opened: Opened) -> Callable[[str], Image.Image]:
    """Opens an image by object id; one that ends in a transform's suffix (``#mirrored``) gives the image so."""

    def image(name: str) -> Image.Image:
        return shown(Image.open(io.BytesIO(opened.read(original(name)))).convert("RGB"), name)

    return image


def lines_of(data: bytes) -> list[str]:
    """Lines of a JSONL blob."""
    return data.decode().splitlines()


def objects_of_run(desk: Desk, run: Run, kind: str) -> list[StoredObject]:
    """What a run has put into the vault of one kind and not deleted, oldest first."""
    return [o for o in desk.vault.catalogue.objects(kind) if o.note.get("run") == run.id and not o.deleted]


class VaultStore:
    """A run's last checkpoints in the vault; older ones are deleted once the new one is durable."""

    def __init__(self, desk: Desk, run: Run, before: Callable[[], None] = lambda: None, keep: int = 2) -> None:
        """The store of a run.

        Args:
            before: called before a checkpoint is kept: what it rests on is then durable, too.
            keep: checkpoints that stay; the one before serves where the last cannot be read.
        """
        self.desk, self.run, self.before, self.keep = desk, run, before, keep

    def _kept(self) -> list[str]:
        return [o.id for o in objects_of_run(self.desk, self.run, "checkpoint")]

    def save(self, data: bytes) -> None:
        """Keep ``data`` as the last one."""
        self.before()
        old = self._kept()[: 1 - self.keep or None]
        self.desk.vault.put(
            "checkpoint", data, actor=self.desk.actor, note={"run": self.run.id}, activity=self.run.kind
        )
        if old:
            self.desk.vault.delete(old, actor=self.desk.actor, activity=self.run.kind)

    def load(self, back: int = 0) -> bytes | None:
        """What was kept last, or that many before it. Raises IntegrityFailure where it was damaged."""
        kept = self._kept()
        if back >= len(kept):
            return None
        one = kept[-1 - back]
        with self.desk.vault.use([one], RESEARCH, self.desk.actor, "resume", {"run": self.run.id}) as opened:
            return opened.read(one)

    def clear(self) -> None:
        """Delete the checkpoints of a run that is done."""
        if kept := self._kept():
            self.desk.vault.delete(kept, actor=self.desk.actor, activity=self.run.kind)
