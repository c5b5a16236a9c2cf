"""Labelled images: numpy in, numpy out, no torch.

One file per dataset or label format; files with a leading underscore are machinery. A plug-in
declares its classes, lists image ids per split and reads one image or one mask; which classes a
step may see is decided elsewhere (`_labels`), so that every dataset obeys the same rule.

    data = open_dataset("camvid", data_root="/data")
    image, mask = data.image("0001TP_006690"), data.mask("0001TP_006690")
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinc import registry
from edgeinc.errors import DataError, UsageError
from edgeinc.schema import Background, Color, DataRef, Size

__all__ = ["Dataset", "Image", "Label", "Mask", "open_dataset"]

Image = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""
Mask = npt.NDArray[np.uint8]
"""(H, W) label ids."""


@dataclass(frozen=True)
class Label:
    """A class as a dataset knows it: `id` is the value in its masks."""

    id: int
    name: str
    color: Color


class Dataset(ABC):
    """A labelled set of images. The class attributes describe the format, `root` is one copy.

    Attributes:
        background: `none` (every label is a thing or stuff class, the rest is void) or `real`
            (the first label is a background class of its own).
        homepage: Where to obtain the data, named when files are missing; "" when it is generated.
    """

    background: Background = "none"
    homepage: str = ""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a folder holds this format; asked when `--data` is given a path."""
        return False

    @property
    @abstractmethod
    def labels(self) -> tuple[Label, ...]:
        """The classes in id order."""

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, `train` first and `val` where there is one."""

    @abstractmethod
    def ids(self, split: str) -> tuple[str, ...]:
        """Image ids of a split in a fixed order; unique over all splits. Opens no image.

        Raises:
            UsageError: No such split.
            DataError: The list or folder is missing or empty.
        """

    @abstractmethod
    def image(self, image_id: str) -> Image:
        """Read one image.

        Raises:
            DataError: The file is missing, truncated or not an image.
        """

    @abstractmethod
    def mask(self, image_id: str) -> Mask:
        """Read one mask with this dataset's ids, void as `schema.VOID`, checked.

        Raises:
            DataError: The file is missing, has more than one channel or an id outside `labels`.
        """

    @property
    def default_size(self) -> Size:
        """Training size (height, width) when the user gives none."""
        return 360, 480

    def sequence(self, image_id: str) -> str:
        """The recording an image belongs to; contiguous parts are cut inside sequences."""
        return ""

    @property
    def ref(self) -> DataRef:
        """How a run remembers this data."""
        return DataRef(type(self).__module__.rpartition(".")[2], str(self.root))

    def label(self, name: str) -> Label:
        """The label of that name.

        Raises:
            UsageError: No such class; the message names the nearest.
        """
        for label in self.labels:
            if label.name == name:
                return label
        names = tuple(label.name for label in self.labels)
        raise UsageError(
            f"unknown class '{name}' in {self.ref.name}", hint=registry.suggest(name, names)
        )


def open_dataset(
    data: str | os.PathLike[str] | DataRef, *, data_root: str | os.PathLike[str] | None = None
) -> Dataset:
    """Open a dataset by name, by the path of a folder in a known format, or as a run recorded it.

    A name is looked for under `data_root`, `$EDGEINC_DATA_ROOT`, `./data`, in this order. What a
    run recorded is opened where it was, or under `data_root` if that is given.

    Raises:
        UsageError: Neither a known name nor an existing folder.
        DataError: The folder's format is not recognised, or files of the dataset are missing.
    """
    if isinstance(data, DataRef):
        root = Path(data_root).resolve() / data.name if data_root else Path(data.root)
        return registry.load("datasets", data.name)(root)  # type: ignore[no-any-return]
    text = os.fspath(data)
    if text in registry.names("datasets"):
        root = Path(data_root or os.environ.get("EDGEINC_DATA_ROOT") or "data")
        return registry.load("datasets", text)(root.resolve() / text)  # type: ignore[no-any-return]
    path = Path(text)
    if not path.is_dir():
        raise UsageError(
            f"'{text}' is neither a dataset nor a folder",
            hint=f"{registry.suggest(text, registry.names('datasets'))} see `edgeinc ls datasets`",
        )
    for name in registry.names("datasets"):
        plugin = registry.load("datasets", name)
        if plugin.recognises(path):
            return plugin(path.resolve())  # type: ignore[no-any-return]
    raise DataError(
        f"no dataset format recognised in {path}",
        hint="a folder dataset has images/, masks/ and classes.toml; see `edgeinc show folder`",
    )
