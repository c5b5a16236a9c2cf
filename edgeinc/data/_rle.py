"""COCO segmentations as runs of pixels: polygons, RLE as a list, RLE as text.

An RLE numbers the pixels column by column and counts those outside and inside in turn, outside
first. pycocotools draws the polygons; an RLE is decoded here, because pycocotools fills what a
short one leaves out with whatever is in memory.

    runs = runs_of({"size": [2, 2], "counts": [1, 2, 1]}, (2, 2), "annotation 7")
    paint((2, 2), [(runs, 5)])                      # [[0, 5], [5, 0]]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from edgeinc.data import Mask
from edgeinc.data._exports import outline
from edgeinc.errors import DataError, MissingError
from edgeinc.schema import Size

__all__ = ["Runs", "paint", "runs_of"]

Runs = npt.NDArray[np.int64]
"""Lengths of runs of pixels in column order, outside and inside in turn, outside first."""

_LONGEST_OUTLINE = 1 << 22


def runs_of(shape: object, size: Size, source: str) -> Runs:
    """The pixels of one segmentation.

    Args:
        shape: What the JSON holds under `segmentation`.
        size: (height, width) of the image.
        source: The annotation, named in the error.

    Raises:
        DataError: It is no segmentation, of another size, or does not add up.
        MissingError: There are polygons, and pycocotools is not installed.
    """
    if isinstance(shape, dict):
        return _from_rle(shape, size, source)
    if isinstance(shape, list) and shape:
        return _from_polygons(shape, size, source)
    raise DataError(
        f"{source} has no polygon and no RLE", hint="export as segmentation, not as boxes"
    )


def paint(size: Size, segments: Iterable[tuple[Runs, int]]) -> Mask:
    """A mask of `size` (height, width) with segments painted in their order on id 0."""
    height, width = size
    columns = np.zeros(height * width, np.uint8)
    for runs, label in segments:
        within = runs[1:] if len(runs) % 2 == 0 else runs[1:-1]
        first, length = int(runs[0]), int(within.sum())
        hit = np.repeat(np.arange(len(within)) % 2 == 0, within)
        columns[first : first + length][hit] = label
    return np.ascontiguousarray(columns.reshape(width, height).T)


def _from_polygons(parts: list[Any], size: Size, source: str) -> Runs:
    polygons = []
    for part in parts:
        points = outline(part, size, source)
        if len(points) < 3:
            raise DataError(
                f"{source} has a polygon with {len(points)} points",
                hint="draw at least three, or remove it",
            )
        # pycocotools keeps every step along the border in memory.
        if np.abs(np.diff(points, axis=0)).sum() > _LONGEST_OUTLINE:
            raise DataError(
                f"{source} has an outline of over {_LONGEST_OUTLINE} pixels", hint="draw it again"
            )
        polygons.append(points.reshape(-1).tolist())
    mask = _pycocotools()
    drawn = mask.merge(mask.frPyObjects(polygons, *size))
    return _run_lengths(drawn["counts"])


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as err:
        raise MissingError(
            "COCO polygons need pycocotools, which is not installed",
            hint='pip install "edgeinc[train]"',
        ) from err
    return mask


def _from_rle(shape: dict[str, Any], size: Size, source: str) -> Runs:
    stored, counts = shape.get("size"), shape.get("counts")
    if stored != list(size):
        of = f"{stored[1]} x {stored[0]}" if _is_pair(stored) else repr(stored)
        raise DataError(
            f"{source} has an RLE for {of} pixels, its image is {size[1]} x {size[0]}",
            hint="export again, or mend the width and height of the image",
        )
    try:
        if isinstance(counts, str):
            runs = _run_lengths(counts.encode("ascii"))
        else:
            runs = np.array(counts, np.int64)
            if runs.ndim != 1 or not len(runs):
                raise ValueError
        if (runs < 0).any() or (runs > size[0] * size[1]).any() or runs.sum() != size[0] * size[1]:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as err:
        raise DataError(
            f"{source} has an RLE that does not add up to its {size[1]} x {size[0]} pixels",
            hint="export it again",
        ) from err
    return runs


def _is_pair(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list) and len(value) == 2


def _run_lengths(text: bytes) -> Runs:
    """Decode a compressed RLE.

    Six bits a character, five of them number, lowest first; the sixth says that the number goes
    on. From the fourth run on it is the difference to the run two before.
    Source: rleFrString in maskApi.c of the COCO API.

    Raises:
        ValueError: It is no such text.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("not a compressed RLE")
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > 6:
        raise ValueError("a number of more than 35 bits")
    runs = np.add.reduceat((codes & 31) << 5 * place, first)
    negative = codes[last] & 16 != 0
    runs[negative] -= 1 << 5 * (place[last][negative] + 1)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
