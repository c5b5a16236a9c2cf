"""Image and mask files as numpy arrays, read strictly.

Rules: an image is RGB uint8, a mask one channel of uint8 ids; a file that ends early is refused
before it is decoded, because some decoders fill the rest with grey; a mask keeps the numbers that
are stored in it, also where they index a palette or are packed into 1, 2 or 4 bits, which image
decoders turn into colours or stretch to 0..255.

    image, mask = read_image(root / "images/a.jpg"), read_mask(root / "masks/a.png")
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgeinc.data import Dataset, Image, Mask
from edgeinc.errors import DataError
from edgeinc.schema import VOID

__all__ = ["IMAGE_SUFFIXES", "checked_ids", "encode_png", "read_image", "read_mask", "read_pair"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Endings an image file may have, in the order in which they are looked for."""

_PNG = b"\x89PNG\r\n\x1a\n"
_GRAY, _PALETTE = 0, 3
_CHANNELS = {_GRAY: 1, 2: 3, _PALETTE: 1, 4: 2, 6: 4}
_MAX_PIXELS = 1 << 28


def read_image(path: Path) -> Image:
    """Read an image as (H, W, 3) RGB; alpha is dropped, grey becomes three equal channels.

    Raises:
        DataError: The file is missing, truncated or not an image.
    """
    content = _content(path, "image")
    _refuse_truncated(content, path)
    return np.ascontiguousarray(_decoded(content, cv2.IMREAD_COLOR, path)[..., ::-1])


def read_mask(path: Path) -> Mask:
    """Read the (H, W) ids stored in a single-channel PNG of at most 8 bits; palettes are ignored.

    Raises:
        DataError: The file is missing, truncated, not a PNG, has more than one channel or 16 bits.
    """
    content = _content(path, "mask")
    if not content.startswith(_PNG):
        raise DataError(
            f"mask {path} is not a PNG", hint="save it as a single-channel PNG of class ids"
        )
    chunks = _png_chunks(content, path)
    _, _, depth, kind, *_ = _png_header(chunks, path)
    channels = _CHANNELS.get(kind, 0)
    if channels != 1:
        raise DataError(
            f"mask {path} has {channels} channels; save it as a single-channel PNG of class ids",
            hint="the ids themselves are needed, not the colours they are shown in",
        )
    if depth > 8:
        raise DataError(
            f"mask {path} has {depth} bits per pixel; save it as an 8-bit PNG of class ids",
            hint="ids are 0 to 254, and 255 is void",
        )
    plain = _without_palette(chunks)
    return _decoded(plain, cv2.IMREAD_GRAYSCALE, path) // np.uint8(255 // (2**depth - 1))


def read_pair(data: Dataset, image_id: str) -> tuple[Image, Mask]:
    """An image and its mask.

    Raises:
        DataError: One of them cannot be read, or they differ in size.
    """
    image, mask = data.image(image_id), data.mask(image_id)
    if image.shape[:2] != mask.shape:
        height, width = image.shape[:2]
        raise DataError(
            f"image '{image_id}' is {width} x {height}, its mask {mask.shape[1]} x {mask.shape[0]}",
            hint="save the mask in the size of its image",
        )
    return image, mask


def checked_ids(mask: Mask, known: Collection[int], path: Path) -> Mask:
    """The mask as it is, if each of its ids is known or void.

    Args:
        mask: (H, W) ids.
        known: Ids of the classes.
        path: File the mask was read from, named in the error.

    Raises:
        DataError: Another id occurs; the message lists every one.
    """
    present = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    unknown = [i for i in present if i not in known and i != VOID]
    if unknown:
        listed = ", ".join(map(str, unknown))
        raise DataError(
            f"mask {path} has ids without a class: {listed}",
            hint=f"known ids are {min(known)} to {max(known)}, and {VOID} is void",
        )
    return mask


def encode_png(pixels: Image | Mask) -> bytes:
    """An RGB image (H, W, 3) or a mask of ids (H, W) as the content of a PNG file."""
    stored = pixels if pixels.ndim == 2 else pixels[..., ::-1]
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(stored))
    return encoded.tobytes()


def _content(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as err:
        raise DataError(
            f"{what} {path} is missing", hint="restore the file, or take it out of the split"
        ) from err
    except OSError as err:
        raise DataError(
            f"{what} {path} cannot be read: {err.strerror}", hint="check the file's permissions"
        ) from err


def _decoded(content: bytes, flags: int, path: Path) -> npt.NDArray[np.uint8]:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:  # OpenCV's own limits on width, height and pixels
        pixels = None
    if pixels is None:
        raise DataError(
            f"{path} is not an image, or it is damaged",
            hint="open the file in a viewer; supported are PNG, JPEG, BMP and WebP",
        )
    return pixels.astype(np.uint8, copy=False)


def _truncated(path: Path) -> DataError:
    return DataError(f"{path} is truncated", hint="copy the file again from its source")


# ------------------------------------------------------------------------------ ends of files


def _refuse_truncated(content: bytes, path: Path) -> None:
    """Raise if the file's own structure says that bytes are missing at its end."""
    if content.startswith(_PNG):
        _png_header(_png_chunks(content, path), path)
    elif content.startswith(b"\xff\xd8"):
        if not _jpeg_ends(content):
            raise _truncated(path)
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        if len(content) < 8 + int.from_bytes(content[4:8], "little"):
            raise _truncated(path)
    elif content.startswith(b"BM") and len(content) < int.from_bytes(content[2:6], "little"):
        raise _truncated(path)


def _jpeg_ends(content: bytes) -> bool:
    """Whether the end marker follows the image data; a thumbnail in the header has its own."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xDA:  # start of scan: from here on 0xFFD9 is nothing but the end
            return content.find(b"\xff\xd9", at + 2 + length) >= 0
        # Any number of 0xFF may fill the space before a marker.
        at += 1 if marker == 0xFF else 2 + length
    return False


# ------------------------------------------------------------------------------ PNG


def _png_chunks(content: bytes, path: Path) -> list[tuple[bytes, bytes]]:
    """The (type, data) chunks up to the end chunk, their checksums verified."""
    chunks, at = [], len(_PNG)
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        end = at + 12 + length
        if end > len(content):
            break
        body, checksum = content[at + 4 : end - 4], int.from_bytes(content[end - 4 : end], "big")
        if zlib.crc32(body) != checksum:
            raise DataError(
                f"{path} is damaged: checksum of a {body[:4]!r} chunk is wrong",
                hint="copy the file again from its source",
            )
        chunks.append((body[:4], body[4:]))
        if body[:4] == b"IEND":
            return chunks
        at = end
    raise _truncated(path)


def _png_header(chunks: list[tuple[bytes, bytes]], path: Path) -> tuple[int, ...]:
    """Width, height, bit depth, colour type, and three settings of the compression."""
    name, data = chunks[0]
    if name != b"IHDR" or len(data) != 13:
        raise DataError(f"{path} is not a PNG: its header is missing", hint="save it again")
    header: tuple[int, ...] = struct.unpack(">IIBBBBB", data)
    if header[0] * header[1] > _MAX_PIXELS:
        raise DataError(
            f"{path} claims {header[0]} x {header[1]} pixels", hint=f"at most {_MAX_PIXELS} pixels"
        )
    return header


def _without_palette(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The same PNG with its colours dropped: palette indices become the grey values they are."""
    plain = [_PNG]
    for name, data in chunks:
        if name == b"IHDR":
            data = data[:9] + bytes([_GRAY]) + data[10:]
        elif name not in (b"IDAT", b"IEND"):
            continue
        body = name + data
        plain.append(struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body)))
    return b"".join(plain)
