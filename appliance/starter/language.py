"""The grammar of the starter: captions, questions, answers, and whether a precise answer follows.

Two sources of facts share it. A *picture* (pictures.Scene, told by descriptions) is described as it was drawn. A
*report* (reports) is about nothing that exists: its names are invented (names), so that they can only be copied. Brain
anatomy, and medicine at large, is in neither. The hints, the ways to ask for a caption and the judge's form are the
synthesis floor's, which asks the starter with them.

The starter was trained on exactly these words in exactly this order of random draws: another order is another starter.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.starter.pictures import PLACES

OPPOSITES = {"Yes": "No", "No": "Yes", "left": "right", "right": "left"}
"""Precise answers that have one wrong counterpart."""


@dataclass(frozen=True)
class Fact:
    """One question that can be asked, with its two answers."""

    question: str
    """What is asked."""
    precise: str
    """The short answer."""
    informative: str
    """The answer as a full sentence."""
    open: bool = False
    """Several answers would be right: a judge should say Open."""
    borrowed: bool = False
    """Asked about something the caption does not name: answered, never invented."""


@dataclass(frozen=True)
class Story:
    """A caption and what can be asked about it."""

    caption: str
    """The picture or report in words."""
    facts: tuple[Fact, ...]
    """What can be asked."""


def phrased(rng: random.Random, templates: Sequence[str], **words: str) -> str:
    """One of the templates, its fields filled with ``words``."""
    return rng.choice(templates).format(**words)


def article(noun: str) -> str:
    """``a`` or ``an`` before a noun, by its first letter."""
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


def listed(names: Sequence[str], the: bool = False) -> str:
    """``a, b and c``."""
    each = [f"the {n}" for n in names] if the else names
    return each[0] if len(each) == 1 else f"{', '.join(each[:-1])} and {each[-1]}"


def capital(text: str) -> str:
    """The sentence with a capital first letter."""
    return text[:1].upper() + text[1:]


def judged(fact: Fact, story: Story, rng: random.Random, others: list[str]) -> tuple[str, str, str, str]:
    """A question, an informative and a precise answer, and whether the precise follows: Yes, No or Open."""
    if fact.open:
        return fact.question, fact.informative, fact.precise, "Open"
    if rng.random() < 0.5:
        return fact.question, fact.informative, fact.precise, "Yes"
    if fact.precise in OPPOSITES:
        wrong = OPPOSITES[fact.precise]
    else:
        pool = [f.precise for f in story.facts if f.precise not in (*OPPOSITES, fact.precise) and not f.open]
        pool += [rng.choice(others)] * (1 + len(pool)) if others else []
        wrong = rng.choice(pool) if pool else rng.choice(PLACES)
        if wrong == fact.precise or wrong in fact.informative:
            return fact.question, fact.informative, fact.precise, "Yes"
    return fact.question, fact.informative, wrong, "No"
