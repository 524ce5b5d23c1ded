"""The arms of the alignment experiment: what each does, and how large a run is."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from train.rl.curriculum import CurriculumConfig
from train.rl.grpo import GrpoConfig
from train.sft_config import SftConfig

Base = Literal["rare", "seldom"]
Start = Literal["base", "labels"]
Constraint = Literal["", "mirror", "wrong"]

WRONG = """# A control, never a release: it says that a mirrored slice has the same answer, which it has not.
title = "Mirror without its words"
asks = ["side"]
[[transform]]
kind = "mirror"
force = true
"""
"""The table of the transform that does not preserve labels."""


@dataclass(frozen=True)
class Sizes:
    """How large every run is; the same for all arms of a table."""

    name: str
    """Of the table: ``quick`` or ``full``."""
    seeds: int
    """Seeds of each arm."""
    patients: int
    """Simulated patients of the hospital."""
    labels: int
    """Labelled slices that an arm may learn from."""
    warm_epochs: int
    """Passes over the eight examples that make the base."""
    own: int
    """Times that its own answer stands beside the department's there."""
    hushed: int
    """Passes over its own answers alone, after that: they make the base that hardly ever says the department's."""
    steps: int
    """Rollouts of a run of reinforcement learning."""
    pre_alignment: int
    """Steps of the curriculum."""
    measure_every: int
    """Steps between measurements."""
    watched: int
    """Held-out slices that are asked while a run goes on."""
    judged: int
    """Held-out slices that are asked at its end."""
    general: int
    """Drawn questions of the general suite."""
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    """How a step of reinforcement learning goes; steps and seed are the run's."""
    sft: SftConfig = field(default_factory=SftConfig)
    """How the labels are learned, by the arms that only learn them."""
    start: SftConfig = field(default_factory=SftConfig)
    """How they are learned before reinforcement learning."""

    @property
    def digest(self) -> str:
        """Stands for all of these numbers: results of other sizes are other results."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Arm:
    """One way to learn the task."""

    name: str
    """Of its files."""
    title: str
    """In tables."""
    base: Base = "rare"
    """Which base: `seldom` answers in the department's form in one of some answers, `rare` in one of hundreds."""
    start: Start = "base"
    """``base``, or ``labels``: the labels are learned first."""
    learns: Literal["rewards", "labels"] = "rewards"
    """Reinforcement learning, or supervised learning alone."""
    tether: float = 0.0
    """Weight of KL to the base in supervised learning."""
    curriculum: CurriculumConfig | None = None
    """RCPA's; None is plain GRPO with the exact answer as its reward."""
    constraint: Constraint = ""
    """The transform of the domain constraint."""
    augmented: bool = False
    """Half of the prompts show a mirrored slice, with its own right answer."""
    knowledge: bool = False
    """The prompt says what the mirror knows."""


RCPA = CurriculumConfig(delta_min=0.6, delta_max=0.9, prefix_nll=0.1)
"""All parts. The threshold begins above what the base's habit earns (a side alone, 0.5) and ends above all but right
answers (one word of three wrong, 0.67). The prefix weighs more than METHODS 2.3's 1e-3, which is for hundreds of
steps."""


def _less(**parts: Any) -> CurriculumConfig:
    return replace(RCPA, **parts)


CURRICULUM = (
    Arm("grpo", "GRPO"),
    Arm(
        "grpo-dense",
        "GRPO, RCPA's dense reward",
        curriculum=_less(prefix=False, prefix_nll=0.0, difficulty=False, band=1.0),
    ),
    Arm("rcpa", "RCPA", curriculum=_less()),
    Arm("rcpa-no-prefix", "RCPA less prefixes", curriculum=_less(prefix=False, prefix_nll=0.0)),
    Arm("rcpa-no-threshold", "RCPA less the threshold", curriculum=_less(threshold="off")),
    Arm("rcpa-no-difficulty", "RCPA less difficulty weights", curriculum=_less(difficulty=False, band=1.0)),
    Arm("rcpa-no-nll", "RCPA less NLL on prefixes", curriculum=_less(prefix_nll=0.0)),
    Arm("sft", "SFT", learns="labels"),
    Arm("sft-kl", "SFT + KL", learns="labels", tether=0.3),
    Arm("sft-grpo", "SFT, then GRPO", start="labels"),
)
"""Does GRPO starve where RCPA does not?"""
SELDOM = tuple(
    replace(arm, name=f"seldom-{arm.name}", base="seldom")
    for arm in CURRICULUM
    if arm.name in ("grpo", "grpo-dense", "rcpa")
)
"""The same from a base that is right now and then."""
DOMAIN = (
    Arm("sft-grpo", "plain GRPO", start="labels"),
    Arm("augmented", "augmentation", start="labels", augmented=True),
    Arm("knowledge", "knowledge in the prompt", start="labels", knowledge=True),
    Arm("mirror", "domain constraint", start="labels", constraint="mirror"),
    Arm("wrong", "control: a transform that changes labels", start="labels", constraint="wrong"),
)
"""Does knowledge in the objective help where knowledge in the data or in the prompt does not? All begin with SFT."""
ARMS = (*CURRICULUM, *DOMAIN[1:], *SELDOM)
"""Every arm once."""
_GRPO = GrpoConfig(
    prompts=6, group=8, max_new_tokens=28, learning_rate=3e-4, resample=1, checkpoint_every=1000, micro_groups=6
)
QUICK = Sizes(
    "quick", seeds=1, patients=144, labels=32, warm_epochs=24, own=4, hushed=2, steps=40, pre_alignment=26,
    measure_every=8, watched=48, judged=150, general=40, grpo=_GRPO,
    sft=SftConfig(6, 4, 4, learning_rate=1e-3), start=SftConfig(2, 4, 4, learning_rate=1e-3),
)  # fmt: skip
"""An hour on two cores a seed."""
FULL = replace(
    QUICK, name="full", seeds=5, steps=120, pre_alignment=80, measure_every=10, watched=96, general=100,
    grpo=replace(_GRPO, prompts=8),
)  # fmt: skip
"""Eight hours on two cores."""
