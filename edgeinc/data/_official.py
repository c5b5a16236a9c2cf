"""What the research data sets have in common: one image file and one mask file per id, by rule.

A data set says where a split is listed, which ids it has and which two files an id stands for.
Everything that is absent is one line with its path, and the hint names the download page.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from edgeinc import registry
from edgeinc.data import Dataset, Image, Label, Mask
from edgeinc.data._files import checked_ids, read_image, read_mask
from edgeinc.errors import DataError, UsageError

__all__ = ["Official", "file_names", "read_lines"]


class Official(Dataset):
    """A data set in the layout of its makers. A subset of it is as good as the whole.

    A copy without training images may still be scored.

    Attributes:
        split_names: Every split there can be; a copy has those that it has a place for.
    """

    split_names: ClassVar[tuple[str, ...]] = ("train", "val")

    @property
    def labels(self) -> tuple[Label, ...]:
        return self.fixed_labels

    def splits(self) -> tuple[str, ...]:
        found = tuple(s for s in self.split_names if self._has(s))
        return found or self.split_names[:1]

    def ids(self, split: str) -> tuple[str, ...]:
        if split not in self.split_names:
            raise UsageError(
                f"{self.ref.name} has no split '{split}'",
                hint=registry.suggest(split, self.split_names),
            )
        return self._ids[split] if split in self._ids else self._listed(split)

    def image(self, image_id: str) -> Image:
        return read_image(self._present(self._files(image_id)[0], "image"))

    def mask(self, image_id: str) -> Mask:
        path = self._present(self._files(image_id)[1], "mask")
        return checked_ids(read_mask(path), range(len(self.labels)), path)

    def image_file(self, image_id: str) -> Path:
        return self._files(image_id)[0]

    def mask_files(self, image_id: str) -> tuple[Path, ...]:
        return (self._files(image_id)[1],)

    @property
    def _way_out(self) -> str:
        """The hint where a file or a folder is missing."""
        return f"obtain it from {self.homepage}"

    @abstractmethod
    def _place(self, split: str) -> Path:
        """The list or the folder a split is read from."""

    def _has(self, split: str) -> bool:
        return self._place(split).exists()

    @abstractmethod
    def _read(self, split: str) -> tuple[str, ...]:
        """The ids found at the place of a split."""

    @abstractmethod
    def _files(self, image_id: str) -> tuple[Path, Path]:
        """The image and the mask, where they should be; asks `_split_of` whether there is such."""

    @cached_property
    def _ids(self) -> dict[str, tuple[str, ...]]:
        ids = {split: self._listed(split) for split in self.splits()}
        home: dict[str, str] = {}
        for split, listed in ids.items():
            for image_id in listed:
                if image_id in home:
                    raise DataError(
                        f"'{image_id}' is in {self._place(home[image_id])} "
                        f"and in {self._place(split)}",
                        hint="an image is listed once, in one split",
                    )
                home[image_id] = split
        return ids

    @cached_property
    def _home(self) -> dict[str, str]:
        """Image id -> its split."""
        return {image_id: split for split, ids in self._ids.items() for image_id in ids}

    def _split_of(self, image_id: str) -> str:
        if image_id not in self._home:
            raise DataError(
                f"{self.ref.name} has no image '{image_id}'", hint=f"its files are in {self.root}"
            )
        return self._home[image_id]

    def _listed(self, split: str) -> tuple[str, ...]:
        ids = self._read(split)
        if not ids:
            raise DataError(
                f"{self._place(split)} has no image of '{split}'",
                hint=self._way_out,
            )
        return ids

    def _present(self, path: Path, what: str) -> Path:
        if not path.is_file():
            raise DataError(f"{what} {path} is missing", hint=self._way_out)
        return path


def file_names(folder: Path, *, hint: str) -> list[str]:
    """Sorted names of what lies in a folder, hidden files left out; opens none.

    Args:
        folder: The folder.
        hint: The way out where it is missing.

    Raises:
        DataError: The folder is missing or cannot be read.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208  # 20,000 names: no Path object for each
    except FileNotFoundError as err:
        raise DataError(f"{folder} is missing", hint=hint) from err
    except OSError as err:
        raise DataError(
            f"{folder} cannot be read: {err.strerror}", hint="it must be a readable folder"
        ) from err
    return sorted(name for name in names if not name.startswith("."))


def read_lines(path: Path, *, hint: str) -> list[str]:
    """The lines of a text file that are not blank.

    Args:
        path: The file.
        hint: The way out where it is missing.

    Raises:
        DataError: The file is missing, cannot be read or is not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as err:
        raise DataError(f"{path} is missing", hint=hint) from err
    except UnicodeDecodeError as err:
        raise DataError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from err
    except OSError as err:
        raise DataError(
            f"{path} cannot be read: {err.strerror}", hint="it must be a readable file"
        ) from err
    return [line for line in text.split("\n") if line.strip()]
