"""The whole recipe of the starter: vocabulary, tower, speech, exams, model card. Cut off anywhere, it goes on.

    python -m appliance.starter.recipe --work build/starter

About three hours on two cores of 2026, bfloat16 where the CPU has it.
"""

import json
from pathlib import Path

import click

from appliance.starter.assemble import assemble, write_card
from appliance.starter.exams import FLOORS, exam_scores
from appliance.starter.speech import STEPS, train_speech
from appliance.starter.tower import train_tower
from appliance.starter.vocabulary import build
from appliance.starter.where import STARTER
from audit.errors import GateFailed
from train.models.loading import load

TOWER_STEPS = 900


@click.command()
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("build/starter"),
    show_default=True,
    help="Checkpoints and logs.",
)
@click.option("--out", type=click.Path(path_type=Path), default=STARTER, show_default=True, help="The model directory.")
@click.option("--tower-steps", default=TOWER_STEPS, show_default=True)
@click.option("--speech-steps", type=click.IntRange(1, STEPS), default=STEPS, show_default=True)
@click.option("--items", default=600, show_default=True, help="Questions an exam.")
def recipe(work: Path, out: Path, tower_steps: int, speech_steps: int, items: int) -> None:
    """Train the starter and write its model directory; refuses to write a card for one that fails an exam."""
    words = work / "words"
    if not (words / "tokenizer.json").exists():
        build(words)
    train_tower(work, tower_steps)
    train_speech(work, words, speech_steps)
    assemble(work, words, out)
    loaded = load(out, "fp32", "cpu")
    scores = exam_scores(loaded, items)
    tokens = sum(json.loads(line)["tokens"] for line in (work / "speech.jsonl").read_text().splitlines()) * 20 / 1e6
    parameters = sum(p.numel() for p in loaded.model.parameters()) / 1e6
    write_card(
        out,
        scores,
        FLOORS,
        {"steps": speech_steps, "tower": tower_steps, "tokens": tokens, "parameters": parameters, "items": items},
    )
    for name, score in scores.items():
        click.echo(f"{name:14} {score:.1%}  floor {FLOORS[name]:.0%}")
    failed = [name for name, floor in FLOORS.items() if scores[name] < floor]
    if failed:
        raise GateFailed(
            f"the starter misses the floor of {failed[0]}: {scores[failed[0]]:.1%}",
            where=str(out),
            hint="train longer: LEGS in appliance/starter/speech.py",
        )


if __name__ == "__main__":
    recipe()
