"""What stands and drives in a synthetic street: vehicles, people, bicycles, trees, poles, signs.

Rules: every function draws one object at a place in metres, takes what varies from `rng`, and
always draws the same number of random values whatever the size of the canvas, so that a scene
keeps its content at every resolution.

    draw_car(canvas, rng, Place(x=2.0, z=12.0, heading=0.0))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinc.data._street_canvas import CAMERA_HEIGHT, Canvas
from edgeinc.schema import Color

(
    ROAD,
    SIDEWALK,
    BUILDING,
    SKY,
    TREE,
    POLE,
    SIGN,
    CAR,
    BUS,
    PERSON,
    BICYCLE,
) = range(11)

Quad = npt.NDArray[np.float64]
Rng = np.random.Generator

_GLASS = (52, 62, 72)
_TYRE = (26, 26, 28)
_PAINTS: tuple[Color, ...] = (
    (225, 225, 222), (182, 184, 187), (128, 130, 133), (78, 80, 84), (36, 37, 40),
    (150, 32, 32), (38, 62, 120), (92, 116, 150), (60, 82, 62), (176, 160, 128), (196, 150, 50),
)  # fmt: skip
_LIVERIES: tuple[Color, ...] = (
    (196, 40, 38), (228, 190, 62), (232, 230, 220), (44, 92, 150), (70, 132, 84), (160, 164, 170),
    (206, 120, 44),
)  # fmt: skip
_CLOTHES: tuple[Color, ...] = (
    (40, 44, 58), (70, 74, 80), (150, 40, 44), (48, 80, 130), (200, 196, 186), (92, 70, 52),
    (66, 92, 70), (190, 150, 70), (120, 60, 110),
)  # fmt: skip
_SKIN: tuple[Color, ...] = ((224, 182, 150), (190, 140, 105), (120, 82, 60))
_LEAVES: tuple[Color, ...] = (
    (66, 96, 48), (84, 112, 52), (52, 78, 52), (112, 116, 58), (150, 106, 52), (92, 104, 76),
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where an object stands: its middle on the ground and, in radians, where it heads.

    Heading 0 drives away from the camera, pi comes towards it, pi / 2 crosses to the right.
    """

    x: float
    z: float
    heading: float = 0.0

    def world(self, u: float, v: float, y: float) -> tuple[float, float, float]:
        """A point `u` metres ahead, `v` to the right and `y` above the ground."""
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        return (self.x + u * sin + v * cos, y, self.z + u * cos - v * sin)


@dataclass(frozen=True)
class Side:
    """A visible wall of a box: corners bottom-left, bottom-right, top-right, top-left."""

    name: str
    corners: Quad
    facing: tuple[float, float]

    def insets(self, parts: npt.ArrayLike) -> Quad:
        """Parts (n, 4) of the wall as (n, 4, 3); each is left, right, bottom, top."""
        left, right, bottom, top = np.asarray(parts, np.float64).T
        s = np.stack((left, right, right, left), axis=-1)[..., None]
        t = np.stack((bottom, bottom, top, top), axis=-1)[..., None]
        a, b, c, d = self.corners
        corners: Quad = (a * (1 - s) + b * s) * (1 - t) + (d * (1 - s) + c * s) * t
        return corners


def draw_box(
    canvas: Canvas,
    place: Place,
    bottom: tuple[float, float, float, float],
    top: tuple[float, float, float, float],
    color: Color,
    label: int,
) -> list[Side]:
    """Draw a box that may taper and return the walls that the camera sees.

    Args:
        canvas: What to draw on.
        place: Where it stands.
        bottom: Rear, front, half width and height above the ground of its lower face.
        top: The same of its upper face.
        color: Colour before light.
        label: Class.
    """
    rear, front, half, low = bottom
    rear2, front2, half2, high = top
    lower = [place.world(u, v, low) for u, v in _ring(rear, front, half)]
    upper = [place.world(u, v, high) for u, v in _ring(rear2, front2, half2)]
    sin, cos = math.sin(place.heading), math.cos(place.heading)
    normals = ((-sin, -cos), (cos, -sin), (sin, cos), (-cos, sin))
    seen = []
    for i, (name, facing) in enumerate(zip(_WALLS, normals, strict=True)):
        j = (i + 1) % 4
        middle_x, middle_z = (lower[i][0] + lower[j][0]) / 2, (lower[i][2] + lower[j][2]) / 2
        if facing[0] * middle_x + facing[1] * middle_z < 0:
            corners = np.array([lower[i], lower[j], upper[j], upper[i]])
            seen.append(Side(name, corners, facing))
    for side in seen:
        canvas.polygon(side.corners, color, label=label, facing=side.facing)
    if high < CAMERA_HEIGHT:
        canvas.polygon(upper, color, label=label)
    return seen


_WALLS = ("rear", "right", "front", "left")


def _ring(rear: float, front: float, half: float) -> tuple[tuple[float, float], ...]:
    return ((rear, -half), (rear, half), (front, half), (front, -half))


def vary(rng: Rng, color: Color) -> Color:
    """The colour a little lighter or darker and off its hue."""
    gain, shift = rng.uniform(0.8, 1.15), rng.integers(-12, 13, 3)
    r, g, b = (int(min(255, max(8, c * gain + s))) for c, s in zip(color, shift, strict=True))
    return (r, g, b)


# ------------------------------------------------------------------------------ vehicles


def draw_car(canvas: Canvas, rng: Rng, place: Place) -> None:
    """Draw a saloon, a hatchback or a small van: a low body, a set-back cabin, wheels."""
    length, half, height = rng.uniform(3.8, 4.8), rng.uniform(0.86, 0.95), rng.uniform(1.38, 1.6)
    paint = vary(rng, _PAINTS[rng.integers(len(_PAINTS))])
    tail, roof_rear, roof_front, hood = _CABINS[rng.integers(len(_CABINS))]
    end, waist = length / 2, rng.uniform(0.78, 0.9)
    _shadow(canvas, place, end, half)
    body = (-end, end, half, 0.24), (-end * 0.98, end * 0.96, half * 0.97, waist)
    walls = draw_box(canvas, place, *body, paint, CAR)
    for wall in walls:
        _trim(canvas, wall)
    _wheels(canvas, place, walls, (-0.31 * length, 0.31 * length), half, 0.33, CAR)
    lower = (tail * length, hood * length, half * 0.94, waist)
    upper = (roof_rear * length, roof_front * length, half * 0.74, height)
    for wall in draw_box(canvas, place, lower, upper, paint, CAR):
        panes = [(0.05, 0.95, 0.1, 0.86)]
        if wall.name in ("left", "right"):
            panes = [(0.06, 0.47, 0.1, 0.86), (0.52, 0.94, 0.1, 0.86)]
        canvas.details(wall.insets(panes), _GLASS, facing=wall.facing)


_CABINS = (
    (-0.38, -0.24, 0.06, 0.22),  # saloon
    (-0.48, -0.42, 0.04, 0.22),  # hatchback
    (-0.49, -0.47, 0.16, 0.34),  # van
)
"""Rear and front of the cabin at waist (first, last) and roof, in parts of the length."""


def _trim(canvas: Canvas, wall: Side) -> None:
    """Lamps, plate and bumper of a car's ends, the sill of its sides."""
    if wall.name in ("left", "right"):
        canvas.details(wall.insets([(0.0, 1.0, 0.0, 0.14)]), (40, 40, 42))
        return
    lamps = (232, 228, 205) if wall.name == "front" else (190, 26, 24)
    canvas.details(wall.insets([(0.04, 0.22, 0.55, 0.85), (0.78, 0.96, 0.55, 0.85)]), lamps)
    canvas.details(wall.insets([(0.0, 1.0, 0.0, 0.2)]), (44, 44, 46))
    canvas.details(wall.insets([(0.38, 0.62, 0.28, 0.48)]), (222, 222, 210))


def draw_bus(canvas: Canvas, rng: Rng, place: Place) -> None:
    """Draw a city bus: one tall box with a band of windows, sometimes with a second deck."""
    length, half = rng.uniform(9.0, 12.0), 1.26
    decks = 2 if rng.random() < 0.2 else 1
    height = rng.uniform(3.0, 3.3) + 1.15 * (decks - 1)
    paint = vary(rng, _LIVERIES[rng.integers(len(_LIVERIES))])
    stripe = _LIVERIES[rng.integers(len(_LIVERIES))]
    end = length / 2
    _shadow(canvas, place, end, half)
    body = (-end, end, half, 0.34), (-end, end, half * 0.98, height)
    walls = draw_box(canvas, place, *body, paint, BUS)
    for wall in walls:
        (_bus_side if wall.name in ("left", "right") else _bus_end)(canvas, wall, decks, stripe)
    _wheels(canvas, place, walls, (-0.26 * length, 0.3 * length), half, 0.48, BUS)


def _bus_side(canvas: Canvas, wall: Side, decks: int, stripe: Color) -> None:
    count = 8
    edges = 0.03 + 0.94 * np.arange(count) / count
    canvas.details(wall.insets([(0.0, 1.0, 0.0, 0.06)]), (40, 40, 42))
    canvas.details(wall.insets([(0.0, 1.0, 0.14, 0.24)]), stripe, facing=wall.facing)
    for bottom, top in ((0.42, 0.8),) if decks == 1 else ((0.3, 0.52), (0.66, 0.88)):
        panes = [(e, e + 0.94 / count * 0.88, bottom, top) for e in edges]
        canvas.details(wall.insets(panes), _GLASS, facing=wall.facing)
    if wall.name == "right":
        doors = [(0.05, 0.13, 0.05, 0.5), (0.48, 0.57, 0.05, 0.5)]
        canvas.details(wall.insets(doors), (70, 78, 84), facing=wall.facing)


def _bus_end(canvas: Canvas, wall: Side, decks: int, stripe: Color) -> None:
    top = 0.84 if decks == 1 else 0.56
    bottom = 0.36 if wall.name == "front" else 0.5
    canvas.details(wall.insets([(0.0, 1.0, 0.0, 0.08)]), (40, 40, 42))
    canvas.details(wall.insets([(0.0, 1.0, 0.1, 0.18)]), stripe, facing=wall.facing)
    canvas.details(wall.insets([(0.06, 0.94, bottom, top)]), _GLASS, facing=wall.facing)
    if decks == 2:
        canvas.details(wall.insets([(0.06, 0.94, 0.68, 0.9)]), _GLASS, facing=wall.facing)
    canvas.details(wall.insets([(0.22, 0.78, top + 0.03, top + 0.09)]), (228, 150, 40))
    lamps = (232, 228, 205) if wall.name == "front" else (190, 26, 24)
    canvas.details(wall.insets([(0.05, 0.18, 0.2, 0.27), (0.82, 0.95, 0.2, 0.27)]), lamps)


def _wheels(
    canvas: Canvas,
    place: Place,
    walls: list[Side],
    at: tuple[float, float],
    half: float,
    radius: float,
    label: int,
) -> None:
    for wall in walls:
        if wall.name not in ("left", "right"):
            continue
        v = half * (1.01 if wall.name == "right" else -1.01)
        for u in at:
            canvas.polygon(_disc(place, u, v, radius, radius), _TYRE, label=label)
            canvas.details([_disc(place, u, v, radius, radius * 0.55)], (130, 132, 136))


def _disc(place: Place, u: float, v: float, y: float, radius: float) -> Quad:
    """A 12-sided wheel (12, 3) in the vertical plane along the heading."""
    return np.array([place.world(u + radius * c, v, y + radius * s) for c, s in _TURN])


_TURN = [(math.cos(i * math.pi / 6), math.sin(i * math.pi / 6)) for i in range(12)]


def _shadow(canvas: Canvas, place: Place, end: float, half: float) -> None:
    ring = _ring(-end - 0.1, end + 0.1, half + 0.12)
    canvas.polygon([place.world(u, v, 0.0) for u, v in ring], (34, 34, 37))


# ------------------------------------------------------------------------------ people


def draw_person(canvas: Canvas, rng: Rng, place: Place) -> None:
    """Draw somebody who walks or stands, facing the camera plane."""
    h, stride = rng.uniform(1.5, 1.9), rng.uniform(0.03, 0.32)
    coat, trousers = (vary(rng, _CLOTHES[i]) for i in rng.integers(len(_CLOTHES), size=2))
    skin = _SKIN[rng.integers(len(_SKIN))]
    wide = rng.uniform(0.2, 0.27)
    for foot in (-stride, stride):
        leg = [(foot - 0.08, 0.0), (foot + 0.09, 0.0), (0.13, 0.5 * h), (-0.13, 0.5 * h)]
        _billboard(canvas, place, leg, trousers, PERSON)
    for arm in (-1, 1):
        hand = arm * (wide + 0.5 * stride)
        limb = [(arm * wide * 0.7, 0.82 * h), (arm * wide, 0.8 * h), (hand + 0.05, 0.47 * h)]
        _billboard(canvas, place, [*limb, (hand - 0.06, 0.47 * h)], coat, PERSON)
    torso = [(-0.8 * wide, 0.44 * h), (0.8 * wide, 0.44 * h), (wide, 0.83 * h), (-wide, 0.83 * h)]
    _billboard(canvas, place, torso, coat, PERSON)
    canvas.ball((place.x, 0.92 * h, place.z), 0.075 * h, skin, label=PERSON)


def draw_bicycle(canvas: Canvas, rng: Rng, place: Place) -> None:
    """Draw a parked bicycle; its wheels are labelled as full discs."""
    frame = vary(rng, _PAINTS[rng.integers(len(_PAINTS))])
    for u in (-0.53, 0.53):
        wheel = _disc(place, u, 0.0, 0.35, 0.35)
        canvas.polygon(wheel, (84, 84, 86), label=BICYCLE)
        canvas.details([_disc(place, u, 0.0, 0.35, 0.27)], (120, 120, 122))
        canvas.outline(wheel, _TYRE, 0.05)
    for tube in _TUBES:
        canvas.polygon([place.world(u, 0.0, y) for u, y in tube], frame, label=BICYCLE)


def draw_cyclist(canvas: Canvas, rng: Rng, place: Place) -> None:
    """Draw a bicycle and the person who rides it."""
    draw_bicycle(canvas, rng, place)
    coat, trousers = (vary(rng, _CLOTHES[i]) for i in rng.integers(len(_CLOTHES), size=2))
    skin = _SKIN[rng.integers(len(_SKIN))]
    for part, color in ((_THIGH, trousers), (_SHIN, trousers), (_BACK, coat), (_ARM, coat)):
        canvas.polygon([place.world(u, 0.0, y) for u, y in part], color, label=PERSON)
        # Seen from behind the plane above is a line: a second one gives the body its width.
        wide = [(v * 0.2, y) for v, (_, y) in zip((-1, 1, 1, -1), part, strict=True)]
        _billboard(canvas, place, wide, color, PERSON)
    canvas.ball(place.world(0.1, 0.0, 1.68), 0.13, skin, label=PERSON)


_TUBES = (
    ((-0.53, 0.31), (-0.53, 0.4), (-0.08, 0.36), (-0.08, 0.27)),
    ((-0.56, 0.33), (-0.48, 0.4), (-0.12, 0.82), (-0.2, 0.8)),
    ((-0.1, 0.28), (0.0, 0.3), (0.4, 0.84), (0.32, 0.88)),
    ((-0.14, 0.76), (-0.14, 0.86), (0.36, 0.9), (0.36, 0.8)),
    ((0.5, 0.33), (0.58, 0.37), (0.4, 1.02), (0.32, 1.0)),
    ((-0.3, 0.9), (-0.3, 0.98), (0.0, 0.98), (0.0, 0.9)),
)
_BACK = ((-0.28, 0.92), (0.0, 0.92), (0.24, 1.52), (-0.04, 1.58))
_ARM = ((0.0, 1.42), (0.1, 1.5), (0.46, 1.06), (0.38, 1.0))
_THIGH = ((-0.22, 0.84), (-0.16, 1.0), (0.24, 0.84), (0.18, 0.7))
_SHIN = ((0.1, 0.8), (0.24, 0.82), (0.1, 0.3), (-0.04, 0.3))


def _billboard(
    canvas: Canvas, place: Place, outline: list[tuple[float, float]], color: Color, label: int
) -> None:
    points = [(place.x + x, y, place.z) for x, y in outline]
    canvas.polygon(points, color, label=label)


# ------------------------------------------------------------------------------ street furniture


def draw_tree(canvas: Canvas, rng: Rng, place: Place) -> None:
    """Draw a tree: a stem and a crown."""
    middle, trunk = rng.uniform(3.6, 5.5), rng.uniform(0.1, 0.2)
    stem = [(-trunk, 0.0), (trunk, 0.0), (0.7 * trunk, middle), (-0.7 * trunk, middle)]
    _billboard(canvas, place, stem, (78, 66, 54), TREE)
    _leaves(canvas, rng, place, middle, rng.uniform(1.2, 2.1))


def draw_bush(canvas: Canvas, rng: Rng, place: Place) -> None:
    """Draw a bush: leaves down to the ground."""
    _leaves(canvas, rng, place, 0.5, rng.uniform(0.6, 0.9))


def _leaves(canvas: Canvas, rng: Rng, place: Place, middle: float, spread: float) -> None:
    """A cloud of leaf-coloured balls, dark below, light above."""
    color = vary(rng, _LEAVES[rng.integers(len(_LEAVES))])
    offsets, sizes = rng.uniform(-1, 1, (16, 2)), rng.uniform(0.35, 0.65, 16)
    for (dx, dy), size in zip(offsets[np.argsort(offsets[:, 1])], sizes, strict=True):
        at = (place.x + dx * spread, middle + 0.9 * dy * spread, place.z)
        shaded = tuple(c * (0.78 + 0.3 * dy) for c in color)
        canvas.ball(at, size * spread, shaded, label=TREE)


def draw_pole(canvas: Canvas, rng: Rng, place: Place) -> None:
    """Draw a street lamp; its arm reaches to the side the place heads to."""
    high, half = rng.uniform(4.5, 8.0), rng.uniform(0.08, 0.13)
    grey = _grey(rng, 55, 150)
    reach = math.copysign(rng.uniform(0.8, 2.0), place.heading)
    _billboard(canvas, place, _bar(-half, half, 0.0, high), grey, POLE)
    _billboard(canvas, place, _bar(0.0, reach, high - 0.12, high + 0.04), grey, POLE)
    _billboard(canvas, place, _bar(reach * 0.6, reach, high - 0.2, high), (200, 198, 180), POLE)


def draw_sign(canvas: Canvas, rng: Rng, place: Place) -> None:
    """Draw a traffic sign on its pole: round, triangular, square or a board."""
    grey, low = _grey(rng, 90, 160), rng.uniform(2.0, 2.7)
    radius, kind = rng.uniform(0.38, 0.55), rng.integers(len(_SIGNS))
    corners, border, inside, within = _SIGNS[kind]
    _billboard(canvas, place, _bar(-0.06, 0.06, 0.0, low + radius), grey, POLE)
    for scale, color in ((1.0, border), (within, inside)):
        outline = [(scale * radius * x, low + radius + scale * radius * y) for x, y in corners]
        _billboard(canvas, place, outline, color, SIGN)


def _regular(corners: int, first: float) -> tuple[tuple[float, float], ...]:
    angles = (first + 2 * math.pi * i / corners for i in range(corners))
    return tuple((math.cos(a), math.sin(a)) for a in angles)


_SIGNS: tuple[tuple[tuple[tuple[float, float], ...], Color, Color, float], ...] = (
    (_regular(14, 0.0), (188, 30, 34), (236, 234, 230), 0.68),
    (_regular(14, 0.0), (34, 78, 160), (40, 90, 180), 0.8),
    (_regular(3, math.pi / 2), (188, 30, 34), (236, 234, 230), 0.55),
    (_regular(8, math.pi / 8), (180, 26, 30), (200, 50, 50), 0.8),
    (_regular(4, math.pi / 4), (36, 84, 168), (226, 228, 232), 0.5),
    (((-1.6, -0.7), (1.6, -0.7), (1.6, 0.9), (-1.6, 0.9)), (40, 84, 150), (210, 214, 220), 0.4),
    (_regular(4, 0.0), (236, 232, 220), (224, 176, 40), 0.7),
)
"""Outline, colour of the border, colour inside, and how far the inside reaches."""


def _bar(left: float, right: float, bottom: float, top: float) -> list[tuple[float, float]]:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def _grey(rng: Rng, low: int, high: int) -> Color:
    value = int(rng.integers(low, high))
    return (value, value, value + 4)
