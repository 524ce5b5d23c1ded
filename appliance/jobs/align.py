"""The stage of GRPO on top of a trained adapter: prompts from the kept triplets, rewards, curriculum, domain, watch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from appliance.jobs.common import (
    RESEARCH,
    Desk,
    VaultStore,
    as_config,
    begin,
    earlier,
    images_in,
    latest,
    members_of,
    root_of,
)
from appliance.jobs.completions import Completions
from appliance.jobs.defaults import FEATURE_CACHE_GB
from appliance.jobs.features import FeatureCache, uses_in_alignment
from appliance.jobs.learn import Kept, keep, loaded_as, loaded_so, patients_of, records_in, told
from appliance.jobs.live import Lines
from appliance.jobs.saved import same_data, same_run
from appliance.jobs.steps import StepEvents
from appliance.jobs.synthesise import conversations_of, triplets_of
from audit.conversation import Turn
from audit.errors import BadInput
from audit.rows import Run
from synth.triplet import PRECISE, Triplet
from train.data.mix import divided
from train.gguf.files import digest_of
from train.lora import LoraConfig
from train.models.features import Features, features_key
from train.models.generation import Sampling, generate, text_of
from train.models.loading import Loaded, Precision, load
from train.rl.collapse import Watch
from train.rl.config import GrpoConfig
from train.rl.curriculum import Curriculum, CurriculumConfig
from train.rl.domain import Domain
from train.rl.grpo import check, run_grpo
from train.rl.prefix import shown
from train.rl.rewards import Case, Reward, combined
from train.rl.rewards.exact import Exact
from train.rl.rollout import Group, Prompt, asked_of
from train.rl.table import Table, table_of

Form = Literal["short", "reasoned"]
"""What is asked for: the short answer alone, or the reason and then the answer."""
MEASURED_ON = 64
"""Held-out prompts that are answered at a measurement, at most."""


@dataclass(frozen=True)
class AlignSettings:
    """What surrounds the loop."""

    rewards: tuple[str, ...] = ("exact",)
    """As `train.rl.rewards.named` knows them; the first is the similarity that a curriculum goes by."""
    form: Form = "short"
    """What is asked for."""
    curriculum: CurriculumConfig | None = None
    """RCPA; None is plain GRPO."""
    domain: str = ""
    """A built-in table's name or a table's file; empty leaves the constraint out."""
    patience: int = 10
    """Steps on end with a sign of collapse after which the run stops; 0 goes on to the end."""
    measure_every: int = 10
    """Steps between measurements on what training held out; 0 leaves them out."""
    precision: Precision | None = None
    """How the language Linears are held; None as the training held them."""

    def __post_init__(self) -> None:
        """Raises: BadInput naming the flag that is out of bounds."""
        for flag, value in (("collapse-after", self.patience), ("measure-every", self.measure_every)):
            if value < 0:
                raise BadInput(f"--{flag} must be 0 or more", where="alignment settings", hint="cloche align --help")


@dataclass(frozen=True)
class Material:
    """What a run aligns on."""

    synth: Run
    """The run that wrote the triplets."""
    trained: Run
    """The run whose adapter it begins with."""
    prompts: tuple[Prompt, ...]
    """What is asked and learned from."""
    held_out: tuple[Prompt, ...]
    """About patients that training held out: asked to measure, never learned from."""
    rewards: tuple[Reward, ...]
    """What completions earn."""
    table: Table | None
    """The domain's."""
    precision: Precision
    """How the language Linears are to be held."""
    max_visual_tokens: int | None
    """Budget an image, the training's."""

    @property
    def parents(self) -> list[str]:
        """Ids of the objects that an aligned adapter comes from, images left out."""
        return [str(self.trained.result["adapter"]), str(self.synth.result["triplets"])]


def material_of(desk: Desk, asked: AlignSettings, activity: str = "align", resume: Run | None = None) -> Material:
    """Everything that a run is made of, checked before anything costly begins.

    Args:
        resume: the run to go on with: its tasks and adapter are taken, newer ones or not.
    Raises: BadInput: there is no synthesis or training yet; a reward, rules file or table that will not do.
    """
    rewards, table = combined(asked.rewards), table_of(asked.domain) if asked.domain else None
    synth = desk.vault.catalogue.run(str(resume.config["synth"])) if resume else latest(desk, "synth")
    trained = _run_of(desk, str(resume.config["adapter"])) if resume else latest(desk, "train")
    kept = [t for t in triplets_of(desk, synth, activity) if t.kept]
    held, patients = _held_out(desk, trained, activity), patients_of(desk, (t.record for t in kept))
    parts: dict[bool, list[Prompt]] = {False: [], True: []}
    for triplet in kept:
        parts[patients[triplet.record] in held].append(prompt_of(triplet, asked.form))
    precision, budget = loaded_so(trained)
    return Material(
        synth,
        trained,
        tuple(parts[False]),
        tuple(parts[True]),
        rewards,
        table,
        asked.precision or precision,
        budget,
    )


def prompt_of(triplet: Triplet, form: Form) -> Prompt:
    """A kept triplet as a prompt, asked as training asked it."""
    asked = triplet.instruction if form == "reasoned" else f"{PRECISE}\n{triplet.instruction}"
    rationale = triplet.informative if form == "reasoned" else ""
    return Prompt(triplet.image, (Turn("user", asked),), triplet.precise, triplet.record, rationale)


def rationales_shown(encoder: Any, prompts: Sequence[Prompt], curriculum: CurriculumConfig) -> float:
    """Share of the prompts whose reason has a beginning that a prefix may show."""
    share = curriculum.prefix_max if curriculum.prefix else 0.0
    return sum(bool(shown(encoder, p.rationale, p.reference, share)) for p in prompts) / max(1, len(prompts))


def settings_for(material: Material, model_dir: Path, config: GrpoConfig, asked: AlignSettings) -> dict[str, Any]:
    """What the catalogue keeps of a run's settings; files that it rests on are named by digest."""
    more: dict[str, Any] = {
        "adapter": str(material.trained.result["adapter"]),
        "synth": material.synth.id,
        "base": digest_of(model_dir),
        "rewards": list(asked.rewards),
        "rules": {one.name: one.rests_on() for one in material.rewards if one.rests_on()},
        "form": asked.form,
        "curriculum": asdict(asked.curriculum) if asked.curriculum else None,
        "domain": asked.domain,
        "domain_digest": sha256(material.table.text.encode()).hexdigest() if material.table else "",
        "patience": asked.patience,
        "measure_every": asked.measure_every,
    }
    return as_config(config, **more, **loaded_as(material.precision, material.max_visual_tokens))


def align(
    desk: Desk,
    model_dir: Path,
    config: GrpoConfig,
    asked: AlignSettings | None = None,
    feature_cache_gb: float = FEATURE_CACHE_GB,
    resume: Run | None = None,
) -> Run:
    """Align the newest trained adapter; goes on from its checkpoint where it was cut off.

    Args:
        asked: what surrounds the loop; None takes the defaults.
        feature_cache_gb: disk for the tower's outputs, in GB; the adapter is the same with any. An adapter that
            changes the tower leaves the cache out.
        resume: the run to go on with and no other.
    Raises:
        Refused: the settings or data would make another run than the one to go on with.
    """
    asked = asked or AlignSettings()
    material = material_of(desk, asked, resume=resume)
    check(material.prompts, material.rewards, config)
    settings = settings_for(material, model_dir, config, asked)
    before = earlier(desk, "align", settings)
    same_run(resume, settings, "cloche align")
    if before and before.state == "done":
        VaultStore(desk, before).clear()
        return before
    every = (*material.prompts, *(material.held_out if asked.measure_every else ()))
    images = sorted({p.image for p in every})
    members = [*material.parents, *images, *members_of(records_in(desk, (p.record for p in every)))]
    root = root_of(desk, members)
    same_data(resume, root, "cloche align")
    run = begin(desk, "align", settings, config.seed, root, material.parents)
    base, budget = str(settings["base"]), material.max_visual_tokens
    loaded = load(model_dir, material.precision, max_visual_tokens=budget, digest=base)
    domain = Domain.of(material.table, loaded.tokenizer) if material.table else None
    steps, lines = StepEvents(desk, run, members, resumed=before == run), Lines(desk.tell, config.steps)
    completions = Completions(desk, run, [*material.parents, *sorted({p.image for p in material.prompts})])

    def durable() -> None:
        steps.flush()
        completions.flush()

    def taken(step: int, groups: Sequence[Group]) -> None:
        steps.used(step, [g.prompt.record for g in groups])
        completions.add(step, groups)

    store = VaultStore(desk, run, durable)
    uses = uses_in_alignment(material.prompts, config, domain.suffixes if domain else ())
    cached = FeatureCache(desk, run, features_key(loaded), uses, feature_cache_gb)
    with desk.vault.use([*material.parents, *images], RESEARCH, desk.actor, "align", told(run)) as opened, cached:
        adapter = opened.read(material.parents[0])
        own_tower = LoraConfig.of(adapter).vision
        features = Features(loaded, images_in(opened), store=None if own_tower else cached)
        features = features.live() if own_tower else features
        aligned = run_grpo(
            loaded,
            adapter,
            material.prompts,
            features,
            config,
            material.rewards,
            store,
            domain.transforms if domain else (),
            desk.progress,
            taken,
            Curriculum(asked.curriculum, config.group) if asked.curriculum else None,
            Watch(asked.patience),
            measuring(loaded, features, material.held_out, asked.measure_every, config),
            desk.tell,
            lines.row,
        )
        durable()
    control = "its domain table was forced" if material.table and material.table.forced else ""
    kept = Kept(base, str(material.trained.result["model"]), material.precision, budget, control)
    found = aligned.diagnosis
    more = {"stopped": {"kind": found.kind, "words": str(found)}} if found else {}
    return keep(desk, run, store, aligned, kept, [*material.parents, *images], more)


def measuring(
    loaded: Loaded, features: Features, prompts: Sequence[Prompt], every: int, config: GrpoConfig
) -> Callable[[int, Any], Mapping[str, float]]:
    """What a step's metrics say of held-out prompts: ``held_exact``, the share whose greedy answer is right."""
    some = prompts[:: -(-len(prompts) // MEASURED_ON) or 1]

    def measured(step: int, model: Any) -> Mapping[str, float]:
        if not some or not every or (step % every and step >= 0 and step + 1 < config.steps):
            return {}
        encoded = [asked_of(loaded, features, p, ()) for p in some]
        answers = generate(loaded, encoded, features, Sampling(config.max_new_tokens, batch=16), model)
        exact = Exact()
        cases = [
            Case(p.turns[-1].text, p.reference, text_of(loaded, said[0])) for p, said in zip(some, answers, strict=True)
        ]
        return {"held_exact": sum(exact(case) or 0.0 for case in cases) / len(cases)}

    return measured


def _held_out(desk: Desk, trained: Run, activity: str) -> frozenset[str]:
    """Patients that training held out, found as training found them."""
    share = float(trained.config.get("held_out", 0.0))
    if not share:
        return frozenset()
    talks = conversations_of(desk, desk.vault.catalogue.run(str(trained.config["synth"])), activity)
    patients = patients_of(desk, (t.record for t in talks))
    return frozenset(patients[t.record] for t in divided(talks, share, int(trained.config["seed"]), patients)[1])


def _run_of(desk: Desk, adapter: str) -> Run:
    return desk.vault.catalogue.run(str(desk.vault.catalogue.object(adapter).note["run"]))
