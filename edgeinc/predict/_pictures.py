"""What a network sees in one image, as a picture or as a mask file.

Rules: images are (H, W, 3) RGB uint8 of any size; whatever is drawn has the image's own pixels in
it; titles and legend stand outside of them, only a video's speed is written into a corner.

    view = see(session, image)
    content = encoded(picture(image, [view], "overlay", seen([view])), ".jpg")
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

from edgeinc import draw
from edgeinc.data import Image, Mask
from edgeinc.data._files import encode_png
from edgeinc.draw import Picture
from edgeinc.evaluation import predict_native
from edgeinc.runtimes import Session
from edgeinc.schema import Color

Save = Literal["overlay", "mask", "side-by-side"]
Entry = tuple[str, Color]
"""One line of a legend: a class's name and colour."""

_LEAST_PANEL = 360
"""Pixels a panel is wide at least: narrower ones leave no room for their title."""
_JPEG_QUALITY = 92
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class View(NamedTuple):
    """What one network sees: ids (H, W) at the image's size, and the seconds it took."""

    session: Session
    ids: Mask
    seconds: float


def see(session: Session, image: Image) -> View:
    """Segment an image of any size; the time includes resizing."""
    start = time.perf_counter()
    ids = predict_native(session, image)
    return View(session, ids, time.perf_counter() - start)


def seen(views: Iterable[View]) -> list[Entry]:
    """The classes that occur in what the networks see."""
    return _entries(
        (c.name, c.color)
        for view in views
        for c in view.session.table.classes
        if (view.ids == c.id).any()
    )


def known(sessions: Iterable[Session]) -> list[Entry]:
    """The classes of every network."""
    return _entries((c.name, c.color) for session in sessions for c in session.table.classes)


def picture(
    image: Image,
    views: Sequence[View],
    save: Save,
    legend: Sequence[Entry],
    *,
    corner: str = "",
) -> Picture:
    """The overlay over its legend, or several panels side by side under titles.

    Args:
        image: (H, W, 3).
        views: One network, or two to compare: before and after.
        save: `side-by-side` puts the image itself first.
        legend: What the legend lists.
        corner: Text for the top left corner of the last panel.
    """
    panels = [draw.overlay(image, v.ids, draw.palette(v.session.table.classes)) for v in views]
    titles = [_described(v.session) for v in views]
    if len(views) == 2:
        titles = [f"{word}: {text}" for word, text in zip(("before", "after"), titles, strict=True)]
    if corner:
        panels[-1] = stamped(panels[-1], corner)
    if save == "side-by-side":
        panels, titles = [image, *panels], ["image", *titles]
    width = image.shape[1]
    if len(panels) > 1:
        width *= -(-_LEAST_PANEL // width)  # whole multiples repeat pixels instead of mixing them
    names, colors = [name for name, _ in legend], [color for _, color in legend]
    strip = draw.legend(names, colors, width=len(panels) * width)
    if len(panels) == 1:
        return _stacked(panels[0], strip)
    return draw.contact_sheet([panels], titles=titles, footer=strip, cell_width=width)


def encoded(pixels: Picture, suffix: str) -> bytes:
    """A picture as the content of a file of that ending."""
    jpeg = suffix.lower() in (".jpg", ".jpeg")
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if jpeg else []
    _, content = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., ::-1]), options)
    return content.tobytes()


def palette_png(ids: Mask, palette: Picture) -> bytes:
    """Ids (H, W) as a PNG whose palette (256, 3) shows them in colour.

    OpenCV writes no palettes, but rows of 8-bit grey and of 8-bit palette images are stored
    alike: only the header's colour type changes, and the palette goes behind the header.
    """
    grey = encode_png(ids)
    header = grey[16:29]  # 8 bytes signature, 4 length, 4 name; 13 of data; 4 checksum
    colored = header[:9] + b"\x03" + header[10:]
    return grey[:8] + _chunk(b"IHDR", colored) + _chunk(b"PLTE", palette.tobytes()) + grey[33:]


def _chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _entries(entries: Iterable[Entry]) -> list[Entry]:
    return list(dict.fromkeys(entries))


def _described(session: Session) -> str:
    """The step, how many classes it knows, and which ones it brought."""
    table = session.table
    text = f"step {session.step}, {len(table.classes)} classes"
    if session.step:
        text += f" (+ {', '.join(c.name for c in table.of_step(session.step))})"
    return text


def _stacked(upper: Picture, lower: Picture) -> Picture:
    """One picture above the other; the narrower is continued in white."""
    width = max(upper.shape[1], lower.shape[1])
    parts = [
        np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255)
        for p in (upper, lower)
    ]
    return np.concatenate(parts)


def stamped(panel: Picture, text: str) -> Picture:
    """A copy with white text on a dark box in its top left corner."""
    scale = max(0.5, panel.shape[0] / 900)
    thickness = max(1, round(scale))
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    pad = height // 2 + 2
    stamped = panel.copy()
    cv2.rectangle(stamped, (0, 0), (width + 2 * pad, height + 2 * pad), (20, 20, 20), cv2.FILLED)
    at, white = (pad, pad + height), (255, 255, 255)
    cv2.putText(stamped, text, at, _FONT, scale, white, thickness, cv2.LINE_AA)
    return stamped
