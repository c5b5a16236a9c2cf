"""Pictures of masks: overlays, legends and contact sheets. numpy and OpenCV only, no torch.

Rules: every picture is (H, W, 3) uint8 RGB; a palette is (256, 3) uint8, so that any mask can be
looked up in it; text is drawn only on strips that are wide enough for it, never on the pixels.

    colors = palette(table.classes)
    row = [image, overlay(image, mask, colors), colorize(mask, colors)]
    sheet = contact_sheet([row], titles=["image", "overlay", "mask"])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from edgeinc.schema import VOID, Color

__all__ = ["Picture", "colorize", "contact_sheet", "legend", "overlay", "palette", "side_by_side"]

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) RGB, or (256, 3) for a palette."""
Ids = npt.NDArray[np.uint8]

PAPER: Color = (255, 255, 255)
INK: Color = (30, 30, 30)
UNKNOWN: Color = (128, 0, 128)
"""Colour of an id that no class has; a mask that shows it is not what the table says."""
VOID_COLOR: Color = (0, 0, 0)

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SCALE = 0.5
_LINE = 24
_GAP = 6


class Colored(Protocol):
    """A class as drawing needs it: `schema.ClassInfo` and `data.Label` are both."""

    @property
    def id(self) -> int: ...

    @property
    def color(self) -> Color: ...


def palette(classes: Iterable[Colored]) -> Picture:
    """The (256, 3) lookup table of a class table: void is black, ids without a class magenta."""
    colors = np.full((256, 3), UNKNOWN, np.uint8)
    colors[VOID] = VOID_COLOR
    for entry in classes:
        colors[entry.id] = entry.color
    return colors


def colorize(ids: Ids, palette: Picture) -> Picture:
    """The mask (H, W) as a picture (H, W, 3)."""
    colored: Picture = palette[ids]
    return colored


def overlay(image: Picture, ids: Ids, palette: Picture, *, alpha: float = 0.5) -> Picture:
    """The image with the mask's colours over it; void pixels keep the image.

    Args:
        image: (H, W, 3).
        ids: (H, W), the image's height and width.
        palette: (256, 3).
        alpha: Weight of the colours, 0 to 1.

    Raises:
        ValueError: Image and mask differ in size.
    """
    if image.shape[:2] != ids.shape:
        raise ValueError(f"the image is {image.shape[:2]}, the mask {ids.shape}")
    blended = cv2.addWeighted(image, 1 - alpha, colorize(ids, palette), alpha, 0)
    return np.where((ids == VOID)[..., None], image, blended).astype(np.uint8)


def legend(names: Sequence[str], colors: Sequence[Color], *, width: int) -> Picture:
    """Names beside their colours on white, in as many rows as the width makes necessary.

    Returns:
        (rows, max(width, widest entry), 3).
    """
    swatch = _LINE - 10
    widths = [_text_width(name) + swatch + 4 * _GAP for name in names]
    width = max([width, *widths])
    placed, x, row = [], 0, 0
    for name, color, entry_width in zip(names, colors, widths, strict=True):
        if x + entry_width > width:
            x, row = 0, row + 1
        placed.append((name, color, x + _GAP, row * _LINE))
        x += entry_width
    picture = np.full((_LINE * (row + 1), width, 3), PAPER, np.uint8)
    for name, color, left, top in placed:
        box = (left, top + 5), (left + swatch, top + 5 + swatch)
        cv2.rectangle(picture, *box, color, cv2.FILLED)
        cv2.rectangle(picture, *box, INK, 1)
        _write(picture, name, left + swatch + _GAP, top)
    return picture


def side_by_side(pictures: Sequence[Picture], *, gap: int = _GAP) -> Picture:
    """Pictures from left to right on white, brought to the height of the first.

    Raises:
        ValueError: There is no picture.
    """
    if not pictures:
        raise ValueError("no picture to put side by side")
    height = pictures[0].shape[0]
    cells = [
        _scaled(p, width=max(1, round(p.shape[1] * height / p.shape[0])), height=height)
        for p in pictures
    ]
    blank = np.full((height, gap, 3), PAPER, np.uint8)
    parts = [part for cell in cells for part in (blank, cell)][1:]
    return np.concatenate(parts, axis=1)


def contact_sheet(
    rows: Sequence[Sequence[Picture]],
    *,
    titles: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    footer: Picture | None = None,
    cell_width: int = 320,
) -> Picture:
    """Rows of pictures under column titles, every picture brought to one width.

    Small pictures grow by repeating pixels (what is seen is what the network sees), large ones
    are averaged down.

    Args:
        rows: Pictures, row by row; a row may be shorter than the others.
        titles: One line above each column.
        captions: For each row the lines above its cells; "" leaves a cell without one.
        footer: A picture for the bottom, such as a `legend`; not scaled.
        cell_width: Width of a cell in pixels.

    Raises:
        ValueError: There is no picture, or the captions do not match the rows.
    """
    if not any(rows):
        raise ValueError("no picture for the sheet")
    if captions and len(captions) != len(rows):
        raise ValueError(f"captions for {len(captions)} rows, but {len(rows)} rows")
    columns = max(len(row) for row in rows)
    width = columns * (cell_width + _GAP) + _GAP
    strips = [_titles(titles, cell_width, width)] if titles else []
    for index, row in enumerate(rows):
        if captions:
            strips.append(_titles(captions[index], cell_width, width))
        strips.append(_strip(row, cell_width, width))
    if footer is not None:
        strips.append(footer)
    widest = max(strip.shape[1] for strip in strips)
    return np.concatenate([_padded(strip, widest) for strip in strips])


def _strip(row: Sequence[Picture], cell_width: int, width: int) -> Picture:
    cells = [
        _scaled(p, width=cell_width, height=max(1, round(p.shape[0] * cell_width / p.shape[1])))
        for p in row
    ]
    height = max((c.shape[0] for c in cells), default=0) + _GAP
    strip = np.full((height, width, 3), PAPER, np.uint8)
    for column, cell in enumerate(cells):
        left = _GAP + column * (cell_width + _GAP)
        strip[: cell.shape[0], left : left + cell_width] = cell
    return strip


def _titles(titles: Sequence[str], cell_width: int, width: int) -> Picture:
    strip = np.full((_LINE, width, 3), PAPER, np.uint8)
    for column, title in enumerate(titles):
        _write(strip, _fitted(title, cell_width), _GAP + column * (cell_width + _GAP), 0)
    return strip


def _fitted(text: str, width: int) -> str:
    """The text, its end cut off where it is wider than `width` pixels."""
    if _text_width(text) <= width:
        return text
    while text and _text_width(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _text_width(text: str) -> int:
    (width, _), _ = cv2.getTextSize(text, _FONT, _SCALE, 1)
    return int(width)


def _write(picture: Picture, text: str, left: int, top: int) -> None:
    """Write one line into the strip of `_LINE` pixels that begins at `top`."""
    cv2.putText(picture, text, (left, top + 17), _FONT, _SCALE, INK, 1, cv2.LINE_AA)


def _scaled(picture: Picture, *, width: int, height: int) -> Picture:
    if picture.shape[:2] == (height, width):
        return picture
    shrinks = width < picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return cv2.resize(picture, (width, height), interpolation=how).astype(np.uint8, copy=False)


def _padded(strip: Picture, width: int) -> Picture:
    missing = width - strip.shape[1]
    return np.pad(strip, ((0, 0), (0, missing), (0, 0)), constant_values=255)
