"""Questions about one image and its caption, answered together, beside transformers' generate one by one.

python tests/benchmarks/bench_synthesis.py       24 images with 8 questions under both hints

Both sides share one process and one copy of the starter, greedy; the peer computes the tower for each prompt.
"""

import random
import time

from peer import reference

from appliance.starter.names import any_word, name
from appliance.starter.pictures import draw
from appliance.starter.reports import WIDE, report
from appliance.starter.where import STARTER
from audit.conversation import Turn
from synth.synthesizer import Pair
from synth.triplet import INFORMATIVE, PRECISE
from train.models.features import Features
from train.models.generation import Sampling, generate
from train.models.loading import load

IMAGES, QUESTIONS, TOKENS, BAR = 24, 8, 48, 5.0
"""Images, questions each, tokens of an answer at most, and DESIGN's bar: five times as fast with the same text."""


def main() -> None:
    """Answer everything both ways and print the ratio."""
    rng = random.Random(0)
    others = [name(rng, any_word) for _ in range(100)]
    loaded = load(STARTER, "fp32", "cpu")
    images = {f"image {k}": draw(rng).image for k in range(IMAGES)}
    features = Features(loaded, images.__getitem__)
    prompts = []
    for image in images:
        story = report(rng, others, WIDE)
        pair = Pair(image, image, story.caption)
        asked = rng.choices(story.facts, k=QUESTIONS)
        prompts += [
            loaded.encoder.prompt([*pair.turns, Turn("user", f"{hint}\n{fact.question}")], (image,), [(8, 8)])
            for fact in asked
            for hint in (PRECISE, INFORMATIVE)
        ]
    began = time.perf_counter()
    ours = [c[0].ids for c in generate(loaded, prompts, features, Sampling(TOKENS))]
    middle = time.perf_counter()
    theirs = [tuple(reference(loaded, features, prompt, TOKENS)) for prompt in prompts]
    end = time.perf_counter()
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"{len(prompts)} answers: together {middle - began:.1f} s, one by one {end - middle:.1f} s, same text {same}")
    ratio = (end - middle) / (middle - began)
    print(f"ratio {ratio:.1f}, bar {BAR}: {'holds' if ratio >= BAR and same == len(prompts) else 'MISSED'}")


if __name__ == "__main__":
    main()
