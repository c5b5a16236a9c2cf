"""PNG files chunk by chunk: what is stored in them before a decoder makes colours of it.

Rules: every checksum is verified; pixels are handed to the decoder without the chunks that could
change a value on the way (palette, gamma, transparency, orientation).

    png = parse(content, path)
    plain = without_palette(png)
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeinc.errors import DataError

__all__ = ["GRAY", "PALETTE", "SIGNATURE", "Png", "palette", "parse", "plain", "without_palette"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, PALETTE = 0, 3
GREYS = (0, 4)
"""Colour types without colour: grey, and grey with alpha."""
_CHANNELS = {GRAY: 1, 2: 3, PALETTE: 1, 4: 2, 6: 4}


class Png(NamedTuple):
    """The chunks up to the end chunk, and what the header says of the pixels.

    Attributes:
        chunks: (type, data).
        width: Pixels.
        height: Pixels.
        depth: Bits per channel.
        kind: Colour type, such as `GRAY`.
    """

    chunks: tuple[tuple[bytes, bytes], ...]
    width: int
    height: int
    depth: int
    kind: int

    @property
    def channels(self) -> int:
        """Values stored per pixel; 0 for a colour type that does not exist."""
        return _CHANNELS.get(self.kind, 0)

    def chunk(self, name: bytes) -> bytes:
        """The data of the first chunk of that type, or b""."""
        return next((data for found, data in self.chunks if found == name), b"")


def parse(content: bytes, path: Path) -> Png:
    """Split a PNG file into its chunks.

    Raises:
        DataError: It is truncated, a checksum is wrong, or its header is missing.
    """
    chunks = _chunks(content, path)
    name, data = chunks[0]
    if name != b"IHDR" or len(data) != 13:
        raise DataError(f"{path} is not a PNG: its header is missing", hint="save it again")
    width, height, depth, kind = struct.unpack(">IIBB", data[:10])
    return Png(tuple(chunks), width, height, depth, kind)


def plain(png: Png) -> bytes:
    """The same PNG with nothing in it but header, palette and pixels."""
    return _joined(png, (b"IHDR", b"PLTE", b"IDAT", b"IEND"))


def without_palette(png: Png) -> bytes:
    """The same PNG with its colours dropped: palette indices become the grey values they are."""
    header = png.chunk(b"IHDR")
    grey = header[:9] + bytes([GRAY]) + header[10:]
    chunks = tuple((n, grey if n == b"IHDR" else data) for n, data in png.chunks)
    return _joined(png._replace(chunks=chunks), (b"IHDR", b"IDAT", b"IEND"))


def palette(png: Png) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The colours (N, 3) and the opacity (N,) of a palette's entries, 255 where not stated."""
    stored = png.chunk(b"PLTE")
    colors = np.frombuffer(stored[: len(stored) // 3 * 3], np.uint8).reshape(-1, 3)
    opacity = np.full(len(colors), 255, np.uint8)
    given = np.frombuffer(png.chunk(b"tRNS"), np.uint8)[: len(colors)]
    opacity[: len(given)] = given
    return colors, opacity


def refuse_damaged_stream(png: Png, path: Path) -> None:
    """Raise if the compressed pixels cannot be unpacked, although every checksum is right.

    The decoder finds that, too, but writes a line of its own to standard error.

    Raises:
        DataError: The stream ends early, or it is not what zlib writes.
    """
    stream = zlib.decompressobj()
    expected = 2 * png.height * (1 + (png.width * max(1, png.channels) * png.depth + 7) // 8) + 64
    try:
        # Rows of an interlaced file take a little more than `expected` / 2, never twice as much.
        stream.decompress(b"".join(d for name, d in png.chunks if name == b"IDAT"), expected)
    except zlib.error as err:
        raise _damaged(path, f"its pixels cannot be unpacked ({err})") from err
    if not stream.eof and not stream.unconsumed_tail:
        raise _damaged(path, "its pixels end early")


def _chunks(content: bytes, path: Path) -> list[tuple[bytes, bytes]]:
    chunks, at = [], len(SIGNATURE)
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        end = at + 12 + length
        if end > len(content):
            break
        body, checksum = content[at + 4 : end - 4], int.from_bytes(content[end - 4 : end], "big")
        if zlib.crc32(body) != checksum:
            raise _damaged(path, f"checksum of a {body[:4]!r} chunk is wrong")
        chunks.append((body[:4], body[4:]))
        if body[:4] == b"IEND":
            return chunks
        at = end
    raise DataError(f"{path} is truncated", hint="copy the file again from its source")


def _joined(png: Png, names: tuple[bytes, ...]) -> bytes:
    parts = [SIGNATURE]
    for name, data in png.chunks:
        if name in names:
            body = name + data
            parts.append(struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body)))
    return b"".join(parts)


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is damaged: {reason}", hint="copy the file again from its source, or save it again"
    )
