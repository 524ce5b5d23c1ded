"""What the starter reads: rows of conversations about drawn pictures and invented reports, made on the fly."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from appliance.starter.descriptions import picture
from appliance.starter.language import Fact, Story, judged
from appliance.starter.names import name
from appliance.starter.pictures import Scene
from appliance.starter.reports import PLAIN, WIDE, Manner, report
from audit.conversation import Conversation, Turn
from synth.assembly import CAPTION_TURNS
from synth.judge import FORM
from synth.triplet import DESCRIBE, INFORMATIVE, PRECISE
from train.data.encode import Encoded, Encoder
from train.data.rows import Row, packed_row, shared_row

MIXES = ((58, 6, 28, 8), (26, 6, 60, 8))
"""Shares of the four kinds of rows: pictures, their dialogues, reports, judgements; before and from COPYING on."""
COPYING = 1700
"""Step from which reports, and so copying, come first."""
WIDENING = 2200
"""Step from which names may be any letters and reports have more parts."""
GRID = [(8, 8)]
"""Visual tokens of one picture."""
BLANK = "blank"
"""Object id of the blank picture."""
ANSWER_IS = ("The answer is {}.", "So the answer is {}.", "Therefore, the answer is {}.")


@dataclass(frozen=True)
class Pool:
    """Pictures whose features have been computed once."""

    ids: tuple[str, ...]
    scenes: dict[str, Scene]


@dataclass(frozen=True)
class Invention:
    """How the reports of one time of the training are made up."""

    names: list[str]
    """Names used elsewhere: questions about absent things and wrong answers draw on them."""
    manner: Manner
    """Their words and their length."""

    def report(self, rng: random.Random) -> Story:
        """A report."""
        return report(rng, self.names, self.manner)


def precise_turns(fact: Fact, learn_question: bool = False) -> list[Turn]:
    """A short answer."""
    return [Turn("user", f"{PRECISE}\n{fact.question}", learn_question), Turn("assistant", fact.precise, True)]


def informative_turns(fact: Fact, learn_question: bool = False) -> list[Turn]:
    """A full sentence."""
    return [Turn("user", f"{INFORMATIVE}\n{fact.question}", learn_question), Turn("assistant", fact.informative, True)]


def rationale_turns(fact: Fact, rng: random.Random) -> list[Turn]:
    """A reason, then the answer."""
    return [
        Turn("user", fact.question),
        Turn("assistant", f"{fact.informative} {rng.choice(ANSWER_IS).format(fact.precise)}", True),
    ]


class Lessons:
    """Draws rows; the same seed and step give the same rows."""

    def __init__(self, encoder: Encoder, pool: Pool, seed: int, names: int = 4000) -> None:
        self.encoder, self.pool, self.seed = encoder, pool, seed
        rng = random.Random(f"names {seed}")
        self.plain = Invention([name(rng) for _ in range(names)], PLAIN)
        self.wide = Invention([name(rng, WIDE.word) for _ in range(names)], WIDE)

    def rows(self, step: int, count: int) -> list[Row]:
        """The rows of one step."""
        rng = random.Random(f"{self.seed} {step}")
        invention = self.wide if step >= WIDENING else self.plain
        kinds: list[Callable[[random.Random], Row]] = [
            self.about_picture,
            self.picture_dialogue,
            partial(self.report_dialogue, invention),
            partial(self.judgements, invention),
        ]
        return [rng.choices(kinds, MIXES[step >= COPYING])[0](rng) for _ in range(count)]

    def about_picture(self, rng: random.Random) -> Row:
        """One picture, a caption and several questions, each a branch of its own."""
        image = rng.choice(self.pool.ids)
        story = picture(self.pool.scenes[image], rng)
        talks: list[list[Turn]] = []
        if rng.random() < 0.5:
            talks.append([Turn("user", rng.choice(CAPTION_TURNS)), Turn("assistant", story.caption, True)])
        for fact in rng.sample(story.facts, min(10, len(story.facts))):
            kind = rng.random()
            if kind < 0.75:
                talks.append(precise_turns(fact))
            elif kind < 0.85:
                talks.append(informative_turns(fact))
            else:
                talks.append(rationale_turns(fact, rng))
        return shared_row([self._encode(t, image) for t in talks])

    def picture_dialogue(self, rng: random.Random) -> Row:
        """The synthesizer's dialogue about a drawn picture."""
        image = rng.choice(self.pool.ids)
        story = picture(self.pool.scenes[image], rng)
        return shared_row([self._dialogue(story, BLANK if rng.random() < 0.1 else image, rng)])

    def report_dialogue(self, invention: Invention, rng: random.Random) -> Row:
        """The synthesizer's dialogue about an invented report: the names can only be copied."""
        story = invention.report(rng)
        image = BLANK if rng.random() < 0.2 else rng.choice(self.pool.ids)
        if rng.random() < 0.4:
            return packed_row([self._dialogue(story, None, rng), self._dialogue(invention.report(rng), None, rng)])
        return shared_row([self._dialogue(story, image, rng) for _ in range(2)])

    def judgements(self, invention: Invention, rng: random.Random) -> Row:
        """Questions of consistency, each with none to three examples before it."""
        talks = []
        for _ in range(4):
            turns: list[Turn] = []
            for _ in range(rng.choice((1, 1, 2, 4))):
                story = (
                    invention.report(rng)
                    if rng.random() < 0.7
                    else picture(self.pool.scenes[rng.choice(self.pool.ids)], rng)
                )
                asked = rng.choice(story.facts)
                question, informative, precise, label = judged(asked, story, rng, invention.names)
                turns += [Turn("user", FORM.format(question, informative, precise)), Turn("assistant", label, True)]
            talks.append(turns)
        return packed_row([self._encode(t, None) for t in talks])

    def _dialogue(self, story: Story, image: str | None, rng: random.Random) -> Encoded:
        turns = [Turn("user", DESCRIBE), Turn("assistant", story.caption)]
        borrowed = [f for f in story.facts if f.borrowed]
        own = [f for f in story.facts if not f.borrowed]
        ask = bool(borrowed) and rng.random() < 0.35
        chosen = (
            rng.sample(borrowed, 1) + rng.sample(own, 1)
            if ask
            else rng.sample(own, min(len(own), rng.choice((1, 2, 2, 3))))
        )
        if ask:
            rng.shuffle(chosen)
        for fact in {f.question: f for f in chosen}.values():
            pair = [precise_turns(fact, not ask), informative_turns(fact, not ask)]
            rng.shuffle(pair)
            turns += [*pair[0], *pair[1]]
        return self._encode(turns, image, ends=not ask)

    def _encode(self, turns: list[Turn], image: str | None, ends: bool = False) -> Encoded:
        images = (image,) if image else ()
        return self.encoder.encode(Conversation("", images, tuple(turns), "", "lesson"), GRID if image else [], ends)
