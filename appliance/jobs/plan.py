"""A training run before it is one: rows, tokens, steps, memory, disk, time; nothing of it is kept."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from appliance.jobs.common import RESEARCH, Desk, images_in, latest
from appliance.jobs.defaults import FEATURE_CACHE_GB
from appliance.jobs.features import CachePlan, cache_plan, uses_in_run
from appliance.jobs.rehearsal import rehearsal
from appliance.jobs.synthesise import conversations_of
from audit.conversation import Conversation
from audit.errors import Refused
from audit.rows import Run
from train.calibrate import measured
from train.calibrate import seconds as seconds_of
from train.data.encode import Encoder
from train.data.samples import samples_of
from train.estimate import How, Memory, Precision, Work, flops, memory
from train.loss import tile_of
from train.models.about import Known, known
from train.models.devices import computed_in
from train.models.directory import tokenizer_of
from train.models.family import Grid
from train.recompute import recomputes
from train.sft_config import SftConfig

LOOKED_AT = 256
"""Images that are opened for the plan; the others are taken to be as large as the largest of these."""
LONG_S = 8 * 3600
"""Seconds beyond which a run on a CPU is begun only with --yes."""
LARGE = 1_000_000_000
"""Parameters beyond which the same holds."""
CACHED = 2048 << 20
"""Bytes of features in memory at most, as `Features` holds them."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a run would do and need."""

    device: str
    """``cpu`` or ``cuda``."""
    precision: str
    """How the language Linears would be held."""
    parameters: int
    """Of the model."""
    images: int
    """Images to learn from, drawn ones included."""
    images_looked_at: int
    """Of these, opened for the plan."""
    conversations: int
    """Conversations about them."""
    rows: int
    """Rows: one an image set."""
    tokens: dict[str, int]
    """Tokens a row: p50, p95, longest, and all."""
    visual_tokens: int
    """Visual tokens of an epoch; each image stands in its row once."""
    learned_tokens: int
    """Tokens that the loss counts, of an epoch."""
    steps: int
    """Optimizer steps."""
    warmup_steps: int
    """Of these, with a rising rate."""
    checkpoints: int
    """Checkpoints on the way."""
    memory: Memory
    """Estimated bytes, by part."""
    available: int
    """Bytes of memory that are free where it would run; 0 where unknown."""
    cache: CachePlan | None
    """What features would take up on the disk; None where the tower learns, so that none can be kept."""
    seconds: float
    """Estimated time."""
    recomputes: bool
    """Whether layers are computed again in the backward pass."""
    micro_rows: int
    """Rows a pass."""

    @property
    def reasons(self) -> list[str]:
        """Why a person should think twice; empty where there is no reason."""
        found = []
        if self.device == "cpu" and (self.seconds > LONG_S or self.parameters > LARGE):
            size, time = f"{self.parameters / 1e9:.1f} billion parameters", in_time(self.seconds)
            found.append(f"there is no GPU, and {size} would take {time}")
        if self.available and self.memory.peak > self.available:
            found.append(
                f"it needs about {gib(self.memory.peak)} of memory and {gib(self.available)} are free: "
                "the run would likely be stopped by the system"
            )
        return found

    def data(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"memory": self.memory.rows(), "reasons": self.reasons, "on_out_of_memory": OUT_OF_MEMORY}

    def short(self) -> str:
        """One line for a person."""
        return (
            f"plan: {self.steps} steps over {self.rows} rows, longest {self.tokens['longest']} tokens, about "
            f"{in_time(self.seconds)} and {gib(self.memory.peak)} on {self.device} (cloche train --dry-run says more)"
        )

    def table(self) -> str:
        """All of it for a person."""
        parts = {k: v for k, v in self.memory.rows().items() if k != "peak"}
        looked = "" if self.images_looked_at == self.images else f" ({self.images_looked_at} looked at)"
        rows = [
            ("images", f"{self.images:,}{looked}"),
            ("conversations", f"{self.conversations:,} in {self.rows:,} rows"),
            ("tokens a row", ", ".join(f"{k} {v:,}" for k, v in self.tokens.items() if k != "all")),
            ("tokens an epoch",
             f"{self.tokens['all']:,}: {self.visual_tokens:,} visual, {self.learned_tokens:,} learned"),
            ("steps", f"{self.steps:,}, {self.warmup_steps:,} of them warm-up; {self.checkpoints:,} checkpoints"),
            ("device", f"{self.device}, language Linears in {self.precision}, {self.micro_rows} rows a pass"
                       + (", layers recomputed" if self.recomputes else "")),
            ("memory, about",
             gib(self.memory.peak) + (f" of {gib(self.available)} free" if self.available else "")),
            *((f"  {name}", gib(size)) for name, size in parts.items()),
            ("features on disk", self.cache.sentence if self.cache else "none: the tower learns, too"),
            ("time, about", in_time(self.seconds)),
            ("out of memory", OUT_OF_MEMORY),
        ]  # fmt: skip
        return "\n".join(f"{name:24}{said}" for name, said in rows)


OUT_OF_MEMORY = "the longest rows go first as a probe; rows a pass are halved, the rows of a step stay as many"


def plan(
    desk: Desk,
    model_dir: Path,
    config: SftConfig,
    rehearse: int,
    precision: Precision = "nf4",
    max_visual_tokens: int | None = None,
    feature_cache_gb: float = FEATURE_CACHE_GB,
) -> TrainingPlan:
    """Plan a run on the newest synthetic tasks. Opens the conversations and some images, which the log says."""
    source = latest(desk, "synth")
    of = known(model_dir, max_visual_tokens)
    general, drawn = rehearsal(rehearse)
    talks = [*conversations_of(desk, source, "plan"), *general]
    grids = _grids(desk, of, source, talks, drawn)
    lengths = _lengths(of, talks, grids)
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    recompute = recomputes(config.gradient_checkpointing, torch.device(device), of.parts.total)
    vision = config.lora.vision
    how = How(precision, device, config.lora.rank, config.optimizer, recompute, of.stored_in_bf16, vision)
    rows = [(t, n) for t, n, _ in lengths]
    stages = 2 if config.stages == "two" else 1
    kept = max(1, round(len(rows) * (1 - config.held_out)))
    steps = config.epochs * max(1, -(-kept // config.rows_per_step))
    patients = {name: desk.vault.catalogue.record(name).patient for name in {t.record for t in talks if t.record}}
    uses = {name: n for name, n in uses_in_run(talks, config, patients).items() if name not in drawn}
    work = _largest(of, rows, talks, grids, config, how)
    patches = sum(map(of.family.tower_patches, grids.values()))
    spent = flops(of.parts, of.shape, rows, patches, config.epochs, recompute, vision)
    compute = computed_in(precision, device, of.stored_in_bf16)
    speed = measured(of.shape, precision, torch.device(device), compute)
    passes = (3 if recompute else 2) * config.epochs * -(-kept // min(config.micro_rows, config.rows_per_step))
    ordered = sorted(t for t, _ in rows)
    return TrainingPlan(
        device=device,
        precision=precision,
        parameters=of.parts.total,
        images=len(grids),
        images_looked_at=min(len(grids), LOOKED_AT + len(drawn)),
        conversations=len(talks),
        rows=len(rows),
        tokens={
            "p50": ordered[len(ordered) // 2],
            "p95": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
            "longest": ordered[-1],
            "all": sum(ordered),
        },
        visual_tokens=sum(v for _, _, v in lengths),
        learned_tokens=sum(n for _, n in rows),
        steps=steps * stages,
        warmup_steps=stages * max(1, int(steps * config.warmup)),
        checkpoints=(steps * stages - 1) // config.checkpoint_every,
        memory=memory(of.parts, of.shape, work, how),
        available=available(device),
        cache=None if vision else cache_plan(of.family, of.shape.hidden, grids, uses, feature_cache_gb, how.compute),
        seconds=seconds_of(spent, speed, of.parts.in_linears, passes),
        recomputes=recompute,
        micro_rows=config.micro_rows,
    )


def asked(reasons: Sequence[str], yes: bool, command: str) -> None:
    """Refuse a run that needs a person's word and has none."""
    if reasons and not yes:
        raise Refused("; ".join(reasons), where="the plan", hint=f"{command}, with the same settings, to do it")


def _grids(desk: Desk, of: Known, source: Run, talks: Sequence[Conversation], drawn: dict[str, Any]) -> dict[str, Grid]:
    """What each image is cut into; beyond LOOKED_AT, the largest that was seen."""
    names = sorted({i for t in talks for i in t.images})
    stored = [name for name in names if name not in drawn]
    step = -(-len(stored) // LOOKED_AT) or 1
    some = stored[::step]
    found = {name: of.family.grid(of.family.fitted(drawn[name])) for name in names if name in drawn}
    if some:
        with desk.vault.use(some, RESEARCH, desk.actor, "plan", {"synth": source.id}) as opened:
            image = images_in(opened)
            found |= {name: of.family.grid(of.family.fitted(image(name))) for name in some}
        largest = max((found[name] for name in some), key=of.family.visual_tokens)
        found |= {name: largest for name in stored if name not in found}
    return {name: found[name] for name in names}


def _lengths(of: Known, talks: Sequence[Conversation], grids: dict[str, Grid]) -> list[tuple[int, int, int]]:
    """(tokens, learned tokens, visual tokens) of each row, as the run will lay it. Raises Refused for none."""
    encoder = Encoder(tokenizer_of(of.directory, of.family), of.family)
    rows = [row for row, _ in samples_of(encoder, talks, grids.__getitem__, of.config)]
    if not rows:
        raise Refused("no conversation has a learned turn", where="train", hint="cloche synth")
    return [(len(row.ids), int(row.learned.sum()), int(row.visual.sum())) for row in rows]


def _largest(
    of: Known,
    rows: list[tuple[int, int]],
    talks: Sequence[Conversation],
    grids: dict[str, Grid],
    config: SftConfig,
    how: How,
) -> Work:
    """The pass of the longest rows."""
    family, sizes = of.family, grids.values()
    most = min(config.micro_rows, config.rows_per_step, len(rows))
    longest = sorted(rows)[-most:]
    in_a_row = max(len(talk.images) for talk in talks)
    features = sum(family.feature_bytes(grid, of.shape.hidden, how.compute) for grid in sizes)
    return Work(
        rows=most,
        tokens=longest[-1][0],
        learned=min(sum(n for _, n in longest), tile_of(of.shape.vocabulary, config.head_tile)),
        patches=max(map(family.tower_patches, sizes), default=0),
        feature_bytes=0 if how.vision else min(CACHED, features),
        images=most * in_a_row,
        crossed=in_a_row * max((family.feature_bytes(grid, 1, 1) for grid in sizes), default=0),
    )


def available(device: str) -> int:
    """Bytes of memory that are free on a device; 0 where unknown."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


def gib(size: int) -> str:
    """Bytes for a person."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def in_time(seconds: float) -> str:
    """Seconds for a person, in days where there are many."""
    from appliance.progress import in_words

    days = seconds / 86400
    return f"{days:,.0f} days" if days > 3 else in_words(seconds)
