"""The synthesizer: continues image and caption with questions and answers (METHODS 1.3)."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audit.conversation import Turn
from synth.triplet import DESCRIBE, INFORMATIVE, PRECISE, Markup, Triplet, parse
from train.models.features import Features
from train.models.generation import Sampling, generate, text_of
from train.models.loading import Loaded

_MARK = "\x00"


@dataclass(frozen=True)
class Pair:
    """An image with its caption."""

    record: str
    """Record id."""
    image: str
    """Object id of the image."""
    caption: str
    """What the hospital wrote about it."""

    @property
    def turns(self) -> list[Turn]:
        """The caption task, as a synthesizer reads it."""
        return [Turn("user", DESCRIBE), Turn("assistant", self.caption)]


def markup_of(loaded: Loaded) -> Markup:
    """How the model's chat template marks turns, found by rendering marks."""
    whole = loaded.encoder.render([Turn("user", _MARK), Turn("assistant", _MARK), Turn("user", _MARK)], 0)
    _, between, again, end = whole.split(_MARK)
    tail = end.rstrip()
    return Markup(again.split(tail, 1)[1].lstrip(), between.split(tail, 1)[1].lstrip(), tail)


def write(
    loaded: Loaded,
    pairs: Sequence[Pair],
    features: Features,
    how: Sampling,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Triplet]:
    """Let the synthesizer write; unparsable dialogues come back as triplets with a reason and no words."""
    stops = frozenset({loaded.tokenizer.pad_token_id})
    how = dataclasses.replace(how, stops=stops)
    prompts = [loaded.encoder.prompt(p.turns, (p.image,), [features.grid(p.image)], "user") for p in pairs]
    markup, found = markup_of(loaded), []
    for pair, continuations in zip(pairs, generate(loaded, prompts, features, how, progress=progress), strict=True):
        found += read(loaded, markup, pair, [loaded.tokenizer.decode(c.ids) for c in continuations])
    return found


def read(loaded: Loaded, markup: Markup, pair: Pair, dialogues: Sequence[str]) -> list[Triplet]:
    """Triplets out of the dialogues about one pair; one that holds a control token says so (``control-token``)."""
    known, found = set[str](), []
    for dialogue in dialogues:
        parsed = parse(dialogue, markup)
        if parsed.fault:
            found.append(Triplet(pair.record, pair.image, "", "", "", reason=parsed.fault))
        for instruction, precise, informative in parsed.triplets:
            if instruction not in known:
                known.add(instruction)
                reason = "control-token" if loaded.encoder.held(f"{instruction}\n{precise}\n{informative}") else ""
                found.append(Triplet(pair.record, pair.image, instruction, precise, informative, reason=reason))
    return found


def answer(
    loaded: Loaded,
    asked: Sequence[tuple[Pair, str]],
    features: Features,
    max_new_tokens: int = 48,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Triplet]:
    """Let the synthesizer answer borrowed instructions from the caption, under both hints."""
    prompts = [
        loaded.encoder.prompt([*p.turns, Turn("user", f"{hint}\n{question}")], (p.image,), [features.grid(p.image)])
        for p, question in asked
        for hint in (PRECISE, INFORMATIVE)
    ]
    said = generate(loaded, prompts, features, Sampling(max_new_tokens), progress=progress)
    texts = [text_of(loaded, c[0]) if c[0].ended else "" for c in said]
    found = []
    for k, (pair, question) in enumerate(asked):
        precise, informative = texts[2 * k], texts[2 * k + 1]
        reason = "" if precise and informative else "unfinished"
        found.append(Triplet(pair.record, pair.image, question, precise, informative, borrowed=True, reason=reason))
    return found
