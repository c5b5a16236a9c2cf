"""A folder of your own: images/, masks/ and classes.toml.

    images/a street.jpg     PNG, JPEG, BMP or WebP
    masks/a street.png      same stem; a PNG of class ids, or of the classes' colours
    classes.toml            the classes, see below
    train.txt, val.txt      optional, and test.txt: one stem per line; without them 80 % of the
                            images are `train` and 20 % `val`, decided by a hash of the stem

classes.toml, where `background`, `masks` and `void` may be left out:

    background = "none"     # or "real": the class with id 0 is a background
    masks = "index"         # a mask's values are ids; or "color": its colours are the classes'
    void = 255              # value of pixels that have no label, the default

    [[class]]
    id = 0                  # 0 to 254, the value in the masks
    name = "road"
    color = [128, 64, 128]  # red, green, blue

With `masks = "color"`, `void` is a colour, such as `void = [0, 0, 0]`; without it every pixel must
have the colour of a class.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from edgeinc import registry
from edgeinc.data import Image, Label, Mask
from edgeinc.data._class_table import read_table, table_text
from edgeinc.data._files import (
    IMAGE_SUFFIXES,
    checked_ids,
    encode_png,
    named,
    read_color_mask,
    read_image,
    read_mask,
)
from edgeinc.data._listed import Listed
from edgeinc.data._split import hashed_split
from edgeinc.errors import DataError
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import disk_may_fill, write_atomic
from edgeinc.schema import VOID, Background

__all__ = ["SPLITS", "TABLE", "Folder", "write_folder"]

SPLITS = ("train", "val", "test")
TABLE = "classes.toml"


class Folder(Listed):
    """One folder. What lies in it is listed once, when it is first asked for."""

    def __init__(self, root: Path) -> None:
        """Read the class table.

        Args:
            root: The folder.

        Raises:
            DataError: classes.toml is missing or wrong; the message lists every fault.
        """
        super().__init__(root)
        self._table = read_table(root / TABLE)
        self.background = self._table.background

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder has a class table."""
        return (root / TABLE).is_file()

    @property
    def labels(self) -> tuple[Label, ...]:
        return self._table.labels

    def image(self, image_id: str) -> Image:
        return read_image(self.image_file(image_id))

    def mask(self, image_id: str) -> Mask:
        image, path = self.image_file(image_id), self._mask_path(image_id)
        if not path.is_file():
            raise DataError(
                f"image {image} has no mask: {path} is missing",
                hint="add the mask, or keep the image out of train.txt and val.txt",
            )
        if self._table.masks == "color":
            return read_color_mask(path, self._table.ids_by_color)
        stored = read_mask(path, if_color=f'set masks = "color" in {self.root / TABLE}, or ')
        mask = np.where(stored == self._table.void, np.uint8(VOID), stored)
        return checked_ids(mask, {label.id for label in self.labels}, path)

    def image_file(self, image_id: str) -> Path:
        stem = named(image_id)
        if stem not in self._images:
            raise DataError(
                f"{self.root / 'images'} has no image '{image_id}'",
                hint=registry.suggest(image_id, tuple(self._images)[:1000]),
            )
        return self._images[stem]

    def mask_files(self, image_id: str) -> tuple[Path, ...]:
        """The mask and the class table, which says what its values mean."""
        self.image_file(image_id)
        return self._mask_path(image_id), self.root / TABLE

    def strays(self) -> tuple[Path, ...]:
        return tuple(path for stem, path in self._masks.items() if stem not in self._images)

    def _mask_path(self, image_id: str) -> Path:
        return self._masks.get(named(image_id), self.root / "masks" / f"{image_id}.png")

    @cached_property
    def _images(self) -> dict[str, Path]:
        """Stem -> image file, sorted by stem."""
        folder = self.root / "images"
        if not folder.is_dir():
            broken = folder.is_symlink()
            raise DataError(
                f"{folder} is a symbolic link that leads nowhere"
                if broken
                else f"{folder} is missing",
                hint="put the images there",
            )
        found = _listed(folder, IMAGE_SUFFIXES, share="one mask")
        if not found:
            endings = ", ".join(IMAGE_SUFFIXES)
            raise DataError(f"{folder} has no image", hint=f"endings that are read: {endings}")
        return found

    @cached_property
    def _masks(self) -> dict[str, Path]:
        folder = self.root / "masks"
        return _listed(folder, (".png",), share="one image") if folder.is_dir() else {}

    @cached_property
    def _ids(self) -> dict[str, tuple[str, ...]]:
        lists = {split: self.root / f"{split}.txt" for split in SPLITS}
        # A link that leads nowhere is a list that cannot be read, not a list that is not there.
        present = {s: path for s, path in lists.items() if path.is_file() or path.is_symlink()}
        if not present:
            return hashed_split(tuple(self._images))
        if "train" not in present:
            raise DataError(
                f"{lists['train']} is missing", hint="write the list of every split, or none"
            )
        ids = {split: self._read_list(path) for split, path in present.items()}
        home: dict[str, str] = {}
        for split, listed in ids.items():
            both = home.keys() & set(listed)
            if both:
                first = min(both)
                raise DataError(
                    f"'{first}' is in {lists[home[first]]} and in {lists[split]}",
                    hint=f"every image belongs to one split; {len(both)} are in two",
                )
            home |= dict.fromkeys(listed, split)
        return ids

    def _read_list(self, path: Path) -> tuple[str, ...]:
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as err:
            raise DataError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from err
        except OSError as err:
            raise DataError(f"{path} cannot be read: {err.strerror}", hint="check it") from err
        stems = tuple(named(line.strip()) for line in lines if line.strip())
        if not stems:
            raise DataError(f"{path} lists no image", hint="write one stem per line")
        absent = [stem for stem in stems if stem not in self._images]
        if absent:
            bare = Path(absent[0]).stem
            more = f" and {len(absent) - 1} more, which are" if len(absent) > 1 else ", which is"
            raise DataError(
                f"{path} lists '{absent[0]}'{more} not in {self.root / 'images'}",
                hint=f"write '{bare}', without folder and ending"
                if bare in self._images
                else "add the image, or remove the line",
            )
        if len(set(stems)) < len(stems):
            twice = next(s for s in stems if stems.count(s) > 1)
            raise DataError(f"{path} lists '{twice}' twice", hint="remove one of the two lines")
        return stems


def _listed(folder: Path, suffixes: tuple[str, ...], *, share: str) -> dict[str, Path]:
    """Stem -> file of a folder, sorted by stem.

    Raises:
        DataError: The folder cannot be read, or two files have one stem: then they would `share`.
    """
    found: dict[str, Path] = {}
    try:
        files = sorted(folder.iterdir())
    except OSError as err:
        raise DataError(
            f"{folder} cannot be read: {err.strerror}", hint="check the folder's permissions"
        ) from err
    for path in files:
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if any("\ud800" <= sign <= "\udfff" for sign in path.name):
            raise DataError(
                f"{folder} has a file whose name is not UTF-8: {path.name!a}", hint="rename it"
            )
        stem = named(path.stem)
        if stem in found:
            raise DataError(
                f"{found[stem].name} and {path.name} in {folder} share {share}",
                hint="rename one of them",
            )
        found[stem] = path
    return dict(sorted(found.items()))


# ------------------------------------------------------------------------------ writing


def write_folder(
    out: Path,
    samples: Iterable[tuple[str, str, Image | Path, Mask]],
    *,
    labels: Sequence[Label],
    background: Background = "none",
    origin: str = "",
    total: int | None = None,
    progress: Progress = SILENT,
) -> int:
    """Write samples as a folder data set; classes.toml comes last and makes it complete.

    Args:
        out: The folder, made where it is absent; files of the same names are replaced.
        samples: (split, stem, image, mask), the split one of `SPLITS`; an image that is given as
            a path is copied byte for byte.
        labels: Classes of the masks.
        background: What the first class is.
        origin: A remark for the first line of classes.toml.
        total: Number of samples, where it is known, for the progress shown.
        progress: Told about every sample.

    Returns:
        Number of images written.

    Raises:
        RunError: The disk is full.
    """
    stems: dict[str, list[str]] = {split: [] for split in SPLITS}
    with disk_may_fill(out), progress.task("write", total=total, unit="img") as task:
        for name in ("images", "masks"):
            (out / name).mkdir(parents=True, exist_ok=True)
        for split, stem, image, mask in samples:
            if isinstance(image, Path):
                shutil.copyfile(image, out / "images" / f"{stem}{image.suffix.lower()}")
            else:
                (out / "images" / f"{stem}.png").write_bytes(encode_png(image))
            (out / "masks" / f"{stem}.png").write_bytes(encode_png(mask))
            stems[split].append(stem)
            task.advance()
    for split, listed in stems.items():
        if listed:
            write_atomic(out / f"{split}.txt", "".join(f"{s}\n" for s in listed).encode())
    write_atomic(out / TABLE, table_text(labels, background, origin=origin).encode())
    return sum(map(len, stems.values()))
