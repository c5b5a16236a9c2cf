"""Colours for classes that come without any: the palette of Pascal VOC.

palette_color(1)                             # (128, 0, 0)
palette_labels(("background", "person"))     # labels 0 and 1
"""

from __future__ import annotations

from collections.abc import Iterable

from edgeinc.data import Label
from edgeinc.schema import Color

__all__ = ["palette_color", "palette_labels"]


def palette_color(index: int) -> Color:
    """The colour of a class: its bits are dealt to red, green and blue, highest bit first.

    Source: the colour map of the Pascal VOC development kit.

    Args:
        index: 0 to 255; every index has a colour of its own, and 0 is black.
    """
    channels = [0, 0, 0]
    for place in range(8):
        channels[place % 3] |= (index >> place & 1) << (7 - place // 3)
    red, green, blue = channels
    return red, green, blue


def palette_labels(names: Iterable[str]) -> tuple[Label, ...]:
    """Labels 0, 1, ... of these names in the colours of the palette."""
    return tuple(Label(i, name, palette_color(i)) for i, name in enumerate(names))
