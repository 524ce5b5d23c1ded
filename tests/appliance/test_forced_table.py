"""A transform that does not preserve labels: the gate refuses it, and where it is forced, it hurts.

On slices of the demo hospital the starter tells left from right in the sense that it answers the mirrored slice with
the other side. All completions earn the same here, so that nothing but the constraint is learned.
"""

from pathlib import Path

import pytest
from PIL import Image

from appliance.demo.hospital.export import build
from appliance.results.arms import WRONG
from appliance.starter.where import STARTER
from audit.conversation import Turn
from audit.errors import BadInput
from synth.triplet import PRECISE
from tests.train.rl.parts import By
from train.checkpoints import MemoryStore
from train.lora import LoraConfig, attach, detach, pack
from train.models.features import Features
from train.models.generation import Sampling, generate, text_of
from train.models.loading import Loaded, load
from train.rl.config import GrpoConfig
from train.rl.domain import Domain
from train.rl.grpo import run_grpo
from train.rl.rollout import Prompt, asked_of
from train.rl.table import Table, parse, table_of
from train.rl.views import MIRRORED, original, shown

ASKED = (Turn("user", f"{PRECISE}\nOn which side is the lesion: left or right?"),)
OTHER = {"left": "right", "right": "left"}
CONFIG = GrpoConfig(steps=7, prompts=8, group=2, max_new_tokens=6, resample=0, learning_rate=1e-3, shaping=False)


def told_apart(loaded: Loaded, features: Features, prompts: list[Prompt], model: object) -> float:
    """Share of the slices whose mirror image is answered with the other side."""
    answers = []
    for suffix in ("", MIRRORED):
        asked = [asked_of(loaded, features, p, (), suffix) for p in prompts]
        found = generate(loaded, asked, features, Sampling(6), model)
        answers.append([text_of(loaded, said[0]).strip() for said in found])
    return sum(OTHER.get(here) == there for here, there in zip(*answers, strict=True)) / len(prompts)


@pytest.mark.slow
def test_a_forced_transform_that_changes_labels_hurts(tmp_path: Path) -> None:
    hospital = build(tmp_path / "hospital", patients=8, fast=True)
    truths = [t for t in hospital.truths if t.lesion and t.plane != "sagittal"]
    prompts = [Prompt(t.slice_id, ASKED, "", t.slice_id) for t in truths]
    loaded = load(STARTER, "fp32", "cpu")
    features = Features(loaded, lambda n: shown(Image.open(hospital.image(original(n))).convert("RGB"), n))
    model = attach(loaded, LoraConfig(8, 16))
    adapter, before = pack(model, LoraConfig(8, 16), loaded.digest), told_apart(loaded, features, prompts, model)
    detach(model)

    def after(table: Table) -> float:
        domain = Domain.of(table, loaded.tokenizer).transforms
        seen: list[float] = []

        def measure(step: int, policy: object) -> dict[str, float]:
            if step == CONFIG.steps - 1:
                seen.append(told_apart(loaded, features, prompts, policy))
            return {}

        same = By(lambda case: 1.0, "same")
        run_grpo(loaded, adapter, prompts, features, CONFIG, [same], MemoryStore(), domain, measure=measure)
        return seen[0]

    assert len(prompts) > 12 and before > 0.6
    assert after(table_of("brain-mri")) >= before - 0.1
    assert after(parse(WRONG.encode(), "wrong.toml")) < before - 0.3


def test_the_gate_refuses_it_where_it_is_not_forced() -> None:
    with pytest.raises(BadInput, match="does not say what"):
        parse(WRONG.replace("force = true", "").encode(), "wrong.toml")
