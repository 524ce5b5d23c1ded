"""Generate, then filter: pairs in, triplets with a verdict and a reason each out (METHODS 1.3-1.4).

Beyond the published code: several triplets an image; instructions borrowed from other images, so that "no" is asked
for as often as "yes"; a caption keeps its task whatever becomes of its triplets; every decision keeps its reason.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from synth.filters import balance, drop_misspelt, drop_repeats, drop_unquoted, is_closed, is_quoted, known_words
from synth.judge import Judge, judge_all
from synth.synthesizer import Pair, answer, write
from synth.triplet import Triplet
from train.models.features import Features
from train.models.generation import Sampling
from train.models.loading import Loaded


@dataclass(frozen=True)
class SynthConfig:
    """How to synthesise."""

    samples: int = 1
    """Dialogues an image."""
    temperature: float = 0.8
    """Of the dialogues; 0 with one sample is the published greedy form."""
    min_p: float = 0.05
    """Tokens less than this times as likely as the likeliest are not drawn: one unlucky token misspells a name."""
    max_new_tokens: int = 320
    """Tokens of a dialogue at most."""
    borrow: int = 6
    """Questions of other images asked of each image: a quarter such as a caption answers word for word, else closed."""
    threshold: float = 0.0
    """Nats by which Yes must win."""
    known: float = 0.0
    """Drop triplets with words that neither a caption holds nor the triplets of this share of the images; 0 keeps them.
    For small synthesizers, which misspell: a model directory asks for it with ``known_words`` in its cloche.json."""
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
        config.max_new_tokens,
        config.temperature,
        config.samples,
        config.seed * 100_003 + number,
        batch=config.batch,
        min_p=config.min_p,
    )
    return write(loaded, pairs, features, how, progress)


def captions_of(pairs: Sequence[Pair]) -> dict[str, str]:
    """Captions by record."""
    return {pair.record: pair.caption for pair in pairs}


def borrowed_questions(
    pairs: Sequence[Pair], triplets: Sequence[Triplet], config: SynthConfig
) -> list[tuple[Pair, str]]:
    """Questions that were written for other images and can be asked of any; the more often written, the likelier."""
    captions = captions_of(pairs)
    own: dict[str, set[str]] = {}
    closed, quoted = list[str](), list[str]()
    for t in triplets:
        own.setdefault(t.record, set()).add(t.instruction)
        if t.kept and not t.borrowed:
            if is_closed(t.precise):
                closed.append(t.instruction)
            elif is_quoted(t.precise, captions[t.record]):
                quoted.append(t.instruction)
    asked = []
    for pair in pairs:
        rng = Random(f"{config.seed} borrow {pair.record}")
        chosen: set[str] = set()
        for pool, count in ((quoted, config.borrow // 4), (closed, config.borrow - config.borrow // 4)):
            others = sorted(set(rng.choices(pool, k=4 * count)) - own.get(pair.record, set())) if pool else []
            chosen.update(rng.sample(others, min(count, len(others))))
        asked += [(pair, question) for question in sorted(chosen)]
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
    words = known_words((p.caption for p in pairs), written, config.known) if config.known else None
    if words is not None:
        written = drop_misspelt(written, words)
    asked = borrowed_questions(pairs, written, config)
    said = answer(loaded, asked, features, progress=lambda d, n: progress(d, n, "borrowed questions"))
    said = drop_unquoted(said, captions_of(pairs))
    if words is not None:
        said = drop_misspelt(said, words)
    triplets = drop_repeats([*written, *said])
    triplets = judge_all(judge, triplets, config.threshold, lambda d, n: progress(d, n, "judging"))
    return balance(triplets, config.seed)


def reasons(triplets: Sequence[Triplet]) -> dict[str, int]:
    """How many were kept, and how many dropped for each reason."""
    return dict(Counter(t.reason or "kept" for t in triplets).most_common())
