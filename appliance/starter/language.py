"""The words of the starter: captions, questions and answers about drawn pictures and about invented things.

Two sources of facts with one grammar. A *picture* (pictures.Scene) is described as it was drawn. A *report* is about
nothing that exists: its names are invented from syllables, so that the only way to use them is to copy them. Brain
anatomy, and medicine at large, is in neither.
"""

import random
from dataclasses import dataclass, replace

from appliance.starter.pictures import BACKGROUNDS, COLOURS, OUTLINES, PLACES, SHAPES, TEXTURES, Scene, Thing

PRECISE = "Answer with a precise response."
"""First line of a turn that wants a short answer (METHODS 1.2)."""
INFORMATIVE = "Answer with an informative response."
"""First line of a turn that wants a full sentence."""
DESCRIBE = (
    "Describe the image.",
    "Describe this picture.",
    "Write a caption for the image.",
    "What does the image show?",
)
"""Ways to ask for a caption; the first is the synthesizer's own."""

ONSETS = [
    "b",
    "bl",
    "br",
    "c",
    "ch",
    "cl",
    "cr",
    "d",
    "dr",
    "f",
    "fl",
    "fr",
    "g",
    "gl",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "ph",
    "pl",
    "pr",
    "qu",
    "r",
    "s",
    "sc",
    "sh",
    "sl",
    "sp",
    "st",
    "str",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "x",
    "y",
    "z",
]
VOWELS = ["a", "a", "a", "e", "e", "e", "e", "i", "i", "i", "o", "o", "o", "u", "u", "ae", "ea", "io", "ou", "ia"]
CODAS = [
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "l",
    "m",
    "n",
    "r",
    "s",
    "t",
    "x",
    "nt",
    "rs",
    "ct",
    "mp",
    "ns",
    "st",
    "d",
    "p",
    "b",
    "c",
]
ENDINGS = [
    "",
    "",
    "",
    "",
    "",
    "",
    "us",
    "um",
    "al",
    "ic",
    "ar",
    "is",
    "ate",
    "ium",
    "oid",
    "ex",
    "ine",
    "ory",
    "ral",
    "eal",
    "ous",
    "en",
    "ion",
    "ula",
]
QUALIFIERS = (
    "upper",
    "lower",
    "inner",
    "outer",
    "front",
    "rear",
    "middle",
    "great",
    "small",
    "first",
    "second",
    "main",
)


@dataclass(frozen=True)
class Fact:
    """One question that can be asked, with its two answers."""

    question: str
    precise: str
    informative: str
    open: bool = False
    """Several answers would be right: a judge should say Open."""
    borrowed: bool = False
    """Asked about something the caption does not name: answered, never invented."""


@dataclass(frozen=True)
class Story:
    """A caption and what can be asked about it."""

    caption: str
    facts: tuple[Fact, ...]


def word(rng: random.Random) -> str:
    """An invented word of one to four syllables."""
    body = "".join(
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choices((1, 2, 3), (5, 6, 2))[0])
    )
    return body + rng.choice(ENDINGS)


def name(rng: random.Random) -> str:
    """An invented name of one to three words, sometimes qualified."""
    words = [word(rng) for _ in range(rng.choices((1, 2, 3), (5, 5, 2))[0])]
    return " ".join([rng.choice(QUALIFIERS), *words] if rng.random() < 0.2 else words)


def article(noun: str) -> str:
    """``a`` or ``an`` before a noun, by its first letter."""
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


def listed(names: list[str], the: bool = False) -> str:
    """``a, b and c``."""
    each = [f"the {n}" for n in names] if the else names
    return each[0] if len(each) == 1 else f"{', '.join(each[:-1])} and {each[-1]}"


def capital(text: str) -> str:
    """The sentence with a capital first letter."""
    return text[:1].upper() + text[1:]


# --- reports about invented things ---------------------------------------------------------------------------------

MARK_LOOKS = ("bright", "dark", "small", "large", "round", "")
SHEET = ("slice", "view", "section", "image", "plane")


def report(rng: random.Random, others: list[str]) -> Story:
    """A caption in the manner of a report, all names invented.

    Args:
        others: names used elsewhere; questions about absent things draw on them.
    """
    view, thing, mark, look = word(rng), _thing(rng), word(rng), rng.choice(MARK_LOOKS)
    parts = [name(rng) for _ in range(rng.choices((1, 2, 3, 4, 5), (1, 3, 4, 3, 1))[0])]
    missing = name(rng) if rng.random() < 0.35 else ""
    side = rng.choices(("left", "right", ""), (4, 4, 2))[0]
    place = rng.choice(parts) if rng.random() < 0.4 else name(rng)
    state = rng.choices(("there", "none", "unsaid"), (4, 4, 3))[0]
    sheet = rng.choice(SHEET)
    sentences = [_view_sentence(rng, view, thing, sheet), _parts_sentence(rng, parts)]
    rest = []
    if missing:
        rest.append(rng.choice((f"The {missing} is not seen.", f"The {missing} is not visible.", f"No {missing} is visible.", f"The {missing} lies outside this {sheet}.", f"The {missing} is absent.", f"The {missing} cannot be seen.", f"It does not show the {missing}.")))  # fmt: skip
    if state == "there":
        rest.append(_mark_sentence(rng, mark, look, side, place))
    elif state == "none":
        rest.append(rng.choice((f"No {mark} is seen.", f"There is no {mark}.", f"No {mark} can be seen.", f"No {mark} is present.", f"It is free of any {mark}.", f"No {mark} is visible.", f"The {sheet} shows no {mark}.")))  # fmt: skip
    if rng.random() < 0.25:
        rng.shuffle(rest)
    if rng.random() < 0.15:
        sentences.insert(1, rest.pop()) if rest else None
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
    absent = [n for n in rng.sample(others, min(3, len(others))) if n not in caption]
    for n in absent:
        facts.append(replace(_seen(rng, n, False), borrowed=True))
        if " " not in n:
            facts.append(replace(_is_view(rng, n, sheet, view), borrowed=True))
            facts.append(replace(_mark_question(rng, n, f"No, there is no {n}.", False), borrowed=True))
    return Story(caption, tuple(facts))


def _thing(rng: random.Random) -> str:
    letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice((2, 3))))
    return rng.choice((word(rng), f"{word(rng)} {letters}", f"{letters} {word(rng)}", f"{word(rng)} {word(rng)}"))


def _view_sentence(rng: random.Random, view: str, thing: str, sheet: str) -> str:
    v = capital(view)
    return rng.choice((
        f"{v} {sheet} of {article(thing)}.", f"{capital(article(view))} {sheet} of the {thing}.",
        f"This is {article(view)} {sheet} of {article(thing)}.", f"{capital(thing)}, {view} {sheet}.",
        f"{capital(article(view))} {sheet} through the {thing}.", f"The image shows {article(thing)} in the {view} plane.",
        f"{v} {thing}.", f"{capital(thing)} in the {view} plane.", f"{v} {thing} {sheet}.",
        f"{capital(article(thing))} in {view} {sheet}.", f"{capital(thing)} cut in the {view} plane.",
        f"{capital(article(view))} cut through the {thing}.", f"{capital(article(view))} {sheet} of the {thing} is shown.",
        f"The image shows {article(view)} {sheet} of the {thing}.", f"The plane of this {sheet} is {view}.",
        f"{capital(thing)}, {view} view.",
    ))  # fmt: skip


def _parts_sentence(rng: random.Random, parts: list[str]) -> str:
    verb = "is" if len(parts) == 1 else "are"
    plain, the = listed(parts), listed(parts, the=True)
    return rng.choice((
        f"The {plain} {verb} visible.", f"{capital(the)} {verb} visible.", f"Visible structures: {plain}.",
        f"It shows the {plain}.", f"It shows {the}.", f"The {plain} can be seen.", f"One can see the {plain}.",
        f"Seen here {verb} the {plain}.", f"Structures in view: {plain}.", f"{capital(the)} can be seen.",
        f"The {plain} {verb} seen.", f"In view {verb} {the}.", f"It passes through the {plain}.",
        f"We see the {plain}.", f"The slice passes through the {plain}.",
    ))  # fmt: skip


def _mark_sentence(rng: random.Random, mark: str, look: str, side: str, place: str) -> str:
    m = f"{look} {mark}".strip()
    p = f"{side} {place}".strip()
    return rng.choice((
        f"{capital(article(m))} lies in the {p}.", f"There is {article(m)} in the {p}.",
        f"{capital(article(m))} is seen in the {p}.", f"The {p} contains {article(m)}.",
        f"The {p} holds {article(m)}.", f"{capital(article(m))} sits in the {p}.",
        f"Note {article(m)} in the {p}.", f"{capital(article(m))} is present in the {p}.",
        f"{capital(article(m))} of the {p} is seen.", f"The image shows {article(m)} in the {p}.",
        f"In the {p} there is {article(m)}.",
    ))  # fmt: skip


def _view_facts(rng: random.Random, view: str, thing: str, sheet: str) -> list[Fact]:
    question = rng.choice(("Which plane is shown?", "Which view is shown?", "What plane is this?", "What view is this?", "In which plane is the image?", f"Which {sheet} is this?"))  # fmt: skip
    told = rng.choice((f"The image shows {article(view)} {sheet} of the {thing}.", f"This is {article(view)} {sheet}.", f"The image is {article(view)} {sheet}."))  # fmt: skip
    return [Fact(question, view, told)] * 2 + [_is_view(rng, view, sheet, view)]


def _is_view(rng: random.Random, asked: str, sheet: str, view: str) -> Fact:
    question = rng.choice((f"Is this {article(asked)} {sheet}?", f"Is this {article(asked)} view?", f"Is the image {asked}?", f"Is the plane {asked}?"))  # fmt: skip
    if asked == view:
        return Fact(question, "Yes", f"Yes, this is {article(view)} {sheet}.")
    return Fact(question, "No", f"No, this is {article(view)} {sheet}.")


def _seen(rng: random.Random, part: str, seen: bool) -> Fact:
    question = rng.choice((f"Is the {part} visible?", f"Can you see the {part}?", f"Does the image show the {part}?", f"Is the {part} seen?", f"Is the {part} in this image?"))  # fmt: skip
    verb = rng.choice(("visible", "seen"))
    return (
        Fact(question, "Yes", f"Yes, the {part} is {verb}.")
        if seen
        else Fact(question, "No", f"No, the {part} is not {verb}.")
    )


def _mark_question(rng: random.Random, mark: str, told: str, there: bool) -> Fact:
    question = rng.choice((f"Is there {article(mark)}?", f"Is {article(mark)} seen?", f"Does the image show {article(mark)}?", f"Can you see {article(mark)}?", f"Is {article(mark)} present?"))  # fmt: skip
    return Fact(question, "Yes" if there else "No", told)


def _mark_facts(rng: random.Random, mark: str, look: str, side: str, place: str) -> list[Fact]:
    where = f"{side} {place}".strip()
    told = f"The {mark} lies in the {where}."
    asking = rng.choice((f"Where is the {mark}?", f"Where does the {mark} lie?", f"Which structure holds the {mark}?"))
    facts = [
        _mark_question(rng, mark, f"Yes, there is {article(mark)} in the {where}.", True),
        _mark_question(rng, mark, f"Yes, {article(mark)} lies in the {where}.", True),
        Fact(asking, f"the {where}", told),
    ]
    if side:
        asked = rng.choice(("left", "right"))
        on_side = rng.choice((f"On which side is the {mark}?", f"On which side is the {mark}: left or right?", f"Which side is the {mark} on?"))  # fmt: skip
        right = "Yes" if asked == side else "No"
        facts += [
            Fact(on_side, side, f"The {mark} is on the {side}."), Fact(on_side, side, told),
            Fact(f"Is the {mark} on the {asked}?", right, f"{right}, the {mark} is on the {side}."),
        ]  # fmt: skip
    if look:
        facts.append(Fact(f"What does the {mark} look like?", look, f"The {mark} is {look}."))
    return facts


def _open_facts(rng: random.Random, caption: str, parts: list[str]) -> list[Fact]:
    if rng.random() < 0.6:
        return []
    first = caption.split(". ")[0].rstrip(".") + "."
    return [rng.choice((
        Fact("What does the image show?", first, caption, open=True),
        Fact("Describe what is seen.", listed(parts), caption, open=True),
        Fact("What can be said about the image?", first, caption, open=True),
        Fact("Which structures are visible?", listed(parts), f"The image shows the {listed(parts)}.", open=True),
    ))]  # fmt: skip


# --- drawn pictures ------------------------------------------------------------------------------------------------


def _phrase(thing: Thing, sized: bool = False) -> str:
    return f"{thing.size + ' ' if sized else ''}{thing.colour} {thing.shape}"


def _at(place: str) -> str:
    return (
        f"on the {place}"
        if place in ("left", "right")
        else f"in the {place}"
        if place == "centre"
        else f"at the {place}"
    )


def picture(scene: Scene, rng: random.Random) -> Story:
    """The caption and the questions of a drawn picture."""
    return _grey(scene, rng) if scene.kind == "grey" else _objects(scene, rng)


def _objects(scene: Scene, rng: random.Random) -> Story:
    things = scene.things
    sized = rng.random() < 0.5
    items = [f"{article(_phrase(t, sized))} {_at(t.place)}" for t in things]
    ground = f"{article(scene.background)} background"
    caption = rng.choice((f"The picture shows {listed(items)} on {ground}.", f"{capital(listed(items))}. The background is {scene.background}.", f"On {ground} there {'is' if len(items) == 1 else 'are'} {listed(items)}."))  # fmt: skip
    count = str(len(things))
    facts = [
        Fact(rng.choice(("How many objects are there?", "How many shapes are in the picture?")), count, f"There {'is' if count == '1' else 'are'} {count} object{'' if count == '1' else 's'}."),
        Fact("What is the background: plain, striped, dotted or checked?", scene.background, f"The background is {scene.background}."),
        Fact("Is the background " + (b := rng.choice((scene.background, rng.choice(BACKGROUNDS)))) + "?", "Yes" if b == scene.background else "No", f"{'Yes' if b == scene.background else 'No'}, the background is {scene.background}."),
    ]  # fmt: skip
    for t in rng.sample(things, min(2, len(things))):
        same_shape = sum(o.shape == t.shape for o in things) == 1
        same_colour = sum(o.colour == t.colour for o in things) == 1
        told = f"The {_phrase(t)} is {_at(t.place)}."
        if same_shape:
            facts.append(Fact(f"What colour is the {t.shape}?", t.colour, f"The {t.shape} is {t.colour}."))
        if same_colour:
            facts.append(
                Fact(f"What shape is the {t.colour} object?", t.shape, f"The {t.colour} object is {article(t.shape)}.")
            )
        facts += [
            Fact(f"Where is the {_phrase(t)}?", t.place, told),
            Fact(f"What is {_at(t.place)}?", _phrase(t), f"There is {article(_phrase(t))} {_at(t.place)}."),
            Fact(f"Is the {_phrase(t)} small or large?", t.size, f"The {_phrase(t)} is {t.size}."),
        ]
    there = rng.choice(things)
    facts.append(
        Fact(_exists(rng, _phrase(there)), "Yes", f"Yes, there is {article(_phrase(there))} {_at(there.place)}.")
    )
    wrong = _absent_look(rng, things)
    facts.append(Fact(_exists(rng, wrong), "No", f"No, there is no {wrong}."))
    return Story(caption, tuple(facts))


def _exists(rng: random.Random, phrase: str) -> str:
    return rng.choice(
        (f"Is there {article(phrase)}?", f"Can you see {article(phrase)}?", f"Does the picture show {article(phrase)}?")
    )


def _absent_look(rng: random.Random, things: tuple[Thing, ...]) -> str:
    looks = {_phrase(t) for t in things}
    near = rng.choice(things)
    while True:
        colour = near.colour if rng.random() < 0.5 else rng.choice(tuple(COLOURS))
        shape = near.shape if colour != near.colour else rng.choice(SHAPES)
        if f"{colour} {shape}" not in looks:
            return f"{colour} {shape}"


def _grey(scene: Scene, rng: random.Random) -> Story:
    body = f"{scene.outline} grey body"
    first = rng.choice((f"{capital(article(body))} with a {scene.texture} texture.", f"The picture shows {article(body)}. Its texture is {scene.texture}."))  # fmt: skip
    none = scene.spot == "none"
    spot = "spot"
    last = (
        rng.choice(("No spot is seen.", "There is no spot."))
        if none
        else rng.choice((f"A {scene.spot} spot lies on the {scene.height} {scene.side}.", f"There is a {scene.spot} spot on the {scene.height} {scene.side}."))
    )  # fmt: skip
    outline, texture = rng.choice(OUTLINES), rng.choice(TEXTURES)
    yes = lambda right: "Yes" if right else "No"  # noqa: E731
    facts = [
        Fact("What is the outline: round, oval, boxy or wavy?", scene.outline, f"The outline is {scene.outline}."),
        Fact("What is the texture: smooth, striped, spotted or layered?", scene.texture, f"The texture is {scene.texture}."),
        Fact(f"Is the outline {outline}?", yes(outline == scene.outline), f"{yes(outline == scene.outline)}, the outline is {scene.outline}."),
        Fact(f"Is the texture {texture}?", yes(texture == scene.texture), f"{yes(texture == scene.texture)}, the texture is {scene.texture}."),
        Fact(rng.choice(("Is there a spot?", "Can you see a spot?", "Does the picture show a spot?")), yes(not none), "No, there is no spot." if none else f"Yes, there is a {scene.spot} spot on the {scene.side}."),
    ]  # fmt: skip
    if not none:
        where = f"The {scene.spot} {spot} lies on the {scene.height} {scene.side}."
        asked = rng.choice(("left", "right"))
        facts += [
            Fact("On which side is the spot: left or right?", scene.side, f"The spot is on the {scene.side}."),
            Fact("Is the spot bright or dark?", scene.spot, f"The spot is {scene.spot}."),
            Fact("Is the spot in the upper or lower half?", scene.height, where),
            Fact("Where is the spot?", f"{scene.height} {scene.side}", where),
            Fact(f"Is the spot on the {asked}?", yes(asked == scene.side), f"{yes(asked == scene.side)}, the spot is on the {scene.side}."),
        ]  # fmt: skip
    return Story(f"{first} {last}", tuple(facts))


# --- judging -------------------------------------------------------------------------------------------------------


def judged(fact: Fact, story: Story, rng: random.Random, others: list[str]) -> tuple[str, str, str, str]:
    """A question, an informative and a precise answer, and whether the precise follows: Yes, No or Open."""
    if fact.open:
        return fact.question, fact.informative, fact.precise, "Open"
    if rng.random() < 0.5:
        return fact.question, fact.informative, fact.precise, "Yes"
    flip = {"Yes": "No", "No": "Yes", "left": "right", "right": "left"}
    if fact.precise in flip:
        wrong = flip[fact.precise]
    else:
        pool = [f.precise for f in story.facts if f.precise not in (*flip, fact.precise) and not f.open]
        pool += [rng.choice(others)] * (1 + len(pool)) if others else []
        wrong = rng.choice(pool) if pool else rng.choice(PLACES)
        if wrong == fact.precise or wrong in fact.informative:
            return fact.question, fact.informative, fact.precise, "Yes"
    return fact.question, fact.informative, wrong, "No"
