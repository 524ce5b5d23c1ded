"""What the starter must know, on pictures and names that it never saw: the floors of its model card."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from appliance.starter.descriptions import picture
from appliance.starter.language import Fact, judged
from appliance.starter.names import name
from appliance.starter.pictures import Scene, draw
from appliance.starter.reports import WIDE, report
from audit.conversation import Turn
from synth.judge import FORM
from synth.triplet import DESCRIBE, PRECISE
from train.models.features import Features
from train.models.generation import Sampling, generate, text_of
from train.models.loading import Loaded

FLOORS = {"drawn_vqa": 0.80, "names_copied": 0.90, "judge": 0.85}
"""Least accepted score of each exam."""
HELD_OUT = 10_000_019
"""Seed of the exams; training seeds are small."""


@dataclass(frozen=True)
class Drawn:
    """A drawn picture with a question: an item of the general suite."""

    id: str
    """Name of the picture."""
    image: Image.Image
    """The picture."""
    fact: Fact
    """The question and its right answer."""


def general_suite(count: int, seed: int = HELD_OUT) -> list[Drawn]:
    """``count`` questions about held-out drawn pictures, two a picture."""
    rng, items = random.Random(seed), list[Drawn]()
    while len(items) < count:
        drawing = draw(rng)
        facts = rng.sample(picture(drawing.scene, rng).facts, 2)
        items += [Drawn(f"drawn {len(items) // 2}", drawing.image, f) for f in facts]
    return items[:count]


def exam_scores(loaded: Loaded, count: int = 600) -> dict[str, float]:
    """Scores in [0, 1] of drawn_vqa, names_copied and judge, greedy, ``count`` items each."""
    items = general_suite(count)
    images = {i.id: i.image for i in items}
    features = Features(loaded, images.__getitem__)

    def answers(talks: Sequence[tuple[list[Turn], tuple[str, ...]]], tokens: int) -> list[str]:
        prompts = [loaded.encoder.prompt(turns, ids, [features.grid(i) for i in ids]) for turns, ids in talks]
        return [text_of(loaded, c[0]) for c in generate(loaded, prompts, features, Sampling(tokens))]

    drawn = answers([([Turn("user", f"{PRECISE}\n{i.fact.question}")], (i.id,)) for i in items], 16)
    rng = random.Random(HELD_OUT + 1)
    others = [name(rng, WIDE.word) for _ in range(500)]
    copying, wanted = [], []
    judging, labels = [], []
    scenes: list[Scene] = [draw(rng).scene for _ in range(100)]
    for k in range(count):
        story = report(rng, others, WIDE)
        fact = rng.choice([f for f in story.facts if f.precise not in ("Yes", "No", "left", "right") and not f.open])
        copying.append(
            (
                [
                    Turn("user", DESCRIBE),
                    Turn("assistant", story.caption),
                    Turn("user", f"{PRECISE}\n{fact.question}"),
                ],
                (items[k].id,),
            )
        )
        wanted.append(fact.precise)
        story = report(rng, others, WIDE) if rng.random() < 0.7 else picture(rng.choice(scenes), rng)
        question, informative, precise, label = judged(rng.choice(story.facts), story, rng, others)
        judging.append(([Turn("user", FORM.format(question, informative, precise))], ()))
        labels.append(label)
    copied, verdicts = answers(copying, 32), answers(judging, 4)
    return {
        "drawn_vqa": _share(drawn, [i.fact.precise for i in items]),
        "names_copied": _share(copied, wanted),
        "judge": _share(verdicts, labels),
    }


def _share(said: Sequence[str], right: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(said, right, strict=True)) / len(right)
