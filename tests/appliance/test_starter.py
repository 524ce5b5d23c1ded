"""The starter in the repository: what its card says is so, and llama.cpp cuts words as transformers does."""

import json
import math
import random
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from appliance.starter.descriptions import picture
from appliance.starter.exams import FLOORS, HELD_OUT, exam_scores
from appliance.starter.names import any_word, name
from appliance.starter.pictures import random_scene
from appliance.starter.reports import WIDE, report
from appliance.starter.where import STARTER
from train.gguf.convert import convert
from train.gguf.engine import Engine
from train.models.loading import load


def test_the_card_says_what_was_measured_and_the_floors_hold() -> None:
    known = json.loads((STARTER / "scores.json").read_text())
    card = (STARTER / "MODEL_CARD.md").read_text()
    assert known["floors"] == FLOORS
    for exam, floor in FLOORS.items():
        assert known["scores"][exam] >= floor
        assert f"| {exam} | {known['scores'][exam]:.1%} |" in card


def test_it_is_small_and_holds_no_pickle() -> None:
    files = [p for p in STARTER.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 25_000_000
    assert not [p for p in files if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    with safe_open(STARTER / "model.safetensors", "np") as weights:
        shapes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118
    assert sum(map(math.prod, shapes)) <= 12_000_000


@pytest.mark.slow
def test_a_short_sitting_of_the_exams_agrees_with_the_card() -> None:
    known = json.loads((STARTER / "scores.json").read_text())["scores"]
    found = exam_scores(load(STARTER, "fp32", "cpu"), 60)
    for exam, score in known.items():
        assert abs(found[exam] - score) < 0.13, exam  # 3 standard errors of 60 answers at 90 %


def strings(count: int) -> list[str]:
    """Different texts of the starter's own kind, invented names, and arbitrary Unicode."""
    rng = random.Random(HELD_OUT)
    others = [name(rng, any_word) for _ in range(50)]
    found = dict[str, None]()
    while len(found) < count // 2:
        story = report(rng, others, WIDE) if rng.random() < 0.5 else picture(random_scene(rng), rng)
        told = (story.caption, story.facts[0].question, f" {name(rng, any_word)}", name(rng, any_word).title())
        found |= dict.fromkeys(told)
    letters = [
        *" \n\t.,:;!?'\"-()/0123456789abcXYZäöüßéñçøÅÆ€µ½²漢字かなنمж",
        "'s",
        "  ",
        "\r\n",
        "e\u0301",
        "\U0001f9e0",
    ]
    while len(found) < count:
        found["".join(rng.choices(letters, k=rng.randint(1, 40)))] = None
    return list(found)


def test_a_thousand_strings_tokenise_alike(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(STARTER)
    texts = strings(1000)
    with Engine(convert(STARTER, tmp_path).text) as engine:
        differing = [t for t in texts if engine.tokenize(t) != tokenizer.encode(t, add_special_tokens=False)]
    assert not differing, differing[:3]
