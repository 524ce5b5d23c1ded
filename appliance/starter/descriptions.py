"""Drawn pictures in words: the caption and the questions of a scene, told as it was drawn."""

import random

from appliance.starter.language import Fact, Story, article, capital, listed, phrased
from appliance.starter.pictures import BACKGROUNDS, COLOURS, OUTLINES, SHAPES, TEXTURES, Scene, Thing

OBJECTS = (
    "The picture shows {items} on {ground}.",
    "{Items}. The background is {background}.",
    "On {ground} there {verb} {items}.",
)
HOW_MANY = ("How many objects are there?", "How many shapes are in the picture?")
EXISTS = ("Is there {a_look}?", "Can you see {a_look}?", "Does the picture show {a_look}?")
GREY = ("{A_body} with a {texture} texture.", "The picture shows {a_body}. Its texture is {texture}.")
NO_SPOT = ("No spot is seen.", "There is no spot.")
SPOT = ("A {spot} spot lies on the {height} {side}.", "There is a {spot} spot on the {height} {side}.")
IS_SPOT = ("Is there a spot?", "Can you see a spot?", "Does the picture show a spot?")


def picture(scene: Scene, rng: random.Random) -> Story:
    """The caption and the questions of a drawn picture."""
    return _grey(scene, rng) if scene.kind == "grey" else _objects(scene, rng)


def _look(thing: Thing, sized: bool = False) -> str:
    return f"{thing.size + ' ' if sized else ''}{thing.colour} {thing.shape}"


def _at(place: str) -> str:
    if place in ("left", "right"):
        return f"on the {place}"
    return f"in the {place}" if place == "centre" else f"at the {place}"


def _yes(right: bool) -> str:
    return "Yes" if right else "No"


def _objects(scene: Scene, rng: random.Random) -> Story:
    things = scene.things
    sized = rng.random() < 0.5
    items = listed([f"{article(_look(t, sized))} {_at(t.place)}" for t in things])
    ground = f"{article(scene.background)} background"
    verb = "is" if len(things) == 1 else "are"
    caption = phrased(
        rng, OBJECTS, items=items, Items=capital(items), ground=ground, background=scene.background, verb=verb
    )
    facts = [_count(rng, len(things)), *_ground(rng, scene.background)]
    for thing in rng.sample(things, min(2, len(things))):
        facts += _thing(thing, things)
    there = rng.choice(things)
    facts.append(Fact(_exists(rng, _look(there)), "Yes", f"Yes, there is {article(_look(there))} {_at(there.place)}."))
    wrong = _absent_look(rng, things)
    facts.append(Fact(_exists(rng, wrong), "No", f"No, there is no {wrong}."))
    return Story(caption, tuple(facts))


def _count(rng: random.Random, count: int) -> Fact:
    told = "There is 1 object." if count == 1 else f"There are {count} objects."
    return Fact(rng.choice(HOW_MANY), str(count), told)


def _ground(rng: random.Random, ground: str) -> list[Fact]:
    asked = rng.choice((ground, rng.choice(BACKGROUNDS)))
    told = f"The background is {ground}."
    said = _yes(asked == ground)
    return [
        Fact("What is the background: plain, striped, dotted or checked?", ground, told),
        Fact(f"Is the background {asked}?", said, f"{said}, the background is {ground}."),
    ]


def _thing(thing: Thing, things: tuple[Thing, ...]) -> list[Fact]:
    look, at, facts = _look(thing), _at(thing.place), []
    if sum(other.shape == thing.shape for other in things) == 1:
        facts.append(Fact(f"What colour is the {thing.shape}?", thing.colour, f"The {thing.shape} is {thing.colour}."))
    if sum(other.colour == thing.colour for other in things) == 1:
        told = f"The {thing.colour} object is {article(thing.shape)}."
        facts.append(Fact(f"What shape is the {thing.colour} object?", thing.shape, told))
    return [
        *facts,
        Fact(f"Where is the {look}?", thing.place, f"The {look} is {at}."),
        Fact(f"What is {at}?", look, f"There is {article(look)} {at}."),
        Fact(f"Is the {look} small or large?", thing.size, f"The {look} is {thing.size}."),
    ]


def _exists(rng: random.Random, look: str) -> str:
    return phrased(rng, EXISTS, a_look=article(look))


def _absent_look(rng: random.Random, things: tuple[Thing, ...]) -> str:
    looks = {_look(t) for t in things}
    near = rng.choice(things)
    while True:
        colour = near.colour if rng.random() < 0.5 else rng.choice(tuple(COLOURS))
        shape = near.shape if colour != near.colour else rng.choice(SHAPES)
        if f"{colour} {shape}" not in looks:
            return f"{colour} {shape}"


def _grey(scene: Scene, rng: random.Random) -> Story:
    a_body = article(f"{scene.outline} grey body")
    first = phrased(rng, GREY, a_body=a_body, A_body=capital(a_body), texture=scene.texture)
    spotted = scene.spot != "none"
    last = phrased(rng, SPOT if spotted else NO_SPOT, spot=scene.spot, height=scene.height, side=scene.side)
    outline, texture = rng.choice(OUTLINES), rng.choice(TEXTURES)
    told_outline, told_texture = f"the outline is {scene.outline}.", f"the texture is {scene.texture}."
    same_outline, same_texture = _yes(outline == scene.outline), _yes(texture == scene.texture)
    told_spot = f"Yes, there is a {scene.spot} spot on the {scene.side}." if spotted else "No, there is no spot."
    facts = [
        Fact("What is the outline: round, oval, boxy or wavy?", scene.outline, capital(told_outline)),
        Fact("What is the texture: smooth, striped, spotted or layered?", scene.texture, capital(told_texture)),
        Fact(f"Is the outline {outline}?", same_outline, f"{same_outline}, {told_outline}"),
        Fact(f"Is the texture {texture}?", same_texture, f"{same_texture}, {told_texture}"),
        Fact(rng.choice(IS_SPOT), _yes(spotted), told_spot),
    ]
    return Story(f"{first} {last}", (*facts, *(_spot(rng, scene) if spotted else ())))


def _spot(rng: random.Random, scene: Scene) -> list[Fact]:
    where = f"The {scene.spot} spot lies on the {scene.height} {scene.side}."
    asked = rng.choice(("left", "right"))
    said = _yes(asked == scene.side)
    return [
        Fact("On which side is the spot: left or right?", scene.side, f"The spot is on the {scene.side}."),
        Fact("Is the spot bright or dark?", scene.spot, f"The spot is {scene.spot}."),
        Fact("Is the spot in the upper or lower half?", scene.height, where),
        Fact("Where is the spot?", f"{scene.height} {scene.side}", where),
        Fact(f"Is the spot on the {asked}?", said, f"{said}, the spot is on the {scene.side}."),
    ]
