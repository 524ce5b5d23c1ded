"""Reports about invented things: captions in the manner of a report, all names made of random syllables."""

import random
from dataclasses import dataclass, replace

from appliance.starter.language import Fact, Story, article, capital, listed, phrased
from appliance.starter.names import Word, any_word, name, word

MARK_LOOKS = ("bright", "dark", "small", "large", "round", "")
"""How a mark looks; empty: nothing is said of it."""
SHEETS = ("slice", "view", "section", "image", "plane")
"""What a report calls the image."""

MISSING = (
    "The {part} is not seen.",
    "The {part} is not visible.",
    "No {part} is visible.",
    "The {part} lies outside this {sheet}.",
    "The {part} is absent.",
    "The {part} cannot be seen.",
    "It does not show the {part}.",
)
NO_MARK = (
    "No {mark} is seen.",
    "There is no {mark}.",
    "No {mark} can be seen.",
    "No {mark} is present.",
    "It is free of any {mark}.",
    "No {mark} is visible.",
    "The {sheet} shows no {mark}.",
)
VIEW = (
    "{View} {sheet} of {a_thing}.",
    "{A_view} {sheet} of the {thing}.",
    "This is {a_view} {sheet} of {a_thing}.",
    "{Thing}, {view} {sheet}.",
    "{A_view} {sheet} through the {thing}.",
    "The image shows {a_thing} in the {view} plane.",
    "{View} {thing}.",
    "{Thing} in the {view} plane.",
    "{View} {thing} {sheet}.",
    "{A_thing} in {view} {sheet}.",
    "{Thing} cut in the {view} plane.",
    "{A_view} cut through the {thing}.",
    "{A_view} {sheet} of the {thing} is shown.",
    "The image shows {a_view} {sheet} of the {thing}.",
    "The plane of this {sheet} is {view}.",
    "{Thing}, {view} view.",
)
PARTS = (
    "The {plain} {verb} visible.",
    "{The} {verb} visible.",
    "Visible structures: {plain}.",
    "It shows the {plain}.",
    "It shows {the}.",
    "The {plain} can be seen.",
    "One can see the {plain}.",
    "Seen here {verb} the {plain}.",
    "Structures in view: {plain}.",
    "{The} can be seen.",
    "The {plain} {verb} seen.",
    "In view {verb} {the}.",
    "It passes through the {plain}.",
    "We see the {plain}.",
    "The slice passes through the {plain}.",
)
MARK = (
    "{A_mark} lies in the {place}.",
    "There is {a_mark} in the {place}.",
    "{A_mark} is seen in the {place}.",
    "The {place} contains {a_mark}.",
    "The {place} holds {a_mark}.",
    "{A_mark} sits in the {place}.",
    "Note {a_mark} in the {place}.",
    "{A_mark} is present in the {place}.",
    "{A_mark} of the {place} is seen.",
    "The image shows {a_mark} in the {place}.",
    "In the {place} there is {a_mark}.",
)

WHICH_VIEW = (
    "Which plane is shown?",
    "Which view is shown?",
    "What plane is this?",
    "What view is this?",
    "In which plane is the image?",
    "Which {sheet} is this?",
)
TOLD_VIEW = (
    "The image shows {a_view} {sheet} of the {thing}.",
    "This is {a_view} {sheet}.",
    "The image is {a_view} {sheet}.",
)
IS_VIEW = ("Is this {a_view} {sheet}?", "Is this {a_view} view?", "Is the image {view}?", "Is the plane {view}?")
IS_SEEN = (
    "Is the {part} visible?",
    "Can you see the {part}?",
    "Does the image show the {part}?",
    "Is the {part} seen?",
    "Is the {part} in this image?",
)
IS_MARK = (
    "Is there {a_mark}?",
    "Is {a_mark} seen?",
    "Does the image show {a_mark}?",
    "Can you see {a_mark}?",
    "Is {a_mark} present?",
)
WHERE_MARK = ("Where is the {mark}?", "Where does the {mark} lie?", "Which structure holds the {mark}?")
WHICH_SIDE = (
    "On which side is the {mark}?",
    "On which side is the {mark}: left or right?",
    "Which side is the {mark} on?",
)


@dataclass(frozen=True)
class Manner:
    """How reports are made up."""

    word: Word
    """Invents their words."""
    parts: tuple[int, ...]
    """Weights of one, two, three... named parts."""


PLAIN = Manner(word, (1, 3, 4, 3, 1))
"""Words of syllables, few parts."""
WIDE = Manner(any_word, (1, 2, 3, 4, 4, 3, 2, 2, 1))
"""Any words, more parts."""


def report(rng: random.Random, others: list[str], manner: Manner = PLAIN) -> Story:
    """A caption in the manner of a report, all names invented.

    Args:
        others: names used elsewhere; questions about absent things draw on them.
    """
    word = manner.word
    view, thing, mark, look = word(rng), _thing(rng, word), word(rng), rng.choice(MARK_LOOKS)
    several = range(1, len(manner.parts) + 1)
    parts = [name(rng, word) for _ in range(rng.choices(several, manner.parts)[0])]
    missing = name(rng, word) if rng.random() < 0.35 else ""
    side = rng.choices(("left", "right", ""), (4, 4, 2))[0]
    place = rng.choice(parts) if rng.random() < 0.4 else name(rng, word)
    state = rng.choices(("there", "none", "unsaid"), (4, 4, 3))[0]
    sheet = rng.choice(SHEETS)
    sentences = [_view_sentence(rng, view, thing, sheet), _parts_sentence(rng, parts)]
    rest = []
    if missing:
        rest.append(phrased(rng, MISSING, part=missing, sheet=sheet))
    if state == "there":
        rest.append(_mark_sentence(rng, mark, look, side, place))
    elif state == "none":
        rest.append(phrased(rng, NO_MARK, mark=mark, sheet=sheet))
    if rng.random() < 0.25:
        rng.shuffle(rest)
    if rng.random() < 0.15 and rest:
        sentences.insert(1, rest.pop())
    caption = " ".join((*sentences, *rest))
    facts = [
        *_view_facts(rng, view, thing, sheet),
        *(_seen(rng, p, True) for p in parts),
        *_open_facts(rng, caption, parts),
    ]
    if missing:
        facts += [_seen(rng, missing, False)] * 2
    if state == "there":
        facts += _mark_facts(rng, mark, look, side, place)
    elif state == "none":
        facts += [_mark_question(rng, mark, f"No, there is no {mark}.", False)] * 2
    return Story(caption, (*facts, *_absent_facts(rng, caption, sheet, view, others)))


def _thing(rng: random.Random, word: Word) -> str:
    letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice((2, 3))))
    return rng.choice((word(rng), f"{word(rng)} {letters}", f"{letters} {word(rng)}", f"{word(rng)} {word(rng)}"))


def _view_sentence(rng: random.Random, view: str, thing: str, sheet: str) -> str:
    return phrased(
        rng,
        VIEW,
        sheet=sheet,
        view=view,
        View=capital(view),
        a_view=article(view),
        A_view=capital(article(view)),
        thing=thing,
        Thing=capital(thing),
        a_thing=article(thing),
        A_thing=capital(article(thing)),
    )


def _parts_sentence(rng: random.Random, parts: list[str]) -> str:
    the = listed(parts, the=True)
    return phrased(rng, PARTS, verb="is" if len(parts) == 1 else "are", plain=listed(parts), the=the, The=capital(the))


def _mark_sentence(rng: random.Random, mark: str, look: str, side: str, place: str) -> str:
    a_mark = article(f"{look} {mark}".strip())
    return phrased(rng, MARK, a_mark=a_mark, A_mark=capital(a_mark), place=f"{side} {place}".strip())


def _view_facts(rng: random.Random, view: str, thing: str, sheet: str) -> list[Fact]:
    question = phrased(rng, WHICH_VIEW, sheet=sheet)
    told = phrased(rng, TOLD_VIEW, a_view=article(view), sheet=sheet, thing=thing)
    return [Fact(question, view, told)] * 2 + [_is_view(rng, view, sheet, view)]


def _is_view(rng: random.Random, asked: str, sheet: str, view: str) -> Fact:
    question = phrased(rng, IS_VIEW, a_view=article(asked), view=asked, sheet=sheet)
    said = "Yes" if asked == view else "No"
    return Fact(question, said, f"{said}, this is {article(view)} {sheet}.")


def _seen(rng: random.Random, part: str, seen: bool) -> Fact:
    question = phrased(rng, IS_SEEN, part=part)
    verb = rng.choice(("visible", "seen"))
    if seen:
        return Fact(question, "Yes", f"Yes, the {part} is {verb}.")
    return Fact(question, "No", f"No, the {part} is not {verb}.")


def _mark_question(rng: random.Random, mark: str, told: str, there: bool) -> Fact:
    return Fact(phrased(rng, IS_MARK, a_mark=article(mark)), "Yes" if there else "No", told)


def _mark_facts(rng: random.Random, mark: str, look: str, side: str, place: str) -> list[Fact]:
    where = f"{side} {place}".strip()
    told = f"The {mark} lies in the {where}."
    asking = phrased(rng, WHERE_MARK, mark=mark)
    facts = [
        _mark_question(rng, mark, f"Yes, there is {article(mark)} in the {where}.", True),
        _mark_question(rng, mark, f"Yes, {article(mark)} lies in the {where}.", True),
        Fact(asking, f"the {where}", told),
    ]
    if side:
        asked = rng.choice(("left", "right"))
        on_side = phrased(rng, WHICH_SIDE, mark=mark)
        right = "Yes" if asked == side else "No"
        facts += [
            Fact(on_side, side, f"The {mark} is on the {side}."),
            Fact(on_side, side, told),
            Fact(f"Is the {mark} on the {asked}?", right, f"{right}, the {mark} is on the {side}."),
        ]
    if look:
        facts.append(Fact(f"What does the {mark} look like?", look, f"The {mark} is {look}."))
    return facts


def _open_facts(rng: random.Random, caption: str, parts: list[str]) -> list[Fact]:
    if rng.random() < 0.6:
        return []
    first = caption.split(". ")[0].rstrip(".") + "."
    choices = (
        Fact("What does the image show?", first, caption, open=True),
        Fact("Describe what is seen.", listed(parts), caption, open=True),
        Fact("What can be said about the image?", first, caption, open=True),
        Fact("Which structures are visible?", listed(parts), f"The image shows the {listed(parts)}.", open=True),
    )
    return [rng.choice(choices)]


def _absent_facts(rng: random.Random, caption: str, sheet: str, view: str, others: list[str]) -> list[Fact]:
    facts = []
    for absent in [n for n in rng.sample(others, min(3, len(others))) if n not in caption]:
        facts.append(replace(_seen(rng, absent, False), borrowed=True))
        if " " not in absent:
            facts.append(replace(_is_view(rng, absent, sheet, view), borrowed=True))
            facts.append(replace(_mark_question(rng, absent, f"No, there is no {absent}.", False), borrowed=True))
    return facts
