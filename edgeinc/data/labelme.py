"""Labelme: one JSON file per image, with the shapes that were drawn on it.

    a street.json       beside a street.jpg; without an image file the copy inside the JSON is read
    labels.txt          optional: the classes, one per line; without it they are all labels there
                        are, sorted by name
    train.txt, val.txt  optional: names of JSON files without ending, one per line; without them
                        80 % of the images are `train` and 20 % `val`, by a hash of the name

The classes have the ids 1, 2, 3, ...; id 0 is the background: what nothing was drawn on, and
shapes labelled `_background_` or `background`. Shapes labelled `__ignore__` are void. A later
shape lies on top of an earlier one, as in Labelme. Corners are rounded down to the pixel they lie
in, and every pixel that a border passes through belongs to the shape. Read are polygon, rectangle,
oriented_rectangle, circle and mask; flags and groups are ignored.

    data = open_dataset("drawn")
"""

from __future__ import annotations

import base64
import re
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeinc import registry
from edgeinc.data import Image, Label, Mask, _png
from edgeinc.data._exports import (
    BACKGROUND,
    checked_name,
    checked_size,
    class_labels,
    outline,
    read_json,
)
from edgeinc.data._files import IMAGE_SUFFIXES, named, read_image
from edgeinc.data._headers import read_header, refuse_size, turned
from edgeinc.data._listed import Listed, training_size
from edgeinc.data._official import read_lines
from edgeinc.data._split import hashed_split, read_lists
from edgeinc.errors import DataError
from edgeinc.schema import VOID, Size

__all__ = ["Labelme"]

_IGNORE, _BACKGROUND = "__ignore__", "_background_"
_SHAPES = re.compile(rb'"shapes"\s*:\s*\[')
_PROBES = 3
_PROBED_BYTES = 1 << 25
_CORNERS = {
    "polygon": range(3, 1 << 20),
    "oriented_rectangle": range(4, 5),
    "rectangle": range(2, 3),
    "circle": range(2, 3),
    "mask": range(2, 3),
}
"""Shape type -> how many points it may have."""


class Labelme(Listed):
    """One folder. A JSON file is read each time something of it is asked for."""

    background = "real"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether one of the first JSON files of the folder lists shapes."""
        if not root.is_dir() or (root / "classes.toml").exists():
            return False
        return any(map(_has_shapes, _json_files(root)[:_PROBES]))

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        path = self.root / "labels.txt"
        if path.is_file():
            lines = map(str.strip, read_lines(path, hint="write one class per line"))
            return class_labels([name for name in lines if not _is_special(name)], str(path))
        found: set[str] = set()
        for path in self._files.values():
            found |= {name for name, _ in _shapes(read_json(path), path)}
        return class_labels(sorted(n for n in found if not _is_special(n)), str(self.root))

    @property
    def default_size(self) -> Size:
        """The first image's size, reduced to at most 512 pixels on the longer side."""
        return training_size(_size(*self._content(next(iter(self._files)))))

    def image(self, image_id: str) -> Image:
        content, home = self._content(image_id)
        path = self._image_beside(content)
        if path is not None:
            return read_image(path)
        if content.get("imageData") is None:
            raise DataError(
                f"{home}: its image {content.get('imagePath')!r} is missing",
                hint=f"put it into {self.root}",
            )
        return _embedded_image(content["imageData"], home)

    def image_file(self, image_id: str) -> Path | None:
        return self._image_beside(self._content(image_id)[0])

    def mask(self, image_id: str) -> Mask:
        ids = {label.name: label.id for label in self.labels}
        ids |= {_IGNORE: VOID, _BACKGROUND: BACKGROUND.id}
        content, home = self._content(image_id)
        mask = np.zeros(_size(content, home), np.uint8)
        for number, (name, shape) in enumerate(_shapes(content, home), 1):
            source = f"{home}: shape {number}, '{name}',"
            if name not in ids:
                raise DataError(
                    f"{source} has a label that is not in {self.root / 'labels.txt'}",
                    hint="add it there, or give the shape another label",
                )
            _draw(mask, shape, ids[name], source)
        return mask

    def mask_files(self, image_id: str) -> tuple[Path, ...]:
        self._check(image_id)
        return (self._files[image_id],)

    def _content(self, image_id: str) -> tuple[dict[str, Any], Path]:
        self._check(image_id)
        return read_json(self._files[image_id]), self._files[image_id]

    def _image_beside(self, content: dict[str, Any]) -> Path | None:
        path = content.get("imagePath")
        if not isinstance(path, str):
            return None
        # Labelme on Windows writes backslashes. Only the name counts: a path may lead anywhere.
        return self._beside.get(named(PurePosixPath(path.replace("\\", "/")).name))

    def _check(self, image_id: str) -> None:
        if image_id not in self._files:
            raise DataError(
                f"{self.root} has no image '{image_id}'",
                hint=registry.suggest(image_id, tuple(self._files)[:1000]),
            )

    @cached_property
    def _beside(self) -> dict[str, Path]:
        """Name -> image file in the folder."""
        return {named(p.name): p for p in self.root.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Image id -> its JSON file."""
        found = {path.stem: path for path in _json_files(self.root)}
        if not found:
            raise DataError(
                f"{self.root} has no JSON file of Labelme", hint="each image has one beside it"
            )
        return found

    @cached_property
    def _ids(self) -> dict[str, tuple[str, ...]]:
        lists = {split: self.root / f"{split}.txt" for split in ("train", "val", "test")}
        present = {split: path for split, path in lists.items() if path.is_file()}
        if not present:
            return hashed_split(tuple(self._files))
        ids = read_lists({"train": lists["train"], **present})
        for split, listed in ids.items():
            for image_id in listed:
                if image_id not in self._files:
                    raise DataError(
                        f"{lists[split]} lists '{image_id}', but there is no "
                        f"{self.root / image_id}.json",
                        hint="write names without folder and ending",
                    )
        return ids


def _shapes(content: dict[str, Any], home: Path) -> list[tuple[str, dict[str, Any]]]:
    """(label, shape) in the order they were drawn."""
    shapes = content.get("shapes")
    if not isinstance(shapes, list) or not all(isinstance(s, dict) for s in shapes):
        raise DataError(
            f"{home} has no list 'shapes', so Labelme did not write it",
            hint="take it out of the folder",
        )
    return [
        (checked_name(shape.get("label"), f"{home}: shape {number}"), shape)
        for number, shape in enumerate(shapes, 1)
    ]


def _size(content: dict[str, Any], home: Path) -> Size:
    return checked_size(content.get("imageWidth"), content.get("imageHeight"), home)


def _is_special(name: str) -> bool:
    return name in (_IGNORE, _BACKGROUND, BACKGROUND.name)


def _json_files(root: Path) -> list[Path]:
    try:
        return sorted(p for p in root.glob("*.json") if not p.name.startswith("."))
    except OSError:  # such as a loop of links
        return []


def _has_shapes(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _SHAPES.search(file.read(_PROBED_BYTES)) is not None
    except OSError:
        return False


# ------------------------------------------------------------------------------ drawing


def _draw(mask: Mask, shape: dict[str, Any], value: int, source: str) -> None:
    """Paint one shape into the mask (H, W)."""
    kind = str(shape.get("shape_type") or "polygon")
    if kind not in _CORNERS:
        raise DataError(
            f"{source} is of type {kind!r}, which is not an area",
            hint=f"draw one of {', '.join(_CORNERS)}, or remove it",
        )
    height, width = mask.shape
    points = outline(shape.get("points"), (height, width), source)
    if len(points) not in _CORNERS[kind]:
        raise DataError(
            f"{source} is a {kind} with {len(points)} points", hint="draw it again, or remove it"
        )
    if kind == "circle":
        _draw_circle(mask, points, value)
        return
    pixels = np.floor(points).astype(np.int32)
    if kind == "mask":
        _draw_stamp(mask, pixels, _stamp(shape.get("mask"), source), value, source)
    elif kind == "rectangle":
        (left, top), (right, bottom) = pixels.min(0), pixels.max(0)
        mask[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = value
    else:
        cv2.fillPoly(mask, [pixels], value)


def _draw_circle(mask: Mask, points: npt.NDArray[np.float64], value: int) -> None:
    """The disc that fills the square of pixels a circle reaches; `points` are centre and rim."""
    radius = np.hypot(*(points[1] - points[0]))
    (left, top), (right, bottom) = np.floor(points[0] - radius), np.floor(points[0] + radius)
    down, across = np.ogrid[: mask.shape[0], : mask.shape[1]]
    x = (2 * across - left - right) / (right - left + 1)
    y = (2 * down - top - bottom) / (bottom - top + 1)
    mask[x**2 + y**2 <= 1] = value


def _draw_stamp(
    mask: Mask, corners: npt.NDArray[np.int32], stamp: Mask, value: int, source: str
) -> None:
    """Paint where `stamp` (h, w) is not zero; `corners` are its first and last pixel as x, y."""
    (left, top), (right, bottom) = corners.tolist()
    size = (bottom - top + 1, right - left + 1)
    if stamp.shape != size:
        raise DataError(
            f"{source} is a mask of {stamp.shape[1]} x {stamp.shape[0]} pixels in a box of "
            f"{size[1]} x {size[0]}",
            hint="draw it again, or remove it",
        )
    rows, columns = np.nonzero(stamp)
    rows, columns = rows + top, columns + left
    seen = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
    mask[rows[seen], columns[seen]] = value


# ------------------------------------------------------------------------------ embedded files


def _decoded(text: object, source: object, what: str) -> bytes:
    try:
        if not isinstance(text, str):
            raise ValueError
        return base64.b64decode(text, validate=True)
    except ValueError as err:  # also what binascii raises
        raise DataError(
            f"{source}: its {what} is not base64", hint="save it in Labelme again"
        ) from err


def _embedded_image(text: object, home: Path) -> Image:
    content = _decoded(text, home, "imageData")
    header = read_header(content, home)
    pixels = _pixels(content, cv2.IMREAD_COLOR, home)
    return np.ascontiguousarray(turned(pixels, header.orientation)[..., ::-1])


def _stamp(text: object, source: str) -> Mask:
    """The PNG of a shape of type mask; what is not zero in it belongs to the shape."""
    content, where = _decoded(text, source, "mask"), Path(source)
    png = _png.parse(content, where)
    refuse_size((png.height, png.width), where)
    _png.refuse_damaged_stream(png, where)
    return _pixels(content, cv2.IMREAD_GRAYSCALE, where)


def _pixels(content: bytes, how: int, source: Path) -> npt.NDArray[np.uint8]:
    try:
        flags = how | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(f"{source}: an image in it is damaged", hint="save it in Labelme again")
    return pixels.astype(np.uint8, copy=False)
