"""COCO JSON with polygons or RLE, as COCO, CVAT, Roboflow and Label Studio write it.

The data is a folder, or one .json file:

    annotations/instances_train2017.json    COCO and CVAT; of several files those named instances_*
    train/_annotations.coco.json            Roboflow: the JSON of each split among its images
    labels.json                             one file, its images beside it or in images/

A file, or for Roboflow a folder, with `val` or `valid` in its name describes `val`, one with
`test` describes `test`, any other `train`. A single file is divided: 80 % `train`, 20 % `val`,
decided by a hash of the image's name. An image is looked for beside its JSON and one folder up,
there in images/, in a folder named like the end of the JSON's name (train2017), and in both.

Categories in the order of their ids are the classes 1, 2, 3, ...; id 0 is the background, which
is also what a category called `background` means. Where objects overlap, the one that covers
fewer pixels lies on top, and of two equals the one with the higher annotation id. Regions marked
`iscrowd` are void where no object lies on them. Polygons are drawn by pycocotools.

    data = open_dataset("export/annotations/instances_default.json")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeinc import registry
from edgeinc.data import Image, Label, Mask
from edgeinc.data._exports import (
    BACKGROUND,
    checked_name,
    checked_size,
    class_labels,
    inside,
    read_json,
)
from edgeinc.data._files import read_image
from edgeinc.data._listed import Listed, training_size
from edgeinc.data._rle import Runs, paint, runs_of
from edgeinc.data._split import by_split, hashed_split
from edgeinc.errors import DataError
from edgeinc.schema import VOID, Size

__all__ = ["Coco"]

_ROBOFLOW = "_annotations.coco.json"
_HEAD = 1 << 14
_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


class _Object(NamedTuple):
    """One annotation: `label` is an id of the data set, `shape` what the file holds."""

    id: int
    label: int
    crowd: bool
    shape: Any


@dataclass
class _Picture:
    """One image entry: the file it stands in, the path it names, and what was drawn on it."""

    home: Path
    name: str
    size: Size
    objects: list[_Object] = field(default_factory=list)


class Coco(Listed):
    """One export. Its JSON is read when something is first asked for, and only once."""

    background = "real"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether it is a .json file, or a folder with COCO files where the tools put them."""
        if root.is_file():
            return root.suffix.lower() == ".json"
        return any(True for _ in _candidates(root))

    @property
    def labels(self) -> tuple[Label, ...]:
        return self._content[0]

    @property
    def default_size(self) -> Size:
        """The first image's size, reduced to at most 512 pixels on the longer side."""
        return training_size(next(iter(self._pictures.values())).size)

    def image(self, image_id: str) -> Image:
        return read_image(self.image_file(image_id))

    def image_file(self, image_id: str) -> Path:
        picture = self._picture(image_id)
        places = _places(picture)
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            looked = ", ".join(dict.fromkeys(str(path.parent) for path in places))
            raise DataError(
                f"image '{picture.name}' of {picture.home} is missing", hint=f"looked in {looked}"
            )
        return found

    def mask(self, image_id: str) -> Mask:
        picture = self._picture(image_id)
        drawn = [(o, runs_of(o.shape, picture.size, _source(picture, o))) for o in picture.objects]
        return paint(
            picture.size,
            ((runs, VOID if o.crowd else o.label) for o, runs in sorted(drawn, key=_depth)),
        )

    def mask_files(self, image_id: str) -> tuple[Path, ...]:
        return (self._picture(image_id).home,)

    def _picture(self, image_id: str) -> _Picture:
        if image_id not in self._pictures:
            raise DataError(
                f"{self.root} has no image '{image_id}'",
                hint=registry.suggest(image_id, tuple(self._pictures)[:1000]),
            )
        return self._pictures[image_id]

    @property
    def _pictures(self) -> dict[str, _Picture]:
        return self._content[1]

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Split -> its JSON file."""
        if self.root.is_file():
            return {"train": self.root}
        found = list(_candidates(self.root))
        if not found:
            raise DataError(
                f"{self.root} holds no COCO file",
                hint="needed is annotations/*.json, */_annotations.coco.json or one .json",
            )
        named = [path for path in found if path.name.startswith("instances_")]
        return by_split(
            {p: p.parent.name if p.name == _ROBOFLOW else p.stem for p in named or found}
        )

    @cached_property
    def _ids(self) -> dict[str, tuple[str, ...]]:
        if len(self._files) == 1:
            return hashed_split(tuple(self._pictures))
        return {
            split: tuple(i for i, picture in self._pictures.items() if picture.home == path)
            for split, path in self._files.items()
        }

    @cached_property
    def _content(self) -> tuple[tuple[Label, ...], dict[str, _Picture]]:
        """The classes, and the pictures by image id in the order of the files."""
        contents = {path: read_json(path, each=_packed) for path in self._files.values()}
        names: dict[int, str] = {}
        for path, content in contents.items():
            _add_categories(names, content, path)
        things = [names[i] for i in sorted(names) if names[i] != BACKGROUND.name]
        labels = class_labels(things, " and ".join(map(str, contents)))
        ids = {label.name: label.id for label in labels}
        by_category = {number: ids[name] for number, name in names.items()}
        pictures: dict[str, _Picture] = {}
        for path in self._files.values():
            _add_pictures(pictures, contents.pop(path), path, by_category)
        if not pictures:
            raise DataError(
                f"{self.root} lists no image", hint="export it again, with its images selected"
            )
        return labels, pictures


# ------------------------------------------------------------------------------ finding files


def _candidates(root: Path) -> Iterator[Path]:
    """The COCO files of a folder: of the first of the known places that has one."""
    for pattern in ("annotations/*.json", f"*/{_ROBOFLOW}", "*.json"):
        try:
            found = [path for path in sorted(root.glob(pattern)) if _looks_like_coco(path)]
        except OSError:  # such as a loop of links
            continue
        if found:
            yield from found
            return


def _looks_like_coco(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return _KEYS.search(head) is not None


def _places(picture: _Picture) -> list[Path]:
    """Where the image file may be, the most likely first."""
    end = picture.home.stem.rpartition("_")[2]
    folders = ("", "images", end, f"images/{end}")
    homes = (picture.home.parent, picture.home.parent.parent)
    return [home / folder / picture.name for home in homes for folder in folders]


# ------------------------------------------------------------------------------ reading


def _entries(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise DataError(
            f"{path} has no list '{key}', so it is not in the COCO format",
            hint="export again as COCO instance segmentation",
        )
    return entries


def _number(entry: dict[str, Any], key: str, what: str, path: Path) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(
            f"{path}: the {key} of {what} is {value!r}, not a whole number", hint="export again"
        )
    return value


def _add_categories(names: dict[int, str], content: dict[str, Any], path: Path) -> None:
    """Add the category ids of one file to those of the others; a name is one class in all."""
    seen: set[int] = set()
    for entry in _entries(content, "categories", path):
        name = checked_name(entry.get("name"), str(path))
        number = _number(entry, "id", f"category '{name}'", path)
        if number in seen:
            raise DataError(
                f"{path} has the category id {number} twice: '{names[number]}' and '{name}'",
                hint="give every category an id of its own",
            )
        seen.add(number)
        if names.setdefault(number, name) != name:
            raise DataError(
                f"{path} calls category {number} '{name}', another file '{names[number]}'",
                hint="export all splits with the same categories",
            )


def _add_pictures(
    pictures: dict[str, _Picture], content: dict[str, Any], path: Path, labels: dict[int, int]
) -> None:
    """Add the images of one file, with their annotations."""
    by_number: dict[int, _Picture] = {}
    for entry in _entries(content, "images", path):
        number = _number(entry, "id", f"image {entry.get('file_name')!r}", path)
        if number in by_number:
            raise DataError(f"{path} has the image id {number} twice", hint="export again")
        where = inside(entry.get("file_name"), f"{path}, image {number},")
        size = checked_size(entry.get("width"), entry.get("height"), path.parent / where)
        picture = by_number[number] = _Picture(path, str(where), size)
        image_id = str(where.with_suffix(""))
        if image_id in pictures:
            other = pictures[image_id]
            raise DataError(
                f"'{other.name}' of {other.home} and '{where}' of {path} share one name",
                hint="rename one of them; without their endings names must differ",
            )
        pictures[image_id] = picture
    for entry in _entries(content, "annotations", path):
        number = _number(entry, "id", "an annotation", path)
        image = _number(entry, "image_id", f"annotation {number}", path)
        category = _number(entry, "category_id", f"annotation {number}", path)
        for what, value, known in (("image", image, by_number), ("category", category, labels)):
            if value not in known:
                raise DataError(
                    f"{path}: annotation {number} belongs to {what} {value}, which is not listed",
                    hint=f"add the {what}, or remove the annotation",
                )
        by_number[image].objects.append(
            _Object(number, labels[category], bool(entry.get("iscrowd")), entry.get("segmentation"))
        )


def _packed(entry: dict[str, Any]) -> dict[str, Any]:
    """Coordinates as arrays while the file is parsed: as lists they take four times the memory."""
    shape = entry.get("segmentation")
    if isinstance(shape, list) and all(isinstance(part, list) for part in shape):
        # What is wrong with it is said when the mask is asked for.
        with suppress(TypeError, ValueError, OverflowError):
            entry["segmentation"] = [np.array(part, np.float64) for part in shape]
    return entry


def _source(picture: _Picture, item: _Object) -> str:
    return f"{picture.home}: annotation {item.id} of image '{picture.name}'"


def _depth(drawn: tuple[_Object, Runs]) -> tuple[bool, int, int]:
    """Sort key of what is painted: crowds, then the largest, so that the smallest ends on top."""
    item, runs = drawn
    return not item.crowd, -int(runs[1::2].sum()), item.id
