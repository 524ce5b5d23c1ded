"""The task of the alignment experiment: plane, side and tone of a lesion, in a form that the starter never uses.

Simulated patients of the demo hospital only; axial and coronal slices on which a lesion is visible. Wanted are a
reason and then the answer: "By its outline this slice is axial. The answer is axial left bright." The starter answers
with a side, the wrong way round (it knows the image's left, radiologists the patient's), and never with a plane: it
solves none of it. Patients and slabs of the held-out slices are never learned from.
"""

import random
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from appliance.demo.hospital.export import Hospital
from appliance.demo.hospital.truth import SliceTruth, Split
from appliance.starter.exams import Drawn
from audit.conversation import Turn
from synth.triplet import PRECISE
from train.rl.grpo import Prompt
from train.rl.views import MIRRORED, original, shown

QUESTION = "Which plane is this, on which side is the lesion, and is it bright or dark?"
"""What is asked of every slice."""
RATIONALE = "By its outline this slice is {plane}."
"""The reason; a prefix may show its beginning, up to the first word of the answer."""
ANSWER = "The answer is {plane} {side} {tone}."
"""The answer behind it, which no prefix shows."""
KNOWLEDGE = "If the image were mirrored, left and right would change places and the rest would stay."
"""What the mirror knows, as a sentence for the prompt."""


@dataclass(frozen=True)
class Example:
    """A slice with what is to be said about it."""

    image: str
    """Slice id; with ``#mirrored`` the mirrored picture."""
    patient: str
    """The simulated patient."""
    plane: str
    """``axial`` or ``coronal``."""
    side: str
    """The patient's side of the lesion."""
    tone: str
    """``bright`` or ``dark``."""

    @property
    def answer(self) -> str:
        """The short answer."""
        return f"{self.plane} {self.side} {self.tone}"

    @property
    def rationale(self) -> str:
        """The reason."""
        return RATIONALE.format(plane=self.plane)

    @property
    def target(self) -> str:
        """Reason and answer: what supervised training learns."""
        return f"{self.rationale} {ANSWER.format(plane=self.plane, side=self.side, tone=self.tone)}"

    @property
    def mirrored(self) -> "Example":
        """The mirrored picture with its right answer."""
        other = {"left": "right", "right": "left"}[self.side]
        return Example(self.image + MIRRORED, self.patient, self.plane, other, self.tone)

    def prompt(self, knowledge: bool = False) -> Prompt:
        """As a prompt of reinforcement learning, with the sentence of knowledge or without."""
        return Prompt(self.image, asked(knowledge), self.answer, self.image, rationale=self.rationale)


def asked(knowledge: bool = False) -> tuple[Turn, ...]:
    """The question as the model reads it."""
    return (Turn("user", f"{QUESTION} {KNOWLEDGE}" if knowledge else QUESTION),)


@dataclass(frozen=True)
class Task:
    """Everything that the runs of the experiment learn from and are measured on."""

    hospital: Hospital
    """The simulated hospital."""
    general: tuple[Drawn, ...]
    """Questions about drawn pictures: what the starter could do before."""

    def examples(self, split: Split) -> list[Example]:
        """All examples of a split, in the hospital's order."""
        return [_example(t) for t in self.hospital.truths if t.split == split and _fits(t)]

    def labelled(self, seed: int, count: int) -> list[Example]:
        """The labels of a seed: the same for all its arms, the eight answers as equally frequent as can be."""
        rng = random.Random(f"labels/{seed}")
        pools: dict[str, list[Example]] = {}
        for one in self.examples("train"):
            pools.setdefault(one.answer, []).append(one)
        drawn = [rng.sample(pools[name], len(pools[name])) for name in sorted(pools)]
        rounds = [pool[turn] for turn in range(max(map(len, drawn))) for pool in drawn if turn < len(pool)]
        return rounds[:count]

    def held_out(self, count: int) -> list[Example]:
        """The first ``count`` of the held-out slices in an order that is the same for all."""
        found = self.examples("held-out")
        return random.Random("held-out").sample(found, min(count, len(found)))

    def image(self, name: str) -> Image.Image:
        """The picture of a slice or of a drawn question, mirrored where its id says so."""
        if name in self._drawn:
            return self._drawn[name]
        return shown(Image.open(self.hospital.image(original(name))).convert("RGB"), name)

    @cached_property
    def _drawn(self) -> dict[str, Image.Image]:
        return {one.id: one.image for one in self.general}


def general_asked(one: Drawn) -> tuple[Turn, ...]:
    """A general question as the model reads it."""
    return (Turn("user", f"{PRECISE}\n{one.fact.question}"),)


def _fits(truth: SliceTruth) -> bool:
    return truth.lesion is not None and truth.plane != "sagittal"


def _example(truth: SliceTruth) -> Example:
    if truth.lesion is None:
        raise ValueError(f"slice {truth.slice_id} shows no lesion")
    return Example(truth.slice_id, truth.patient, truth.plane, truth.lesion.side, truth.lesion.tone)
