"""A folder of your own: images/, masks/ and classes.toml.

    images/a street.jpg     PNG, JPEG, BMP or WebP
    masks/a street.png      same stem; single-channel PNG whose values are class ids
    classes.toml            the classes, see below
    train.txt, val.txt      optional: one stem per line; without them 80 % of the images are
                            `train` and 20 % `val`, decided by a hash of the stem

classes.toml, where `background` and `void` may be left out:

    background = "none"     # or "real": the class with id 0 is a background
    void = 255              # value of pixels that have no label

    [[class]]
    id = 0                  # 0 to 254, the value in the masks
    name = "road"
    color = [128, 64, 128]  # red, green, blue
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgeinc import registry
from edgeinc.data import Dataset, Image, Label, Mask
from edgeinc.data._files import (
    IMAGE_SUFFIXES,
    checked_ids,
    encode_png,
    read_image,
    read_mask,
)
from edgeinc.errors import DataError, UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import write_atomic
from edgeinc.schema import VOID, Background, Size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Folder", "write_folder"]

_TABLE = "classes.toml"
_LONGEST = 512
_CLASS_KEYS = ("id", "name", "color")
_KEYS = ("background", "void", "class")


class Folder(Dataset):
    """One folder. What lies in it is listed once, when it is first asked for."""

    def __init__(self, root: Path) -> None:
        """Read the class table.

        Args:
            root: The folder.

        Raises:
            DataError: classes.toml is missing or wrong; the message lists every fault.
        """
        super().__init__(root)
        self._labels, self.background, self._void = _read_table(root / _TABLE)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder has a class table."""
        return (root / _TABLE).is_file()

    @property
    def labels(self) -> tuple[Label, ...]:
        return self._labels

    @property
    def default_size(self) -> Size:
        """The first image's size, reduced to at most 512 pixels on the longer side."""
        height, width = self.image(next(iter(self._images))).shape[:2]
        factor = min(1.0, _LONGEST / max(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))

    def splits(self) -> tuple[str, ...]:
        return tuple(self._ids)

    def ids(self, split: str) -> tuple[str, ...]:
        if split not in self._ids:
            raise UsageError(
                f"{self.root} has no split '{split}'", hint=registry.suggest(split, self.splits())
            )
        return self._ids[split]

    def image(self, image_id: str) -> Image:
        return read_image(self._image_path(image_id))

    def mask(self, image_id: str) -> Mask:
        image, path = self._image_path(image_id), self.root / "masks" / f"{image_id}.png"
        if not path.is_file():
            raise DataError(
                f"image {image} has no mask: {path} is missing",
                hint="add the mask, or keep the image out of train.txt and val.txt",
            )
        stored = read_mask(path)
        mask = np.where(stored == self._void, np.uint8(VOID), stored)
        return checked_ids(mask, {label.id for label in self._labels}, path)

    def _image_path(self, image_id: str) -> Path:
        if image_id not in self._images:
            raise DataError(
                f"{self.root / 'images'} has no image '{image_id}'",
                hint=registry.suggest(image_id, tuple(self._images)[:1000]),
            )
        return self._images[image_id]

    @cached_property
    def _images(self) -> dict[str, Path]:
        """Stem -> image file, sorted by stem."""
        folder = self.root / "images"
        if not folder.is_dir():
            raise DataError(f"{folder} is missing", hint="put the images there")
        found: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
                continue
            if path.stem in found:
                raise DataError(
                    f"{found[path.stem].name} and {path.name} in {folder} share one mask",
                    hint="rename one of them",
                )
            found[path.stem] = path
        if not found:
            endings = ", ".join(IMAGE_SUFFIXES)
            raise DataError(f"{folder} has no image", hint=f"endings that are read: {endings}")
        return dict(sorted(found.items()))

    @cached_property
    def _ids(self) -> dict[str, tuple[str, ...]]:
        lists = {s: self.root / f"{s}.txt" for s in ("train", "val")}
        present = {split: path for split, path in lists.items() if path.is_file()}
        if not present:
            return _hashed_split(tuple(self._images))
        if "train" not in present:
            raise DataError(
                f"{lists['train']} is missing", hint="write both lists, or neither of them"
            )
        ids = {split: self._read_list(path) for split, path in present.items()}
        both = set(ids["train"]) & set(ids.get("val", ()))
        if both:
            raise DataError(
                f"'{min(both)}' is in {lists['train']} and in {lists['val']}",
                hint=f"every image belongs to one split; {len(both)} are in two",
            )
        return ids

    def _read_list(self, path: Path) -> tuple[str, ...]:
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as err:
            raise DataError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from err
        stems = tuple(line.strip() for line in lines if line.strip())
        if not stems:
            raise DataError(f"{path} lists no image", hint="write one stem per line")
        for stem in stems:
            if stem not in self._images:
                bare = Path(stem).stem
                known = bare if bare in self._images else ""
                raise DataError(
                    f"{path} lists '{stem}', which is not in {self.root / 'images'}",
                    hint=f"write '{known}', without folder and ending"
                    if known
                    else "add the image, or remove the line",
                )
        if len(set(stems)) < len(stems):
            twice = next(s for s in stems if stems.count(s) > 1)
            raise DataError(f"{path} lists '{twice}' twice", hint="remove one of the two lines")
        return stems


def _hashed_split(stems: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """80/20 by hash: an image keeps its side when others are added."""
    held_out = {s for s in stems if hashlib.sha256(s.encode()).digest()[0] < 51}  # 51 / 256
    if not held_out or len(held_out) == len(stems):
        return {"train": stems}
    return {
        "train": tuple(s for s in stems if s not in held_out),
        "val": tuple(s for s in stems if s in held_out),
    }


# ------------------------------------------------------------------------------ classes.toml


def _read_table(path: Path) -> tuple[tuple[Label, ...], Background, int]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as err:
        raise DataError(
            f"{path} is missing", hint="`edgeinc show folder` prints what belongs in it"
        ) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise DataError(f"{path} is not valid TOML: {err}", hint="mend that place") from err
    problems = _unknown_keys(table, _KEYS)
    background, void = table.get("background", "none"), table.get("void", VOID)
    if background not in ("none", "real"):
        problems.append(f"background is {background!r}, allowed are 'none' and 'real'")
    if not _is_id(void, 255):
        problems.append(f"void is {void!r}, allowed are 0 to 255")
    entries = table.get("class", [])
    if not isinstance(entries, list) or not entries:
        problems.append("there is no [[class]]")
        entries = []
    labels: list[Label] = []
    for number, entry in enumerate(entries, 1):
        faults = _class_faults(entry)
        problems += [f"class {number}: {fault}" for fault in faults]
        if not faults:
            labels.append(Label(entry["id"], entry["name"], tuple(entry["color"])))
    labels.sort(key=lambda label: label.id)
    problems += _table_faults(labels, background, void)
    if problems:
        raise DataError(
            f"{path}: {'; '.join(problems)}", hint="`edgeinc show folder` prints an example"
        )
    return tuple(labels), background, void


def _class_faults(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return ["it is not a [[class]] table"]
    missing = [f"key '{key}' is missing" for key in _CLASS_KEYS if key not in entry]
    faults = _unknown_keys(entry, _CLASS_KEYS) + missing
    class_id, name, color = (entry.get(key) for key in _CLASS_KEYS)
    if "id" in entry and not _is_id(class_id, VOID - 1):
        faults.append(f"id is {class_id!r}, allowed are 0 to {VOID - 1}")
    if "name" in entry and not (isinstance(name, str) and name.strip() and "," not in name):
        faults.append(f"name is {name!r}, it must be text without a comma")
    if "color" in entry and not (
        isinstance(color, list) and len(color) == 3 and all(_is_id(c, 255) for c in color)
    ):
        faults.append(f"color is {color!r}, it must be [red, green, blue] of 0 to 255")
    return faults


def _table_faults(labels: Sequence[Label], background: str, void: int) -> list[str]:
    """What is wrong with classes that are each well formed, sorted by id."""
    faults = []
    names: dict[int, str] = {}
    for label in labels:
        if label.id in names:
            faults.append(f"id {label.id} has two names, '{names[label.id]}' and '{label.name}'")
        elif label.name in names.values():
            faults.append(f"name '{label.name}' is given twice")
        if label.id == void:
            faults.append(f"id {label.id} of '{label.name}' is the void value")
        names[label.id] = label.name
    if background == "real" and labels and labels[0].id != 0:
        faults.append(f"background is 'real', but the first id is {labels[0].id} instead of 0")
    return faults


def _unknown_keys(table: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    return [
        f"unknown key '{key}', {registry.suggest(key, known)}" for key in table if key not in known
    ]


def _is_id(value: object, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest


# ------------------------------------------------------------------------------ writing


def write_folder(
    out: Path,
    samples: Iterable[tuple[str, str, Image, Mask]],
    *,
    labels: Sequence[Label],
    background: Background = "none",
    total: int | None = None,
    progress: Progress = SILENT,
) -> int:
    """Write samples as a folder data set; classes.toml comes last and makes it complete.

    Args:
        out: The folder, made where it is absent; files of the same names are replaced.
        samples: (split, stem, image, mask), split `train` or `val`.
        labels: Classes of the masks.
        background: What the first class is.
        total: Number of samples, where it is known, for the progress shown.
        progress: Told about every sample.

    Returns:
        Number of images written.
    """
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    stems: dict[str, list[str]] = {"train": [], "val": []}
    with progress.task("write", total=total, unit="img") as task:
        for split, stem, image, mask in samples:
            (out / "images" / f"{stem}.png").write_bytes(encode_png(image))
            (out / "masks" / f"{stem}.png").write_bytes(encode_png(mask))
            stems[split].append(stem)
            task.advance()
    for split, listed in stems.items():
        if listed:
            write_atomic(out / f"{split}.txt", "".join(f"{s}\n" for s in listed).encode())
    write_atomic(out / _TABLE, _table_text(labels, background).encode())
    return sum(map(len, stems.values()))


def _table_text(labels: Sequence[Label], background: Background) -> str:
    lines = [f'background = "{background}"', f"void = {VOID}"]
    for label in labels:
        name = json.dumps(label.name, ensure_ascii=False)  # a JSON string is a TOML string
        color = ", ".join(map(str, label.color))
        lines += ["", "[[class]]", f"id = {label.id}", f"name = {name}", f"color = [{color}]"]
    return "\n".join(lines) + "\n"
