"""Image and mask files as numpy arrays, read strictly.

Rules: an image is RGB uint8, a mask one channel of uint8 ids; both are turned as their orientation
tag says; a file that ends early or claims too many pixels is refused before it is decoded; a mask
keeps the numbers that are stored in it, also where they index a palette or are packed into 1, 2 or
4 bits, which image decoders turn into colours or stretch to 0..255.

    image, mask = read_image(root / "images/a.jpg"), read_mask(root / "masks/a.png")
    mask = read_color_mask(root / "labels/a.png", {(128, 64, 128): 0, (0, 0, 0): VOID})
"""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgeinc.data import Dataset, Image, Mask, _png
from edgeinc.data._headers import (
    Header,
    not_an_image,
    read_header,
    refuse_size,
    tiff_orientation,
    turned,
)
from edgeinc.errors import DataError
from edgeinc.schema import VOID, Color

__all__ = [
    "IMAGE_SUFFIXES",
    "checked_ids",
    "encode_png",
    "header_of",
    "named",
    "read_color_mask",
    "read_image",
    "read_mask",
    "read_pair",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Endings an image file may have, in the order in which they are looked for."""

Packed = npt.NDArray[np.uint32]
"""(H, W) colours as 0xRRGGBB."""

# OpenCV applies the tag in some formats and versions only; here it is always done by `turned`.
_COLOR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_GRAYSCALE = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION


def read_image(path: Path) -> Image:
    """Read an image as (H, W, 3) RGB, upright; alpha is dropped, grey becomes three channels.

    Raises:
        DataError: The file is missing, truncated, too large or not an image.
    """
    content = _content(path, "image")
    header = read_header(content, path)
    return np.ascontiguousarray(
        turned(_decoded(content, _COLOR, path), header.orientation)[..., ::-1]
    )


def read_mask(path: Path, *, if_color: str = "") -> Mask:
    """Read the (H, W) ids stored in a single-channel PNG of at most 8 bits; palettes are ignored.

    Args:
        path: The file.
        if_color: What else to do about a mask of colours, named in the error.

    Raises:
        DataError: The file is missing, damaged, too large, not a PNG, has more than one channel
            or 16 bits.
    """
    png = _mask_png(path, "save it as a single-channel PNG of class ids")
    if png.channels != 1:
        raise DataError(
            f"mask {path} has {png.channels} channels; {if_color}"
            "save it as a single-channel PNG of class ids",
            hint="the ids themselves are needed, not the colours they are shown in",
        )
    return _upright(_stored(png, path), png)


def read_color_mask(path: Path, ids: Mapping[Color, int]) -> Mask:
    """Read a PNG whose colours stand for ids as (H, W) ids.

    Args:
        path: RGB or palette PNG of at most 8 bits per channel; an alpha channel must be opaque.
        ids: Colour to id; void is a colour like any other.

    Raises:
        DataError: The file is missing, damaged, too large, not such a PNG, or shows a colour that
            is not in `ids`; the message names the most frequent one.
    """
    png = _mask_png(path, "save it as an RGB or palette PNG of the classes' colours")
    if png.kind == _png.PALETTE:
        index = _stored(png, path)
        colors, opacity = _png.palette(png)
        if int(index.max()) >= len(colors):
            raise DataError(
                f"mask {path} has palette index {index.max()}, its palette {len(colors)} colours",
                hint="save it again as an RGB PNG",
            )
        _refuse_transparent(opacity[index], path)
        packed = _packed(np.ascontiguousarray(colors[None, :, ::-1]))[0][index]
    else:
        flags = cv2.IMREAD_UNCHANGED if png.channels in (2, 4) else _COLOR
        decoded = _decoded(_png.plain(png), flags, path)
        if decoded.shape[2] == 4:
            _refuse_transparent(decoded[..., 3], path)
        packed = _packed(decoded)
    return _upright(_looked_up(packed, ids, path, grey=png.kind in _png.GREYS), png)


def read_pair(data: Dataset, image_id: str) -> tuple[Image, Mask]:
    """An image and its mask; a mask that was drawn before the image was turned is turned with it.

    Raises:
        DataError: One of them cannot be read, or they differ in size.
    """
    image, mask = data.image(image_id), data.mask(image_id)
    if image.shape[:2] == mask.shape:
        return image, mask
    if image.shape[:2] == mask.shape[::-1]:
        file = data.image_file(image_id)
        orientation = header_of(file).orientation if file else 1
        if orientation >= 5:
            return image, np.ascontiguousarray(turned(mask, orientation))
    height, width = image.shape[:2]
    raise DataError(
        f"image '{image_id}' is {width} x {height}, its mask {mask.shape[1]} x {mask.shape[0]}",
        hint="save the mask in the size of its image",
    )


def header_of(path: Path) -> Header:
    """The stored size and the orientation of an image file, without decoding it.

    Raises:
        DataError: The file is missing, truncated, too large or not an image.
    """
    return read_header(_content(path, "image"), path)


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


def named(name: str) -> str:
    """The one form of a name: systems store letters with accents as one sign or as two."""
    return unicodedata.normalize("NFC", name)


# ------------------------------------------------------------------------------ bytes


def _content(path: Path, what: str) -> bytes:
    try:
        return _same_name(path).read_bytes()
    except FileNotFoundError as err:
        raise DataError(
            f"{what} {path} is missing", hint="restore the file, or take it out of the split"
        ) from err
    except OSError as err:
        loop = err.errno == errno.ELOOP
        raise DataError(
            f"{what} {path} cannot be read: {err.strerror}",
            hint="the symbolic link leads back to itself: remove it"
            if loop
            else "check the file's permissions",
        ) from err


def _same_name(path: Path) -> Path:
    """The path itself, or the file beside it whose name differs only in how letters are stored."""
    if path.name.isascii() or path.exists():
        return path
    folder, wanted = path.parent, named(path.name)
    if not folder.is_dir():
        return path
    return next((p for p in folder.iterdir() if named(p.name) == wanted), path)


def _decoded(content: bytes, flags: int, path: Path) -> npt.NDArray[np.uint8]:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # OpenCV's own limits on width, height and pixels
        pixels = None
    if pixels is None:
        raise not_an_image(path)
    return pixels.astype(np.uint8, copy=False)


# ------------------------------------------------------------------------------ masks


def _mask_png(path: Path, way_out: str) -> _png.Png:
    """The chunks of a mask that can be decoded to 8 bits per channel."""
    content = _content(path, "mask")
    if not content.startswith(_png.SIGNATURE):
        raise DataError(f"mask {path} is not a PNG", hint=way_out)
    png = _png.parse(content, path)
    refuse_size((png.height, png.width), path)
    if png.depth > 8:
        raise DataError(
            f"mask {path} has {png.depth} bits per pixel; save it as an 8-bit PNG",
            hint="ids are 0 to 254, and 255 is void",
        )
    _png.refuse_damaged_stream(png, path)
    return png


def _stored(png: _png.Png, path: Path) -> Mask:
    """The numbers of a single-channel PNG as they are stored."""
    pixels = _decoded(_png.without_palette(png), _GRAYSCALE, path)
    return pixels // np.uint8(255 // (2**png.depth - 1))


def _upright(mask: Mask, png: _png.Png) -> Mask:
    return np.ascontiguousarray(turned(mask, tiff_orientation(png.chunk(b"eXIf"))))


def _refuse_transparent(opacity: npt.NDArray[np.uint8], path: Path) -> None:
    if (opacity < 255).any():
        raise DataError(
            f"mask {path} has {int((opacity < 255).sum())} transparent pixels",
            hint="save it without an alpha channel: the colour of such a pixel is not defined",
        )


def _packed(pixels: npt.NDArray[np.uint8]) -> Packed:
    """Colours (H, W, 3 or 4), blue first, as one number 0xRRGGBB per pixel."""
    four = pixels if pixels.shape[2] == 4 else cv2.cvtColor(pixels, cv2.COLOR_BGR2BGRA)
    packed: Packed = np.ascontiguousarray(four).view("<u4")[..., 0] & np.uint32(0xFFFFFF)
    return packed


def _looked_up(packed: Packed, ids: Mapping[Color, int], path: Path, *, grey: bool) -> Mask:
    """The ids (H, W) of packed colours."""
    # Zeros are memory the system gives when it is written to: a few pages of the 32 MB.
    table = np.zeros(1 << 24, np.uint16)
    for (r, g, b), label in ids.items():
        table[r << 16 | g << 8 | b] = label + 1
    found: npt.NDArray[np.uint16] = np.take(table, packed)
    if not found.all():
        raise _unknown_color(packed, found == 0, path, grey=grey)
    return (found - np.uint16(1)).astype(np.uint8)


def _unknown_color(
    packed: Packed, unknown: npt.NDArray[np.bool_], path: Path, *, grey: bool
) -> DataError:
    colors, counts = np.unique(packed[unknown], return_counts=True)
    color, count = int(colors[counts.argmax()]), int(counts.max())
    y, x = divmod(int((packed == color).argmax()), packed.shape[1])
    others = f", and {len(colors) - 1} more such colours" if len(colors) > 1 else ""
    rgb = f"{color >> 16}, {color >> 8 & 255}, {color & 255}"
    return DataError(
        f"mask {path} has a colour without a class: ({rgb}) in {count} pixels, "
        f"first at x {x}, y {y}{others}",
        hint="the file is grey: if its values are class ids, it is no mask of colours"
        if grey
        else "add the colour to the classes; smoothed edges come from saving or scaling as a photo",
    )
