"""An alignment before it is one: prompts, tokens, completions, memory, time; nothing of it is kept."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from appliance.jobs.align import AlignSettings, Material, material_of, rationales_shown
from appliance.jobs.common import RESEARCH, Desk, images_in
from appliance.jobs.plan import CACHED, LARGE, LONG_S, LOOKED_AT, available, gib, in_time
from audit.rows import Run
from train.calibrate import Speed, measured
from train.calibrate import seconds as seconds_of
from train.data.encode import Encoder
from train.estimate import Flops, How, Memory, Work, flops, memory
from train.lora import LoraConfig
from train.loss import tile_of
from train.models.about import Known, known
from train.models.devices import computed_in
from train.models.directory import tokenizer_of
from train.models.family import Grid
from train.recompute import recomputes
from train.rl.config import GrpoConfig
from train.rl.domain import Transform
from train.rl.grpo import check


@dataclass(frozen=True)
class AlignPlan:
    """What a run would do and need."""

    adapter: str
    """The adapter that it begins with."""
    trained: str
    """The run that made it."""
    device: str
    """``cpu`` or ``cuda``."""
    precision: str
    """How the language Linears would be held."""
    parameters: int
    """Of the model."""
    prompts: int
    """That may be asked."""
    held_out: int
    """Prompts about patients that training held out: only measured on."""
    images: int
    """Images of the prompts."""
    prompt_tokens: dict[str, int]
    """Tokens of a prompt, image included: p50 and longest."""
    steps: int
    """Rollouts, each with its updates."""
    completions: int
    """Completions at least; groups that teach nothing are drawn again."""
    completions_at_most: int
    """With every group drawn as often as may be."""
    rewards: tuple[str, ...]
    """What completions earn."""
    shown: float | None
    """Share of the prompts whose reason has a beginning that may be shown; None where nothing is."""
    forced: bool
    """Whether the domain's table is put on without asking what it preserves."""
    domain: dict[str, float]
    """Share of the prompts that each transform may be put on, as far as their own answers say."""
    memory: Memory
    """Estimated bytes of an update, by part."""
    cache_bytes: int
    """Keys and values of a rollout at its longest."""
    available: int
    """Bytes of memory that are free where it would run; 0 where unknown."""
    seconds: float
    """Estimated time, with completions of full length."""

    @property
    def peak(self) -> int:
        """Bytes at the widest moment, of rollout or update."""
        return max(self.memory.peak, self.memory.weights + self.memory.adapter + self.cache_bytes)

    @property
    def reasons(self) -> list[str]:
        """Why a person should think twice; empty where there is no reason."""
        found = []
        if self.device == "cpu" and (self.seconds > LONG_S or self.parameters > LARGE):
            size, time = f"{self.parameters / 1e9:.1f} billion parameters", in_time(self.seconds)
            found.append(f"there is no GPU, and {size} would take {time}")
        if self.available and self.peak > self.available:
            found.append(
                f"it needs about {gib(self.peak)} of memory and {gib(self.available)} are free: the run would likely "
                "be stopped by the system; fewer --prompts or --micro-groups need less"
            )
        if self.forced:
            found.append("the domain's table is forced: the model is a control, and cannot be exported")
        return found

    def data(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"memory": self.memory.rows(), "peak": self.peak, "reasons": self.reasons}

    def short(self) -> str:
        """One line for a person."""
        return (
            f"plan: {self.steps} steps, {self.completions:,} completions to {self.prompts:,} prompts, at most about "
            f"{in_time(self.seconds)} and {gib(self.peak)} on {self.device} (cloche align --dry-run says more)"
        )

    def table(self) -> str:
        """All of it for a person."""
        most = f" to {self.completions_at_most:,}" if self.completions_at_most > self.completions else ""
        rows = [
            ("begins with", f"{self.adapter} of {self.trained}"),
            ("prompts", f"{self.prompts:,} about {self.images:,} images"
                        + (f"; {self.held_out:,} held out to measure" if self.held_out else "")),
            ("tokens a prompt", ", ".join(f"{k} {v:,}" for k, v in self.prompt_tokens.items())),
            ("steps", f"{self.steps:,}"),
            ("completions", f"{self.completions:,}{most}"),
            ("rewards", ", ".join(self.rewards)),
            *([] if self.shown is None else [("prefixes", f"{self.shown:.0%} of the prompts have a part to show")]),
            *((f"domain, {name}", f"{share:.0%} of the prompts") for name, share in self.domain.items()),
            ("device", f"{self.device}, language Linears in {self.precision}"),
            ("memory, about",
             gib(self.peak) + (f" of {gib(self.available)} free" if self.available else "")),
            ("  update", gib(self.memory.peak)),
            ("  keys and values", gib(self.cache_bytes)),
            ("time, at most about", in_time(self.seconds)),
        ]  # fmt: skip
        return "\n".join(f"{name:24}{said}" for name, said in rows)


def align_plan(
    desk: Desk, model_dir: Path, config: GrpoConfig, asked: AlignSettings, resume: Run | None = None
) -> AlignPlan:
    """Plan a run on the newest synthesis and training. Opens the triplets and some images, which the log says."""
    material = material_of(desk, asked, "plan", resume)
    check(material.prompts, material.rewards, config)
    of = known(model_dir, material.max_visual_tokens)
    tokenizer = tokenizer_of(of.directory, of.family)
    encoder = Encoder(tokenizer, of.family)
    grids = _grids(desk, of, material)
    lengths = sorted(len(encoder.prompt(p.turns, (p.image,), [grids[p.image]]).ids) for p in material.prompts)
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    recompute = recomputes(config.gradient_checkpointing, torch.device(device), of.parts.total)
    lora = material.trained.config.get("lora", {})
    vision = bool(lora.get("vision", False))
    rank = int(lora.get("rank", LoraConfig().rank))
    how = How(material.precision, device, rank, "adamw", recompute, of.stored_in_bf16, vision)
    rows = min(config.micro_groups or config.prompts, config.prompts)
    longest = lengths[-1] + config.group * config.max_new_tokens
    learned = min(rows * config.group * config.max_new_tokens, tile_of(of.shape.vocabulary))
    sizes, family = grids.values(), of.family
    features = 0 if vision else min(CACHED, sum(family.feature_bytes(g, of.shape.hidden, how.compute) for g in sizes))
    largest = max(map(family.tower_patches, sizes), default=0)
    crossed = max((family.feature_bytes(g, 1, 1) for g in sizes), default=0)
    transforms = [Transform.of(rule, tokenizer) for rule in material.table.rules] if material.table else []
    completions = config.steps * config.prompts * config.group
    return AlignPlan(
        adapter=material.parents[0],
        trained=material.trained.id,
        device=device,
        precision=material.precision,
        parameters=of.parts.total,
        prompts=len(material.prompts),
        held_out=len(material.held_out) if asked.measure_every else 0,
        images=len({p.image for p in material.prompts}),
        prompt_tokens={"p50": lengths[len(lengths) // 2], "longest": lengths[-1]},
        steps=config.steps,
        completions=completions,
        completions_at_most=completions * (1 + config.resample),
        rewards=tuple(one.name for one in material.rewards),
        shown=rationales_shown(encoder, material.prompts, asked.curriculum) if asked.curriculum else None,
        forced=bool(material.table and material.table.forced),
        domain=_applies(material, transforms),
        memory=memory(of.parts, of.shape, Work(rows, longest, learned, largest, features, rows, crossed), how),
        cache_bytes=_cache_bytes(of, config, lengths[-1], how.compute),
        available=available(device),
        seconds=_seconds(of, config, lengths, how, bool(transforms)),
    )


def _grids(desk: Desk, of: Known, material: Material) -> dict[str, Grid]:
    """What each image is cut into; beyond LOOKED_AT, the largest that was seen."""
    names = sorted({p.image for p in material.prompts})
    some = names[:: -(-len(names) // LOOKED_AT) or 1]
    if not some:
        return {}
    with desk.vault.use(some, RESEARCH, desk.actor, "plan", {"synth": material.synth.id}) as opened:
        image = images_in(opened)
        found = {name: of.family.grid(of.family.fitted(image(name))) for name in some}
    largest = max(found.values(), key=of.family.visual_tokens)
    return {name: found.get(name, largest) for name in names}


def _applies(material: Material, transforms: list[Transform]) -> dict[str, float]:
    """Share of the prompts that a transform may be put on, by its name."""
    counted = Counter(t.name for p in material.prompts for t in transforms if t.applies(p.turns[-1].text, p.reference))
    return {t.name: counted[t.name] / max(1, len(material.prompts)) for t in transforms}


def _cache_bytes(of: Known, config: GrpoConfig, longest: int, compute: int) -> int:
    each = 2 * of.shape.layers * of.shape.kv_heads * of.shape.head_dim * compute
    return config.prompts * config.group * (longest + config.max_new_tokens) * each


def _seconds(of: Known, config: GrpoConfig, lengths: list[int], how: How, domain: bool) -> float:
    """Rollouts with completions of full length, and updates over them; the tower sees each image once or twice."""
    shape, parts = of.shape, of.parts
    prompts, branches = config.steps * config.prompts, config.group * config.max_new_tokens
    mean = sum(lengths) / len(lengths)
    tokens = round(mean + branches)
    update = flops(parts, shape, [(tokens, branches)] * prompts, 0, config.updates, how.checkpointing)
    read = config.updates * int(domain) + int(config.kl > 0)  # more forwards over the same rows
    forward = 2 * parts.in_linears * tokens * prompts
    sampled = Flops(
        linears=round(forward * (1 + read)),
        attention=round(4 * (mean + config.max_new_tokens) * branches * prompts * shape.heads * shape.head_dim)
        * shape.layers,
        head=2 * shape.hidden * shape.vocabulary * branches * prompts * (1 + read),
        vision=0,
    )
    passes = config.steps * (config.max_new_tokens + 1 + read + config.updates * (3 if how.checkpointing else 2))
    compute = computed_in(how.precision, how.device, how.stored_in_bf16)
    speed: Speed = measured(shape, how.precision, torch.device(how.device), compute)
    return seconds_of(update, speed, parts.in_linears, 0) + seconds_of(sampled, speed, parts.in_linears, passes)
