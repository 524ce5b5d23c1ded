"""Drawn general pictures with their ground truth: what the starter model learns to see.

Two kinds. *Objects*: one to four coloured shapes on a three by three grid over a patterned background. *Grey*: one
blurred, textured, grey body on a dark ground, with or without a bright or dark spot. No medical image is among them.
Every picture also carries a label per visual token (16 by 16 pixels), which warms up the vision tower.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 128
"""Width and height of a picture, in pixels."""
Ink = int | tuple[int, ...]
CELL = 16
"""Pixels on a side of what becomes one visual token: patch size 8, two by two patches merged."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "bar")
COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 214),
    "yellow": (240, 200, 30),
    "purple": (140, 60, 180),
    "orange": (245, 130, 32),
    "black": (20, 20, 20),
    "pink": (245, 150, 190),
}
BACKGROUNDS = ("plain", "striped", "dotted", "checked")
OUTLINES = ("round", "oval", "boxy", "wavy")
TEXTURES = ("smooth", "striped", "spotted", "layered")
PLACES = (
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)
"""The nine places in reading order."""
LABEL_SIZES = (1 + len(SHAPES), 1 + len(COLOURS), 3, 3, 10, 21)
"""Classes of each label of a visual token: shape, colour, centre of a small or large one, spot, place, ground."""


@dataclass(frozen=True)
class Thing:
    """One object of a picture."""

    shape: str
    colour: str
    size: str
    place: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows, in words."""

    kind: str
    """``objects`` or ``grey``."""
    things: tuple[Thing, ...] = ()
    background: str = "plain"
    outline: str = "round"
    texture: str = "smooth"
    spot: str = "none"
    """``bright``, ``dark`` or ``none`` (grey pictures)."""
    side: str = ""
    """``left`` or ``right`` where there is a spot."""
    height: str = ""
    """``upper`` or ``lower`` where there is a spot."""


@dataclass(frozen=True)
class Drawing:
    """A picture, what it shows, and a label per visual token."""

    image: Image.Image
    scene: Scene
    labels: np.ndarray
    """(64, 6) int64: shape, colour, is a centre, spot, place, ground; 0 stands for none."""


def random_scene(rng: random.Random) -> Scene:
    """Choose what the next picture shows."""
    if rng.random() < 0.4:
        spot = rng.choice(("none", "bright", "bright", "dark"))
        side, height = (rng.choice(("left", "right")), rng.choice(("upper", "lower"))) if spot != "none" else ("", "")
        return Scene("grey", (), "plain", rng.choice(OUTLINES), rng.choice(TEXTURES), spot, side, height)
    count = rng.choice((1, 1, 2, 2, 3, 3, 4))
    places = rng.sample(PLACES, count)
    looks: list[tuple[str, str]] = []
    while len(looks) < count:
        look = (rng.choice(SHAPES), rng.choice(tuple(COLOURS)))
        if look not in looks:
            looks.append(look)
    things = tuple(
        Thing(shape, colour, rng.choice(("small", "large")), place)
        for (shape, colour), place in zip(looks, places, strict=True)
    )
    return Scene("objects", tuple(sorted(things, key=lambda t: PLACES.index(t.place))), rng.choice(BACKGROUNDS))


def draw(rng: random.Random) -> Drawing:
    """Draw a random picture."""
    scene = random_scene(rng)
    return _draw_grey(scene, rng) if scene.kind == "grey" else _draw_objects(scene, rng)


def _draw_objects(scene: Scene, rng: random.Random) -> Drawing:
    scale = 2
    side = SIDE * scale
    image = _background(scene.background, rng, side)
    owner = Image.new("L", (side, side), 0)
    labels = _blank_labels(1 + BACKGROUNDS.index(scene.background))
    centres = []
    for index, thing in enumerate(scene.things, 1):
        row, column = divmod(PLACES.index(thing.place), 3)
        radius = scale * (rng.uniform(9, 12) if thing.size == "small" else rng.uniform(16, 20))
        x = scale * ((column + 0.5) * SIDE / 3 + rng.uniform(-3, 3))
        y = scale * ((row + 0.5) * SIDE / 3 + rng.uniform(-3, 3))
        fill = tuple(int(min(255, max(0, v + rng.uniform(-14, 14)))) for v in COLOURS[thing.colour])
        turn = rng.uniform(-0.25, 0.25)
        for canvas, ink in ((image, fill), (owner, index)):
            _shape(ImageDraw.Draw(canvas), thing.shape, x, y, radius, turn, ink)
        centres.append(min(63, int(y // (CELL * scale)) * 8 + int(x // (CELL * scale))))
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    cells = np.asarray(owner).reshape(8, CELL * scale, 8, CELL * scale).transpose(0, 2, 1, 3).reshape(64, -1)
    for index, thing in enumerate(scene.things, 1):
        inside = (cells == index).mean(1) > 0.08
        labels[inside, 0] = 1 + SHAPES.index(thing.shape)
        labels[inside, 1] = 1 + tuple(COLOURS).index(thing.colour)
        labels[centres[index - 1], 2] = 1 + (thing.size == "large")
    return Drawing(_noisy(image, rng, rng.uniform(0, 6)), scene, labels)


def _draw_grey(scene: Scene, rng: random.Random) -> Drawing:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    cx, cy = SIDE / 2 + rng.uniform(-8, 8), SIDE / 2 + rng.uniform(-8, 8)
    a, b = rng.uniform(40, 52), rng.uniform(40, 52)
    if scene.outline == "oval":
        a, b = (a, a * rng.uniform(0.6, 0.75)) if rng.random() < 0.5 else (b * rng.uniform(0.6, 0.75), b)
    else:
        b = a * rng.uniform(0.95, 1.05)
    angle = np.arctan2(y - cy, x - cx)
    power = 6.0 if scene.outline == "boxy" else 2.0
    ripple = 1 + (0.14 * np.sin(rng.choice((5, 6, 7)) * angle + rng.uniform(0, 6)) if scene.outline == "wavy" else 0)
    distance = (np.abs((x - cx) / a) ** power + np.abs((y - cy) / b) ** power) ** (1 / power) / ripple
    body = np.clip((1 - distance) * 12, 0, 1)
    turn, step = rng.uniform(0, math.pi), rng.uniform(9, 15)
    level = rng.uniform(90, 160)
    waves = {
        "smooth": np.zeros_like(x),
        "striped": np.sin(2 * math.pi * (x * math.cos(turn) + y * math.sin(turn)) / step),
        "spotted": np.sin(2 * math.pi * x / step + turn) * np.sin(2 * math.pi * y / step) * 1.4,
        "layered": np.sin(2 * math.pi * distance * rng.uniform(2.5, 3.8)),
    }[scene.texture]
    grey = rng.uniform(0, 40) * (1 - body) + body * (level + rng.uniform(18, 40) * waves)
    bias = rng.uniform(-0.25, 0.25) * (x - cx) / SIDE + rng.uniform(-0.25, 0.25) * (y - cy) / SIDE
    grey = grey * (1 + bias)
    labels = _blank_labels(5 + 4 * OUTLINES.index(scene.outline) + TEXTURES.index(scene.texture))
    if scene.spot != "none":
        sx = cx + (-1 if scene.side == "left" else 1) * rng.uniform(0.2, 0.55) * a
        sy = cy + (-1 if scene.height == "upper" else 1) * rng.uniform(0.15, 0.55) * b
        radius = rng.uniform(5, 10)
        spot = np.clip((1.2 - np.hypot((x - sx) / rng.uniform(0.8, 1.25), y - sy) / radius) * 3, 0, 1)
        target = rng.uniform(225, 255) if scene.spot == "bright" else rng.uniform(10, 40)
        grey = grey * (1 - spot) + target * spot
        share = spot.reshape(8, CELL, 8, CELL).mean((1, 3)).reshape(64)
        labels[share > 0.15, 3] = 1 if scene.spot == "bright" else 2
    pixels = np.clip(grey, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2))).convert("RGB")
    return Drawing(_noisy(image, rng, rng.uniform(2, 10)), scene, labels)


def _blank_labels(ground: int) -> np.ndarray:
    third = (np.arange(8) + 0.5) * 3 // 8
    labels = np.zeros((64, len(LABEL_SIZES)), np.int64)
    labels[:, 4] = (third[:, None] * 3 + third[None, :]).reshape(64) + 1
    labels[:, 5] = ground
    return labels


def _background(kind: str, rng: random.Random, side: int) -> Image.Image:
    base = tuple(rng.randint(195, 245) for _ in range(3))
    other = tuple(max(0, v - rng.randint(28, 50)) for v in base)
    image = Image.new("RGB", (side, side), base)
    pen, step = ImageDraw.Draw(image), rng.randint(14, 24)
    if kind == "striped":
        upright = rng.random() < 0.5
        for at in range(0, side, step):
            pen.rectangle((at, 0, at + step // 2, side) if upright else (0, at, side, at + step // 2), fill=other)
    elif kind in ("dotted", "checked"):
        for i, x in enumerate(range(0, side, step)):
            for j, y in enumerate(range(0, side, step)):
                if kind == "dotted":
                    pen.ellipse((x + step // 3, y + step // 3, x + step // 3 * 2, y + step // 3 * 2), fill=other)
                elif (i + j) % 2:
                    pen.rectangle((x, y, x + step - 1, y + step - 1), fill=other)
    return image


def _shape(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, turn: float, ink: Ink) -> None:
    def ring_of(points: int, inner: float = 1.0) -> list[tuple[float, float]]:
        out = []
        for k in range(points):
            reach = r * (inner if k % 2 and inner != 1.0 else 1.0)
            angle = turn - math.pi / 2 + 2 * math.pi * k / points
            out.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        return out

    def turned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        c, s = math.cos(turn), math.sin(turn)
        return [(x + r * (u * c - v * s), y + r * (u * s + v * c)) for u, v in points]

    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    elif shape == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=ink, width=max(3, int(r * 0.32)))
    elif shape == "triangle":
        pen.polygon(ring_of(3), fill=ink)
    elif shape == "star":
        pen.polygon(ring_of(10, 0.42), fill=ink)
    elif shape == "square":
        pen.polygon(turned([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]), fill=ink)
    elif shape == "diamond":
        pen.polygon(turned([(0, -1.1), (0.62, 0), (0, 1.1), (-0.62, 0)]), fill=ink)
    elif shape == "bar":
        pen.polygon(turned([(-1.1, -0.3), (1.1, -0.3), (1.1, 0.3), (-1.1, 0.3)]), fill=ink)
    elif shape == "cross":
        for points in ([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)], [(-0.3, -1), (0.3, -1), (0.3, 1), (-0.3, 1)]):
            pen.polygon(turned([(float(u), float(v)) for u, v in points]), fill=ink)


def _noisy(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, strength, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))
