"""What the exports of annotation tools have in common: JSON, class names, outlines, paths.

Exports are hostile: a path inside one may point anywhere, a size may be absurd, a polygon may lie
far outside its image. Every function here refuses that in one line.

    labels = class_labels(["car", "bus"], "labels.txt")     # ids 1 and 2, id 0 is background
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from edgeinc.data import Label
from edgeinc.data._headers import refuse_size
from edgeinc.data._palette import palette_color
from edgeinc.errors import DataError
from edgeinc.schema import VOID, Size

__all__ = [
    "BACKGROUND",
    "checked_name",
    "checked_size",
    "class_labels",
    "inside",
    "outline",
    "read_json",
]

BACKGROUND = Label(0, "background", (0, 0, 0))
"""What a pixel is that no class was drawn on."""

_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters and halves of characters: not fit for a line of text or a file name."""


def read_json(
    path: Path, *, each: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: The file.
        each: Called with every object in it, innermost first; its result takes the place.

    Raises:
        DataError: The file is missing, is cut short or is not a JSON object.
    """
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refuse_constant, object_hook=each)
    except FileNotFoundError as err:
        raise DataError(f"{path} is missing", hint="restore it, or export it again") from err
    except OSError as err:
        raise DataError(f"{path} cannot be read: {err.strerror}", hint="check the file") from err
    except (ValueError, RecursionError) as err:  # also text that is not UTF-8
        raise DataError(
            f"{path} is not JSON, or it was cut short: {str(err).splitlines()[0]}",
            hint="copy the file again from its source, or export it again",
        ) from err
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object", hint="export it again")
    return content


def class_labels(names: Sequence[str], source: str) -> tuple[Label, ...]:
    """Background, and the named classes with the ids 1, 2, 3, ...

    Args:
        names: Class names, without the background.
        source: Where they come from, named in the error.

    Raises:
        DataError: A name is empty, has a comma or is there twice, or they are too many.
    """
    if len(names) > VOID - 1:
        raise DataError(
            f"{source} has {len(names)} classes", hint=f"a mask can hold {VOID - 1} of them"
        )
    labels = [BACKGROUND]
    for name in names:
        checked_name(name, source)
        if name in {label.name for label in labels}:
            raise DataError(f"{source} has the class '{name}' twice", hint="rename one of them")
        labels.append(Label(len(labels), name, palette_color(len(labels))))
    return tuple(labels)


def checked_name(name: object, source: str) -> str:
    """A class name as a file has it.

    Raises:
        DataError: It is no text, empty, or has a comma: `--classes a,b` could not name it.
    """
    if (
        not isinstance(name, str)
        or not name
        or name != name.strip()
        or "," in name
        or _UNWRITABLE.search(name)
    ):
        raise DataError(
            f"{source}: class name {name!r} is not text without a comma or spaces around it",
            hint="rename the class in the annotation tool and export again",
        )
    return name


def checked_size(width: object, height: object, path: Path) -> Size:
    """(height, width) of an image as a file claims it.

    Args:
        width: What the file says.
        height: What the file says.
        path: The image, named in the error.

    Raises:
        DataError: Not two whole numbers from 1, or more than an image may have.
    """
    if not (_is_side(width) and _is_side(height)):
        raise DataError(
            f"image {path} is listed with the size {width!r} x {height!r}",
            hint="width and height are whole numbers from 1; export again",
        )
    refuse_size((height, width), path)
    return height, width


def _is_side(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def outline(points: object, size: Size, source: str) -> npt.NDArray[np.float64]:
    """Points (N, 2) as x, y, checked.

    Args:
        points: What the file holds, flat or in pairs.
        size: (height, width) of the image.
        source: The shape, named in the error.

    Raises:
        DataError: Not numbers in pairs, or further outside the image than it is large.
    """
    try:
        pairs = np.asarray(points, dtype=np.float64)
        pairs = pairs.reshape(-1, 2) if pairs.ndim == 1 else pairs
    except (TypeError, ValueError, OverflowError):
        pairs = np.empty(0)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.isfinite(pairs).all():
        raise DataError(
            f"{source} has points that are not pairs of numbers", hint="draw it again, or remove it"
        )
    limit = np.array([size[1], size[0]], np.float64)
    far = ((pairs < -limit) | (pairs > 2 * limit)).any(1)
    if far.any():
        x, y = pairs[far][0]
        raise DataError(
            f"{source} has a point at ({x:g}, {y:g}), far outside its image of "
            f"{size[1]} x {size[0]}",
            hint="the annotations belong to an image of another size",
        )
    return pairs


def inside(text: object, source: str) -> PurePosixPath:
    """A path that a file names, if it stays in the folder it starts from.

    Raises:
        DataError: It is no text, absolute, or climbs out with `..`.
    """
    if isinstance(text, str) and _UNWRITABLE.search(text) is None:
        path = PurePosixPath(text.replace("\\", "/"))
        windows = PureWindowsPath(text)
        if path.name and not (path.is_absolute() or windows.drive or ".." in path.parts):
            return path
    raise DataError(
        f"{source} names the file {text!r}, which may lie outside the data",
        hint="file names must be relative and without '..'",
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
