"""The pixels that are compared: a mask's own, the published central crop, or a size asked for.

Rules: image and mask always share one geometry; the network sees the image of the grid, brought to
its own size where that differs, and its ids come back to the grid by nearest neighbour; a mask is
never interpolated.

    grid = load_grid("center512")
    image, mask = grid.place(image, mask)         # both 512 x 512
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edgeinc.config import parse_size
from edgeinc.data import Image, Mask
from edgeinc.data._augment import resize
from edgeinc.errors import UsageError
from edgeinc.schema import Size

__all__ = ["Grid", "load_grid"]

FULL = "every mask's own size, predictions resized to it by nearest neighbour"
CENTER = (
    "the central 512x512 of image and mask, their shorter side brought to 512 first, "
    "predictions resized to it by nearest neighbour"
)
FIXED = "{}x{}, to which image and mask are resized, and predictions by nearest neighbour"
_SIDE = 512
_MAX_PIXELS = 1 << 28


@dataclass(frozen=True)
class Grid:
    """Where pixels are compared.

    Attributes:
        words: Which pixels these are, as a score says it.
        place: Image (H, W, 3) and mask (H, W) as they are on the grid.
    """

    words: str
    place: Callable[[Image, Mask], tuple[Image, Mask]]


def load_grid(text: str) -> Grid:
    """The grid of that name.

    Args:
        text: `full`, `center512`, or HxW.

    Raises:
        UsageError: None of these, or more pixels than a mask may have.
    """
    if text == "full":
        return Grid(FULL, lambda image, mask: (image, mask))
    if text == "center512":
        return Grid(CENTER, _center)
    try:
        size = parse_size(text)
    except UsageError as err:
        raise UsageError(
            f"cannot read evaluation size '{text}'",
            hint="write full, center512, or height x width: 512x1024",
        ) from err
    if size[0] * size[1] > _MAX_PIXELS:
        raise UsageError(f"{text} has too many pixels", hint=f"at most {_MAX_PIXELS}")
    return Grid(FIXED.format(*size), partial(resize, size=size))


def _center(image: Image, mask: Mask) -> tuple[Image, Mask]:
    """Shorter side to 512 and the middle cut out, rounded as torchvision's transforms do."""
    height, width = mask.shape
    long = int(_SIDE * max(height, width) / min(height, width))
    size: Size = (_SIDE, long) if height <= width else (long, _SIDE)
    image, mask = resize(image, mask, size)
    top, left = (round((side - _SIDE) / 2) for side in size)
    part = (slice(top, top + _SIDE), slice(left, left + _SIDE))
    return image[part], mask[part]
