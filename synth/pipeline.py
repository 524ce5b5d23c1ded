"""Generate, then filter: pairs in, triplets with a verdict and a reason each out (METHODS 1.3-1.4).

Beyond the published code: several triplets an image; instructions borrowed from other images, so that "no" is asked
for as often as "yes"; a caption keeps its task whatever becomes of its triplets; every decision keeps its reason.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from synth.filters import balance, drop_repeats
from synth.judge import Judge, judge_all
from synth.synthesizer import Pair, answer, write
from synth.triplet import Triplet
from train.models.features import Features
from train.models.generation import Sampling
from train.models.loading import Loaded

_CLOSED = ("Is ", "Are ", "Can ", "Does ", "Do ", "Has ", "Was ")


@dataclass(frozen=True)
class SynthConfig:
    """How to synthesise."""

    samples: int = 2
    """Dialogues an image."""
    temperature: float = 0.8
    """Of the dialogues; 0 with one sample is the published greedy form."""
    max_new_tokens: int = 320
    """Tokens of a dialogue at most."""
    borrow: int = 3
    """Closed questions of other images asked of each image."""
    threshold: float = 0.0
    """Nats by which Yes must win."""
    chunk: int = 64
    """Images written before the work so far is handed over."""
    batch: int = 64
    """Rows decoded together."""
    seed: int = 0
    """Seed of sampling, borrowing and balancing."""


def write_chunk(
    loaded: Loaded,
    pairs: Sequence[Pair],
    features: Features,
    config: SynthConfig,
    number: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Triplet]:
    """The synthesizer's own triplets about one chunk of pairs; the same chunk gives the same triplets."""
    how = Sampling(
        config.max_new_tokens, config.temperature, config.samples, config.seed * 100_003 + number, batch=config.batch
    )
    return write(loaded, pairs, features, how, progress)


def borrowed_questions(
    pairs: Sequence[Pair], triplets: Sequence[Triplet], config: SynthConfig
) -> list[tuple[Pair, str]]:
    """Closed questions that were written for other images, drawn as often as they were written."""
    written = [t.instruction for t in triplets if t.kept and not t.borrowed and t.instruction.startswith(_CLOSED)]
    own: dict[str, set[str]] = {}
    for t in triplets:
        own.setdefault(t.record, set()).add(t.instruction)
    asked = []
    for pair in pairs:
        rng = Random(f"{config.seed} borrow {pair.record}")
        chosen: set[str] = set()
        for _ in range(20 * config.borrow):
            if (
                len(chosen) < config.borrow
                and written
                and (question := rng.choice(written)) not in own.get(pair.record, ())
            ):
                chosen.add(question)
        asked += [(pair, q) for q in sorted(chosen)]
    return asked


def finish(
    loaded: Loaded,
    judge: Judge,
    pairs: Sequence[Pair],
    written: Sequence[Triplet],
    features: Features,
    config: SynthConfig,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Triplet]:
    """Borrow, judge and filter what was written; nothing is lost, each dropped triplet says why."""
    asked = borrowed_questions(pairs, written, config)
    triplets = [*written, *answer(loaded, asked, features, progress=lambda d, n: progress(d, n, "borrowed questions"))]
    triplets = drop_repeats(triplets)
    triplets = judge_all(judge, triplets, config.threshold, lambda d, n: progress(d, n, "judging"))
    return balance(triplets, config.seed)


def reasons(triplets: Sequence[Triplet]) -> dict[str, int]:
    """How many were kept, and how many dropped for each reason."""
    return dict(Counter(t.reason or "kept" for t in triplets).most_common())
