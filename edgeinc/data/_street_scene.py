"""A synthetic street from front to back: sky, houses, ground, and what stands on it.

Rules: geometry comes from one random stream and pixel noise from another, so a seed is the same
scene at every size; streets are right-hand traffic and every second one is mirrored at the end.

    image, mask = render(7, (128, 160))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeinc.data import _street_objects as objects
from edgeinc.data._street_canvas import Canvas, Light
from edgeinc.data._street_objects import Place, Rng
from edgeinc.schema import VOID, Color, Size

Pixels = npt.NDArray[np.uint8]

_NEAR_M, _FAR_M = 1.2, 110.0
_WALLS: tuple[Color, ...] = (
    (150, 140, 128), (172, 156, 132), (136, 92, 76), (118, 118, 120), (196, 188, 172),
    (158, 116, 92), (96, 92, 92), (188, 164, 120), (140, 148, 156),
)  # fmt: skip
_GRAIN = {
    objects.ROAD: (5, 5), objects.SIDEWALK: (7, 6), objects.BUILDING: (7, 7),
    objects.SKY: (2, 3), objects.TREE: (17, 22), VOID: (2, 2),
}  # fmt: skip
"""Class -> strength of fine and of coarse texture; (4, 3) for every other class."""


@dataclass(frozen=True)
class Street:
    """The ground plan in metres; the camera is at x = 0, between the two edges of the road."""

    left: float
    right: float
    walk_left: float
    walk_right: float

    @property
    def oncoming(self) -> float:
        """Middle of the lane that comes towards the camera."""
        return self.left + self.right


def render(seed: int, size: Size) -> tuple[Pixels, Pixels]:
    """Draw one scene.

    Args:
        seed: Not negative; the same seed and size give the same bytes.
        size: (height, width) in pixels.

    Returns:
        The picture (H, W, 3) and its mask (H, W).
    """
    rng = np.random.default_rng([seed, 0])
    grain = np.random.default_rng([seed, 1])
    street = Street(
        left=-rng.uniform(6.4, 8.0),
        right=rng.uniform(2.9, 4.2),
        walk_left=rng.uniform(1.8, 4.0),
        walk_right=rng.uniform(1.8, 4.0),
    )
    canvas = Canvas(
        size, horizon=rng.uniform(0.42, 0.56), center=rng.uniform(0.36, 0.64), light=_light(rng)
    )
    _sky(canvas, rng)
    _ground(canvas, rng, street)
    _shade_ground(canvas, rng, street)
    _houses(canvas, rng, street)
    _objects(canvas, rng, street)
    _hood(canvas, rng)
    image = _photograph(canvas, rng, grain)
    mask = canvas.mask
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _light(rng: Rng) -> Light:
    angle, day, warmth = rng.uniform(0, 2 * math.pi), rng.uniform(0.72, 1.15), rng.uniform(-1, 1)
    gray = rng.uniform(150, 225) * min(1.0, day)
    return Light(
        sun=(math.cos(angle), math.sin(angle)),
        strength=rng.uniform(0, 1) ** 0.7,
        tint=(day * (1 + 0.09 * warmth), day, day * (1 - 0.11 * warmth)),
        haze=(gray, gray + 3, gray + 9),
        visibility_m=rng.uniform(100, 300),
    )


# ------------------------------------------------------------------------------ backdrop


def _sky(canvas: Canvas, rng: Rng) -> None:
    """Sky from zenith to haze with clouds, and far roofs and trees that close the street."""
    height, width = canvas.mask.shape
    zenith = np.array(((104, 148, 206), (150, 170, 196), (172, 176, 182))[rng.integers(3)])
    zenith = zenith * canvas.light.tint
    down = np.clip(np.arange(height) / max(1.0, canvas.horizon), 0, 1)[:, None] ** 0.8
    column = zenith * (1 - down) + np.array(canvas.light.haze) * down
    clouds = rng.integers(0, 256, (5, 8), np.uint8)
    soft = cv2.resize(clouds, (width, height), interpolation=cv2.INTER_LINEAR_EXACT).astype(
        np.float32
    )
    lift = np.maximum(soft - 140, 0) * np.float32(rng.uniform(0, 0.48))
    picture = column.astype(np.float32)[:, None] + lift[..., None]
    canvas.image[:] = np.minimum(picture, 255)
    _, ground = canvas.project((0.0, 0.0, _FAR_M))
    canvas.mask[: math.ceil(ground) + 1] = objects.SKY
    x = -70.0
    while x < 70:
        wide, high, tree = rng.uniform(5, 14), rng.uniform(3, 15), rng.random() < 0.4
        wall = _WALLS[rng.integers(len(_WALLS))]
        z = _FAR_M
        if tree:
            for step in (0.2, 0.5, 0.8):
                at = (x + step * wide, 0.3 * high, z)
                canvas.ball(at, 0.35 * high, (70, 92, 58), label=objects.TREE)
        else:
            roof = [(x, 0, z), (x + wide, 0, z), (x + wide, high, z), (x, high, z)]
            canvas.polygon(roof, wall, label=objects.BUILDING)
        x += wide * rng.uniform(0.7, 1.1)


def _ground(canvas: Canvas, rng: Rng, street: Street) -> None:
    """Pavement from side to side, the road on it, kerbs and lane markings."""
    paving = ((150, 146, 140), (128, 128, 130), (164, 148, 128), (142, 118, 106))[rng.integers(4)]
    value, blue = int(rng.integers(78, 128)), int(rng.integers(0, 6))
    asphalt = (value, value, value + blue)
    # The far end of every strip would be one flat colour: haze is laid on in bands.
    for far, near in _bands():
        _strip(canvas, -120, 120, near, far, paving, objects.SIDEWALK)
        _strip(canvas, street.left, street.right, near, far, asphalt, objects.ROAD)
        for edge in (street.left, street.right):
            _strip(canvas, edge - 0.12, edge + 0.12, near, far, (170, 168, 164), None)
    paint, dash = (214, 212, 204), rng.uniform(2.5, 4.0)
    middle = (street.left + street.right) / 2 + rng.uniform(-0.2, 0.2)
    z = rng.uniform(2.0, 6.0)
    while z < 60:
        _strip(canvas, middle - 0.08, middle + 0.08, z, z + dash, paint, None)
        z += 2.2 * dash
    crossing, bars = rng.uniform(6, 22), rng.random() < 0.25
    if bars:
        for x in np.arange(street.left + 0.4, street.right - 0.5, 1.1):
            _strip(canvas, x, x + 0.55, crossing, crossing + 3, paint, None)


def _bands() -> list[tuple[float, float]]:
    edges = (_NEAR_M, 6.0, 10.0, 16.0, 26.0, 42.0, 70.0, _FAR_M)
    return [(far, near) for near, far in pairwise(edges)][::-1]


def _strip(
    canvas: Canvas,
    left: float,
    right: float,
    near: float,
    far: float,
    color: Color,
    label: int | None,
) -> None:
    corners = [(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)]
    canvas.polygon(corners, color, label=label)


def _shade_ground(canvas: Canvas, rng: Rng, street: Street) -> None:
    """Darken the ground where houses and trees out of sight throw their shadows."""
    darkness = np.full(canvas.mask.shape, 255, np.uint8)
    depth = int(255 * (1 - 0.5 * canvas.light.strength))
    side = 1 if canvas.light.sun[0] > 0 else -1
    for _ in range(int(rng.integers(1, 5))):
        near = rng.uniform(2, 40)
        far = near + rng.uniform(2, 14)
        reach = rng.uniform(0.2, 1.0)
        edge = street.right + 6 if side > 0 else street.left - 6
        inner = edge - side * reach * (street.right - street.left + 6)
        corners = [(edge, 0, near), (inner, 0, near + 1), (inner, 0, far + 1), (edge, 0, far)]
        pixels = np.rint(np.clip(canvas.project(corners), -8e3, 8e3)).astype(np.int32)
        cv2.fillPoly(darkness, [pixels], (depth,))
    darkness[canvas.mask == objects.SKY] = 255
    soft = cv2.blur(darkness, (3, 3))
    canvas.image[:] = cv2.multiply(canvas.image, cv2.merge([soft] * 3), scale=1 / 255)


# ------------------------------------------------------------------------------ houses


def _houses(canvas: Canvas, rng: Rng, street: Street) -> None:
    """Rows of houses on both sides with gaps, the far ones first."""
    for side in (-1, 1):
        base = street.right + street.walk_right if side > 0 else street.left - street.walk_left
        row, z = [], rng.uniform(-4, 6)
        while z < 95:
            long, high = rng.uniform(8, 22), rng.uniform(5, 17)
            gap = rng.uniform(4, 12) if rng.random() < 0.35 else 0.0
            wall = objects.vary(rng, _WALLS[rng.integers(len(_WALLS))])
            row.append((z, z + long, base + side * rng.uniform(0, 1.2), high, wall))
            z += long + gap
        style = rng.uniform(0.35, 0.65, (len(row), 2))
        for (near, far, x, high, wall), windows in [*zip(row, style.tolist(), strict=True)][::-1]:
            _house(canvas, side, (max(near, _NEAR_M), far), x, high, wall, windows)


def _house(
    canvas: Canvas,
    side: int,
    reach: tuple[float, float],
    x: float,
    high: float,
    wall: Color,
    windows: list[float],
) -> None:
    """One house: the wall along the street, and the wall across that faces the camera."""
    near, far = reach
    if far <= near:
        return
    deep = x + side * 10
    across = np.array([(x, 0, near), (deep, 0, near), (deep, high, near), (x, high, near)], float)
    along = np.array([(x, 0, near), (x, 0, far), (x, high, far), (x, high, near)], float)
    for corners, facing, span in ((across, (0.0, -1.0), 10.0), (along, (-side, 0.0), far - near)):
        canvas.polygon(corners, wall, label=objects.BUILDING, facing=facing)
        columns, floors = max(1, int(span / 2.4)), max(1, int(high / 3.0))
        width, height = windows
        left = (np.arange(columns) + 0.5 - width / 2) / columns
        low = (np.arange(floors) + 0.5 - height / 2) / floors
        s, t = (a.ravel() for a in np.meshgrid(left, low))
        parts = np.stack((s, s + width / columns, t, t + height / floors), axis=-1)
        glass = (74, 82, 92) if sum(wall) > 300 else (140, 148, 152)
        panes = objects.Side("wall", corners, facing).insets(parts)
        canvas.details(panes, glass, facing=facing)


# ------------------------------------------------------------------------------ objects


Planned = tuple[Place, Callable[[Canvas, Rng, Place], None]]
"""A place and what is drawn there."""


def _objects(canvas: Canvas, rng: Rng, street: Street) -> None:
    """Everything that stands or drives, the farthest first."""
    planned = [*_traffic(rng, street), *_roadside(rng, street)]
    for place, draw in sorted(planned, key=lambda item: -item[0].z):
        draw(canvas, rng, place)


def _traffic(rng: Rng, street: Street) -> list[Planned]:
    """Vehicles in their lanes and at the kerbs, far enough apart not to run into each other."""
    lanes = (  # middle, heading, nearest end, whether vehicles turn there
        (0.0, 0.0, 7.0, True),
        (street.oncoming, math.pi, 5.5, True),
        (street.right - 1.05, 0.0, 5.0, False),
        (street.left + 1.05, math.pi, 5.0, False),
    )
    taken: list[list[tuple[float, float]]] = [[] for _ in lanes]
    planned: list[Planned] = []
    buses = int(rng.random() < 0.42) + int(rng.random() < 0.12)
    cars = 0 if rng.random() < 0.2 else int(rng.integers(1, 7))
    for bus in [True] * buses + [False] * cars:
        lane = int(rng.integers(len(lanes)))
        x, heading, nearest, turns = lanes[lane]
        turned = turns and rng.random() < 0.15
        half = (2.2 if bus else 1.6) if turned else (6.2 if bus else 2.6)
        z = nearest + half + 26 * rng.random() ** 2.0 + (6.0 if bus and turned else 0.0)
        heading += rng.uniform(1.2, 1.9) if turned else rng.normal(0, 0.04)
        x += rng.uniform(-0.2, 0.2)
        if any(z - half < b and z + half > a for a, b in taken[lane]):
            continue
        taken[lane].append((z - half, z + half))
        planned.append((Place(x, z, heading), objects.draw_bus if bus else objects.draw_car))
    return planned


def _roadside(rng: Rng, street: Street) -> list[Planned]:
    """Trees, lamps, signs, people and bicycles along both kerbs; some cross the road."""
    planned: list[Planned] = []
    for draw, likely, most, inset, spread, near in _ROADSIDE:
        for _ in range(int(rng.integers(1, most + 1)) if rng.random() < likely else 0):
            side = 1 if rng.random() < 0.5 else -1
            edge = street.right if side > 0 else street.left
            x = edge + side * (inset + spread * rng.random())
            z = near + 36 * rng.random() ** 1.5
            # What has a direction looks along the street's side towards the middle of the road.
            planned.append((Place(x, z, -side * rng.uniform(0.7, 1.9)), draw))
    return planned


_ROADSIDE = (
    # draw, probability that there is any, most of them, metres from the kerb (from, range), nearest
    (objects.draw_tree, 0.85, 6, 0.9, 2.5, 6.0),
    (objects.draw_bush, 0.8, 5, 1.2, 3.0, 6.0),
    (objects.draw_pole, 0.8, 4, 0.4, 0.3, 5.0),
    (objects.draw_sign, 0.8, 4, 0.4, 0.8, 5.0),
    (objects.draw_person, 0.87, 7, 0.5, 2.0, 5.0),
    (objects.draw_bicycle, 0.75, 3, 0.5, 1.5, 5.0),
    (objects.draw_cyclist, 0.4, 1, -1.2, 0.5, 6.0),
    (objects.draw_person, 0.25, 1, -4.0, 3.5, 7.0),
)


# ------------------------------------------------------------------------------ camera


def _hood(canvas: Canvas, rng: Rng) -> None:
    """In some recordings the hood of the own car is seen; it has no label."""
    present, level = rng.random() < 0.25, rng.uniform(0.02, 0.06)
    shade = rng.uniform(20, 90)
    if present:
        height, width = canvas.mask.shape
        x = np.linspace(-0.05, 1.05, 15)
        y = 1 - level * (1 - ((x - 0.5) / 0.62) ** 2) / 0.35
        outline = np.stack((x * width, y * height), axis=-1)
        corners = np.array([[1.05 * width, 1.2 * height], [-0.05 * width, 1.2 * height]])
        canvas.fill(np.concatenate((outline, corners)), (shade, shade, shade + 6), label=VOID)


def _photograph(canvas: Canvas, rng: Rng, grain: Rng) -> Pixels:
    """Give surfaces their texture, then blur, expose and add the noise of a sensor."""
    height, width = canvas.mask.shape
    strengths = np.tile(np.array([[4.0, 3.0]], np.float32), (256, 1))
    for label, strength in _GRAIN.items():
        strengths[label] = strength
    fine = grain.integers(-128, 128, (height, width), np.int8) / np.float32(74)
    coarse = grain.integers(0, 256, (height // 5 + 1, width // 5 + 1), np.uint8)
    # 8-bit resizing and blurring in OpenCV are exact; in float the last bit depends on the CPU.
    patches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    texture = strengths[canvas.mask, 0] * fine + strengths[canvas.mask, 1] * (
        (patches.astype(np.float32) - 128) / 74
    )
    picture = _bytes(canvas.image + texture[..., None])
    blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.35, 0.8) * max(1.0, width / 320))
    gain = rng.uniform(0.8, 1.15) * (1 + rng.uniform(-0.05, 0.05, 3))
    offset, noise = rng.uniform(-12, 14), np.float32(rng.uniform(1.5, 5.0))
    sensor = grain.integers(-128, 128, (height, width, 3), np.int8) / np.float32(74)
    return _bytes(blurred * gain.astype(np.float32) + np.float32(offset) + noise * sensor)


def _bytes(picture: npt.NDArray[Any]) -> Pixels:
    rounded: Pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return rounded
