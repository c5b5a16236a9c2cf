"""CVAT's "Segmentation mask 1.1": colour masks, and the table that names the colours.

    labelmap.txt                            lines `name:red,green,blue::`
    ImageSets/Segmentation/default.txt      image names without ending, one per line
    SegmentationClass/a street.png          the masks
    JPEGImages/a street.jpg                 the images; also read from images/ or the folder itself

Export with "Save images", or put the images there. Names may have spaces, letters of any alphabet
and sub-folders. A list with `val` or `test` in its name describes that split, any other `train`;
the images of a single list are divided: 80 % `train`, 20 % `val`, decided by a hash of the name.

The classes are the lines of labelmap.txt in their order. An entry called `background` comes first
with id 0 and makes the background a real one. Without it every pixel needs the colour of a class.

    data = open_dataset("task_1_dataset")
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from edgeinc import registry
from edgeinc.data import Image, Label, Mask
from edgeinc.data._exports import BACKGROUND, checked_name, inside
from edgeinc.data._files import IMAGE_SUFFIXES, named, read_color_mask, read_image
from edgeinc.data._listed import Listed
from edgeinc.data._official import read_lines
from edgeinc.data._split import by_split, hashed_split, read_lists
from edgeinc.errors import DataError
from edgeinc.schema import VOID

__all__ = ["Cvat"]

_TABLE = "labelmap.txt"
_MASKS = "SegmentationClass"
_LINE = re.compile(r"(?P<name>.+?):\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(?::.*)?")


class Cvat(Listed):
    """One export, unpacked. Images and lists are looked up once, when they are first asked for."""

    def __init__(self, root: Path) -> None:
        """Read the table of colours.

        Args:
            root: The folder.

        Raises:
            DataError: labelmap.txt is missing or wrong.
        """
        super().__init__(root)
        self._labels = _read_table(root / _TABLE)
        self.background = "real" if self._labels[0].name == BACKGROUND.name else "none"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder has the table of colours and the folder of masks."""
        return (root / _TABLE).is_file() and (root / _MASKS).is_dir()

    @property
    def labels(self) -> tuple[Label, ...]:
        return self._labels

    def image(self, image_id: str) -> Image:
        return read_image(self.image_file(image_id))

    def image_file(self, image_id: str) -> Path:
        self._check(image_id)
        path = self._images.get(named(image_id))
        if path is None:
            raise DataError(
                f"{self._lists[image_id]} lists '{image_id}', which has no image in {self.root}",
                hint='export again with "Save images", or put the image into JPEGImages/',
            )
        return path

    def mask(self, image_id: str) -> Mask:
        (path,) = self.mask_files(image_id)
        return read_color_mask(path, {label.color: label.id for label in self._labels})

    def mask_files(self, image_id: str) -> tuple[Path, ...]:
        self._check(image_id)
        expected = self.root / _MASKS / f"{image_id}.png"
        return (self._masks.get(named(image_id), expected),)

    def notes(self) -> tuple[str, ...]:
        bare = [i for ids in self._listed.values() for i in ids if named(i) not in self._masks]
        if not bare:
            return ()
        return (
            f"{len(bare)} images are left out, such as '{bare[0]}': nothing was drawn in them, and "
            "CVAT writes no mask then",
        )

    def strays(self) -> tuple[Path, ...]:
        listed = {named(image_id) for image_id in self._lists}
        return tuple(path for name, path in self._masks.items() if name not in listed)

    def _check(self, image_id: str) -> None:
        if image_id not in self._lists:
            raise DataError(
                f"{self.root} has no image '{image_id}'",
                hint=registry.suggest(image_id, tuple(self._lists)[:1000]),
            )

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Split -> its list."""
        folder = self.root / "ImageSets" / "Segmentation"
        found = sorted(folder.glob("*.txt"))
        if not found:
            raise DataError(
                f"{folder} has no list of images",
                hint='export as "Segmentation mask 1.1", and unpack all of it',
            )
        return by_split({path: path.stem for path in found})

    @cached_property
    def _listed(self) -> dict[str, tuple[str, ...]]:
        """Split -> the image ids of its list."""
        listed = read_lists(self._files)
        for split, ids in listed.items():
            for image_id in ids:
                inside(image_id, str(self._files[split]))
        return listed

    @cached_property
    def _lists(self) -> dict[str, Path]:
        """Image id -> the list it stands in."""
        return {i: self._files[split] for split, ids in self._listed.items() for i in ids}

    @cached_property
    def _ids(self) -> dict[str, tuple[str, ...]]:
        drawn = {
            s: tuple(i for i in ids if named(i) in self._masks) for s, ids in self._listed.items()
        }
        for split, ids in drawn.items():
            if not ids:
                raise DataError(
                    f"{self._files[split]} lists no image with a mask in {self.root / _MASKS}",
                    hint="CVAT writes none where nothing was drawn: annotate, and export again",
                )
        return drawn if len(drawn) > 1 else hashed_split(drawn["train"])

    @cached_property
    def _masks(self) -> dict[str, Path]:
        """Name without ending -> mask."""
        return _files_below(self.root / _MASKS, (".png",))

    @cached_property
    def _images(self) -> dict[str, Path]:
        """Name without ending -> image file, from the first of the known places that has any."""
        for folder in (self.root / "JPEGImages", self.root / "images", self.root):
            found = _files_below(folder, IMAGE_SUFFIXES)
            if found:
                return found
        return {}


def _files_below(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Name without ending, with its sub-folders -> file."""
    found: dict[str, Path] = {}
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix.lower() not in suffixes or name.startswith("."):
                continue
            key = named(path.relative_to(folder).with_suffix("").as_posix())
            if key in found:
                raise DataError(
                    f"{found[key].name} and {name} in {place} share one name",
                    hint="rename one of them",
                )
            found[key] = path
    return found


# ------------------------------------------------------------------------------ labelmap.txt


def _read_table(path: Path) -> tuple[Label, ...]:
    lines = read_lines(path, hint='export as "Segmentation mask 1.1", and unpack all of it')
    found: list[Label] = []
    for line in map(str.strip, lines):
        if line.startswith("#"):
            continue
        label = _parse(line, path)
        for other in found:
            for what in ("name", "color"):
                if getattr(other, what) == getattr(label, what):
                    raise DataError(
                        f"{path}: line {line!r} has the {what} of '{other.name}'",
                        hint="every class needs a name and a colour of its own",
                    )
        found.append(label)
    if not found:
        raise DataError(f"{path} names no class", hint="export it again")
    if len(found) > VOID:
        raise DataError(f"{path} names {len(found)} classes", hint=f"at most {VOID} fit in a mask")
    found.sort(key=lambda label: label.name != BACKGROUND.name)
    return tuple(Label(i, label.name, label.color) for i, label in enumerate(found))


def _parse(line: str, path: Path) -> Label:
    """One line as a label whose id is not known yet."""
    match = _LINE.fullmatch(line)
    color = tuple(map(int, match.groups()[1:])) if match else ()
    if match is None or max(color) > 255:
        raise DataError(
            f"{path}: line {line!r} is not a class", hint="write it as name:red,green,blue::"
        )
    name = checked_name(match["name"].strip(), str(path))
    return Label(0, name, (color[0], color[1], color[2]))
