"""A picture and its mask, drawn together from polygons in metres.

Rules: a street stands on the plane y = 0; x points right, y up, z away from the camera, which is
`CAMERA_HEIGHT` above the ground at x = z = 0. Whatever is drawn later is nearer. The picture is
anti-aliased, the mask is not: each of its pixels has exactly one label.

    canvas = Canvas((128, 160), horizon=0.42, center=0.5, light=light)
    canvas.polygon([[-1, 0, 9], [1, 0, 9], [1, 2, 9], [-1, 2, 9]], (200, 30, 30), label=CAR)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgeinc.schema import VOID, Color, Size

CAMERA_HEIGHT = 1.8
Points = npt.ArrayLike
Rgb = tuple[float, float, float]

_SHIFT = 4
"""Fractional bits of the coordinates OpenCV is given: sixteenths of a pixel."""


@dataclass(frozen=True)
class Light:
    """The light of a scene.

    Attributes:
        sun: Horizontal direction (x, z) towards the sun, unit length.
        strength: 0 overcast, 1 bright sun.
        tint: Gain of red, green and blue.
        haze: Colour that far things fade into.
        visibility_m: Distance at which 63 % of a colour is haze.
    """

    sun: tuple[float, float]
    strength: float
    tint: Rgb
    haze: Rgb
    visibility_m: float

    def on(self, color: Rgb | Color, z: float, facing: tuple[float, float] | None = None) -> Rgb:
        """The colour as the camera sees it at distance `z`.

        Args:
            color: Colour of the surface.
            z: Distance in metres.
            facing: Horizontal unit normal of a wall; None for anything else, lit from above.
        """
        shade = 1.0
        if facing is not None:
            toward = facing[0] * self.sun[0] + facing[1] * self.sun[1]
            shade = 0.78 + self.strength * 0.3 * toward
        clear = math.exp(-z / self.visibility_m)
        r, g, b = (
            min(255.0, c * shade * t) * clear + h * (1 - clear)
            for c, t, h in zip(color, self.tint, self.haze, strict=True)
        )
        return (r, g, b)


class Canvas:
    """A picture and its mask, filled from back to front."""

    def __init__(self, size: Size, *, horizon: float, center: float, light: Light) -> None:
        """Start with an empty picture whose mask is void.

        Args:
            size: (height, width) in pixels.
            horizon: Height of the horizon from the top, as a part of the height.
            center: Vanishing point from the left, as a part of the width.
            light: Light of the scene.
        """
        height, width = size
        self.image = np.zeros((height, width, 3), np.uint8)
        self.mask = np.full((height, width), VOID, np.uint8)
        self.light = light
        self.horizon = horizon * height
        self.center = center * width
        self.focal = 1.12 * max(width, 1.2 * height)

    def project(self, points: Points) -> npt.NDArray[np.float64]:
        """Pixels (..., 2) as (x, y) of points (..., 3) in metres; all must have z > 0."""
        p = np.asarray(points, np.float64)
        scale = self.focal / p[..., 2]
        pixels = np.empty((*p.shape[:-1], 2))
        pixels[..., 0] = self.center + p[..., 0] * scale
        pixels[..., 1] = self.horizon + (CAMERA_HEIGHT - p[..., 1]) * scale
        return pixels

    def polygon(
        self,
        points: Points,
        color: Rgb | Color,
        *,
        label: int | None = None,
        facing: tuple[float, float] | None = None,
    ) -> None:
        """Fill one flat polygon (n, 3); without a label only the picture changes."""
        corners = np.asarray(points, np.float64)
        z = float(corners[:, 2].sum()) / len(corners)
        self.fill(self.project(corners), self.light.on(color, z, facing), label=label)

    def details(
        self, polygons: Points, color: Rgb | Color, *, facing: tuple[float, float] | None = None
    ) -> None:
        """Fill many polygons (n, k, 3) that do not overlap, such as windows, in the picture."""
        corners = np.asarray(polygons, np.float64)
        if corners.size:
            fixed = _fixed(self.project(corners))
            seen = self.light.on(color, float(corners[..., 2].mean()), facing)
            cv2.fillPoly(self.image, list(fixed), seen, cv2.LINE_AA, _SHIFT)

    def fill(self, pixels: Points, color: Rgb, *, label: int | None = None) -> None:
        """Fill a polygon (n, 2) given in pixels with a colour that is final."""
        fixed = _fixed(np.asarray(pixels, np.float64))
        cv2.fillPoly(self.image, [fixed], color, cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.fillPoly(self.mask, [fixed], label, cv2.LINE_8, _SHIFT)

    def ball(self, at: Sequence[float], radius_m: float, color: Rgb | Color, *, label: int) -> None:
        """Fill the disc that a ball around a point (3,) covers."""
        z = float(at[2])
        scale = self.focal / z
        x, y = self.center + at[0] * scale, self.horizon + (CAMERA_HEIGHT - at[1]) * scale
        fixed = (round(x * 2**_SHIFT), round(y * 2**_SHIFT))
        radius = round(radius_m * scale * 2**_SHIFT)
        cv2.circle(self.image, fixed, radius, self.light.on(color, z), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(self.mask, fixed, radius, (label,), -1, cv2.LINE_8, _SHIFT)

    def outline(self, points: Points, color: Rgb | Color, width_m: float) -> None:
        """Draw the closed outline of a polygon (n, 3) in the picture."""
        z = float(np.mean(np.asarray(points)[:, 2]))
        thickness = max(1, round(width_m * self.focal / z))
        fixed = _fixed(self.project(points))
        seen = self.light.on(color, z)
        cv2.polylines(self.image, [fixed], True, seen, thickness, cv2.LINE_AA, _SHIFT)


def _fixed(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    # Far outside the picture nothing is seen, and OpenCV's 32-bit edges must not overflow.
    fixed: npt.NDArray[np.float64] = np.rint(pixels * 2**_SHIFT)
    return np.minimum(np.maximum(fixed, -(2.0**17)), 2.0**17).astype(np.int32, copy=False)
