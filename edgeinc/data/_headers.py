"""What an image file says of itself before its pixels are decoded: size, orientation, end.

Rules: a file is judged by its content, never by its ending; sizes are refused before memory is
taken for them; a file that ends early is refused, because some decoders fill the rest with grey;
a camera's orientation tag is applied the same way in JPEG, PNG and WebP.

    header = read_header(content, path)
    upright = turned(pixels, header.orientation)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edgeinc.data import _png
from edgeinc.errors import DataError, UsageError
from edgeinc.schema import Size

__all__ = ["Header", "read_header", "refuse_size", "tiff_orientation", "turned"]

LIMIT_VARIABLE = "EDGEINC_MAX_IMAGE_SIDE"
LIMIT_SIDE = 16384
LIMIT_PIXELS = 1 << 28
"""One image of so many pixels takes 0.8 GB, and a step holds several of them."""

_ORIENTATION_TAG = 0x0112
_SIZE_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        size: (height, width) as stored, before it is turned.
        orientation: The EXIF value, 1 (upright) to 8.
    """

    size: Size
    orientation: int = 1


def read_header(content: bytes, path: Path) -> Header:
    """Size and orientation of an image file.

    Raises:
        DataError: It is truncated, too large, or not PNG, JPEG, BMP or WebP.
        UsageError: The limit in the environment is not a number.
    """
    if content.startswith(_png.SIGNATURE):
        png = _png.parse(content, path)
        header = Header((png.height, png.width), tiff_orientation(png.chunk(b"eXIf")))
    elif content.startswith(b"\xff\xd8"):
        header = _jpeg(content, path)
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        header = _webp(content, path)
    elif content.startswith(b"BM"):
        header = _bmp(content, path)
    else:
        raise not_an_image(path)
    refuse_size(header.size, path)
    return header


def refuse_size(size: Size, path: Path) -> None:
    """Raise if an image is larger than the limits.

    Raises:
        DataError: A side is longer than the limit, or the pixels are too many.
        UsageError: The limit in the environment is not a number.
    """
    height, width = size
    limit = _limit()
    if not (height and width):
        raise not_an_image(path)
    if max(size) > limit:
        raise DataError(
            f"{path} claims {width} x {height} pixels, the limit is {limit} per side",
            hint=f"cut it into tiles, or raise the limit: {LIMIT_VARIABLE}={max(size)}",
        )
    if height * width > LIMIT_PIXELS:
        raise DataError(
            f"{path} claims {width} x {height} pixels, the limit is {LIMIT_PIXELS} in all",
            hint="cut it into tiles",
        )


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """The pixels (H, W, ...) as a viewer shows them, by the EXIF value; a view where it can be."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]  # type: ignore[assignment]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]  # type: ignore[assignment]
    return pixels


def tiff_orientation(block: bytes) -> int:
    """The orientation in an EXIF block; 1 where there is none or the block is not readable."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    (at,) = struct.unpack_from(f"{order}I", block, 4)
    if at + 2 > len(block):
        return 1
    (entries,) = struct.unpack_from(f"{order}H", block, at)
    for entry in range(at + 2, min(at + 2 + 12 * entries, len(block) - 11), 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", block, entry)
        if tag == _ORIENTATION_TAG:
            return value if 1 <= value <= 8 else 1
    return 1


def not_an_image(path: Path) -> DataError:
    """The error for what no decoder reads."""
    return DataError(
        f"{path} is not an image, or it is damaged",
        hint="open the file in a viewer; supported are PNG, JPEG, BMP and WebP",
    )


def _limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE) or str(LIMIT_SIDE)
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            f"{LIMIT_VARIABLE}={text} is not a number of pixels",
            hint=f"set it to {LIMIT_SIDE}, or remove it from the environment",
        )
    return int(text)


def _truncated(path: Path) -> DataError:
    return DataError(f"{path} is truncated", hint="copy the file again from its source")


def _jpeg(content: bytes, path: Path) -> Header:
    size, orientation, at = None, 1, 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        data = at + 4
        if marker == 0xDA:  # start of scan: from here on 0xFFD9 is nothing but the end
            if content.find(b"\xff\xd9", at + 2 + length) < 0:
                raise _truncated(path)
            if size is None:
                raise not_an_image(path)
            return Header(size, orientation)
        if marker in _SIZE_MARKERS and data + 5 <= len(content):
            size = struct.unpack_from(">HH", content, data + 1)
        # The first block counts: a thumbnail may bring one of its own.
        if marker == 0xE1 and orientation == 1 and content[data : data + 4] == b"Exif":
            orientation = tiff_orientation(content[data : at + 2 + length])
        # Any number of 0xFF may fill the space before a marker.
        at += 1 if marker == 0xFF else 2 + length
    raise _truncated(path)


def _webp(content: bytes, path: Path) -> Header:
    if len(content) < 8 + int.from_bytes(content[4:8], "little"):
        raise _truncated(path)
    sizes, orientation = [], 1
    for name, data in _riff_chunks(content):
        if name == b"VP8X" and len(data) >= 10:
            width, height = data[4:7], data[7:10]
            little = [int.from_bytes(side, "little") + 1 for side in (height, width)]
            sizes.append((little[0], little[1]))
        elif name == b"VP8L" and len(data) >= 5:
            bits = int.from_bytes(data[1:5], "little")
            sizes.append(((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1))
        elif name == b"VP8 " and len(data) >= 10:
            width, height = struct.unpack_from("<HH", data, 6)
            sizes.append((height & 0x3FFF, width & 0x3FFF))
        elif name == b"EXIF":
            orientation = tiff_orientation(data)
    if not sizes:
        raise not_an_image(path)
    # What the parts claim must agree; where it does not, the largest counts against the limit.
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    return Header((height, width), orientation)


def _riff_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(content):
        length = int.from_bytes(content[at + 4 : at + 8], "little")
        yield content[at : at + 4], content[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _bmp(content: bytes, path: Path) -> Header:
    if len(content) < max(26, int.from_bytes(content[2:6], "little")):
        raise _truncated(path)
    if int.from_bytes(content[14:18], "little") == 12:  # the header of OS/2
        width, height = struct.unpack_from("<HH", content, 18)
    else:
        width, height = struct.unpack_from("<ii", content, 18)  # negative: stored top to bottom
    return Header((abs(height), abs(width)))
