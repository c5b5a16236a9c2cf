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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeinc import registry
from edgeinc.errors import DataError, UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.schema import Background, Color, DataRef, Size

__all__ = ["Data", "Dataset", "Image", "Label", "Mask", "open_dataset"]

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
        fixed_labels: The classes of every copy, where the format fixes them; () where each copy
            says itself what its classes are.
    """

    background: Background = "none"
    homepage: str = ""
    fixed_labels: ClassVar[tuple[Label, ...]] = ()

    archive: Path | None = None
    """The .zip that `root` was unpacked from."""

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
        """The recording or place an image belongs to; contiguous parts are cut inside it.

        Unless a format knows better it is the folder that the id begins with, "" where none.
        """
        return image_id.rpartition("/")[0]

    def image_file(self, image_id: str) -> Path | None:
        """The file that `image` shows as it is, where there is one: it may be copied instead."""
        return None

    def mask_files(self, image_id: str) -> tuple[Path, ...]:
        """The files a mask is made from: what was read of it is kept as long as they are the same.

        () means that there is none: then nothing is kept.
        """
        return ()

    def strays(self) -> tuple[Path, ...]:
        """Masks that no image belongs to, where the format can tell."""
        return ()

    def notes(self) -> tuple[str, ...]:
        """What the format leaves out and why, for `data check` to say."""
        return ()

    def source(self, image_id: str) -> Dataset:
        """The data set an image comes from: this one, unless several were joined."""
        return self

    def declared(self, image_id: str) -> frozenset[str]:
        """The classes that are labelled in this image wherever they occur.

        Any other class may be there without a label, so a pixel of this image that has no class
        of these is not known to be background.
        """
        return frozenset(label.name for label in self.labels)

    @property
    def ref(self) -> DataRef:
        """How a run remembers this data."""
        name = type(self).__module__.rpartition(".")[2]
        return DataRef(name, str(self.archive or self.root))

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


Data: TypeAlias = "str | os.PathLike[str] | DataRef | Sequence[str | os.PathLike[str]]"
"""What names labelled images: a data set, a path, what a run recorded, or several of the first."""


def open_dataset(
    data: Data,
    *,
    data_root: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """Open a dataset by name, by the path of data in a known format, or as a run recorded it.

    Several names or paths are joined: see `_sources`. A .zip archive is unpacked once into the
    user's cache folder: see `_archive`.

    A name is looked for under `data_root`, `$EDGEINC_DATA_ROOT`, `./data`, in this order; the
    folder may also be the data set itself. What a run recorded is opened where it was, or under
    `data_root` if that is given.

    Raises:
        UsageError: Neither a known name nor an existing path.
        DataError: The format is not recognised, an archive is not safe to unpack, or files of the
            dataset are missing.
    """
    if isinstance(data, DataRef) and data.more:
        alone = DataRef(data.name, data.root)
        every = [alone, *(DataRef(each.name, each.root) for each in data.more)]
        return _join([open_dataset(each, data_root=data_root) for each in every])
    if isinstance(data, Sequence) and not isinstance(data, str):
        opened = [open_dataset(each, data_root=data_root, progress=progress) for each in data]
        return _join(opened)
    if isinstance(data, DataRef):
        if not data.name:
            raise UsageError(
                "this run came from published weights and knows no data",
                hint="add --data NAME|PATH",
            )
        root = _absolute(Path(data_root)) / data.name if data_root else Path(data.root)
        if root.suffix.lower() == ".zip" and not root.is_dir():
            return _recognised(root, progress)
        try:
            return registry.load("datasets", data.name)(root)  # type: ignore[no-any-return]
        except DataError as err:
            if root.exists():
                raise
            raise DataError(
                f"the run's data is not at {root} any more", hint="say where it is: --data PATH"
            ) from err
    text = os.fspath(data)
    if text in registry.names("datasets"):
        root = _absolute(Path(data_root or os.environ.get("EDGEINC_DATA_ROOT") or "data"))
        plugin = registry.load("datasets", text)
        # The folder that was named may be the data set itself, as it was unpacked.
        here = not (root / text).exists() and plugin.recognises(root)
        return plugin(root if here else root / text)  # type: ignore[no-any-return]
    path = Path(text)
    if path.is_symlink() and not path.exists():
        raise UsageError(
            f"{path} is a symbolic link that leads nowhere", hint="give the path it should lead to"
        )
    if not path.exists():
        raise UsageError(
            f"'{text}' is neither a dataset nor a folder",
            hint=f"{registry.suggest(text, registry.names('datasets'))} see `edgeinc ls datasets`",
        )
    return _recognised(path, progress)


def _recognised(path: Path, progress: Progress) -> Dataset:
    """The data set that a folder, a file or an archive holds."""
    from edgeinc.data import _archive  # only archives need what it imports

    packed = _archive.is_archive(path)
    place: Path | None = _archive.unpack(path, progress=progress) if packed else path
    while place is not None:
        for name in registry.names("datasets"):
            plugin = registry.load("datasets", name)
            if plugin.recognises(place):
                dataset: Dataset = plugin(_absolute(place))
                dataset.archive = _absolute(path) if packed else None
                return dataset
        place = _archive.only_folder(place) if packed else None
    raise DataError(
        f"no dataset format recognised in {path}",
        hint="a folder dataset has images/, masks/ and classes.toml; see `edgeinc show folder`",
    )


def _absolute(path: Path) -> Path:
    """The path without links; unlike `Path.resolve` it bears links that lead in a circle."""
    return Path(os.path.realpath(path))


def _join(sources: Sequence[Dataset]) -> Dataset:
    if len(sources) == 1:
        return sources[0]
    if not sources:
        raise UsageError("no data was named", hint="add --data NAME or --data DIR")
    from edgeinc.data._sources import Sources  # it builds on what this module defines

    return Sources(sources)
