"""What `edgeinc data info` and `edgeinc data check` say about a data set.

Rules: `check` goes on after a fault and lists them all; a *problem* stops or spoils training, a
*warning* is a class that is rarer than one would expect.

    report = check("my-folder")
    report.ok, report.problems
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from edgeinc.data import Dataset, open_dataset
from edgeinc.data._files import read_pair
from edgeinc.errors import DataError
from edgeinc.progress import SILENT, Progress
from edgeinc.schema import ClassCount, DataCheck, DataInfo

__all__ = ["check", "info"]

FEW_IMAGES = 5
"""A class in fewer images of `train` than this is worth a warning."""
FEW_PIXELS = 2e-4
"""And so is a class with a smaller part of the labelled pixels of `train`."""

Histogram = npt.NDArray[np.int64]


def info(data: str, *, data_root: str | os.PathLike[str] | None = None) -> DataInfo:
    """The classes and splits of a data set, and the size of its first image.

    Args:
        data: Name of a data set, or path of a folder in a known format.
        data_root: Folder that holds data sets by name.

    Raises:
        UsageError: Neither a known name nor an existing folder.
        DataError: Lists or files of the data set are missing or wrong.
    """
    dataset = open_dataset(data, data_root=data_root)
    splits = {split: len(dataset.ids(split)) for split in dataset.splits()}
    height, width = dataset.image(dataset.ids(dataset.splits()[0])[0]).shape[:2]
    return DataInfo(
        name=dataset.ref.name,
        root=dataset.ref.root,
        background=dataset.background,
        classes=tuple(label.name for label in dataset.labels),
        splits=splits,
        size=(height, width),
    )


def check(
    data: str,
    *,
    data_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    progress: Progress = SILENT,
) -> DataCheck:
    """Read every image and every mask, and list everything that is wrong with them.

    Args:
        data: Name of a data set, or path of a folder in a known format.
        data_root: Folder that holds data sets by name.
        limit: Read only the first images of each split.
        progress: Told about every image.

    Raises:
        UsageError: Neither a known name nor an existing folder.
        DataError: The format is not recognised, or the class table or a list is wrong: then
            there is nothing to check image by image.
    """
    dataset = open_dataset(data, data_root=data_root)
    ids = {split: dataset.ids(split)[:limit] for split in dataset.splits()}
    problems: list[str] = []
    counts: dict[str, tuple[ClassCount, ...]] = {}
    with progress.task("check", total=sum(map(len, ids.values())), unit="img") as task:
        for split, listed in ids.items():
            pixels = np.zeros(256, np.int64)
            images = np.zeros(256, np.int64)
            for image_id in listed:
                histogram = _histogram(dataset, image_id, problems)
                pixels += histogram
                images += histogram > 0
                task.advance(note=f"{len(problems)} problems" if problems else "")
            counts[split] = _counts(dataset, images, pixels)
    return DataCheck(
        data=dataset.ref,
        images={split: len(listed) for split, listed in ids.items()},
        counts=counts,
        problems=tuple(problems),
        warnings=tuple(_warnings(counts)) if limit is None else (),
        ok=not problems,
    )


def _histogram(dataset: Dataset, image_id: str, problems: list[str]) -> Histogram:
    """Pixels of each id in one mask; all zero where the pair is not usable."""
    try:
        _, mask = read_pair(dataset, image_id)
    except DataError as err:
        problems.append(err.message)
        # The first fault of a pair hides one in its mask: a broken image may have both.
        problems += [p for p in _mask_problem(dataset, image_id) if p != err.message]
        return np.zeros(256, np.int64)
    return np.bincount(mask.ravel(), minlength=256)


def _mask_problem(dataset: Dataset, image_id: str) -> list[str]:
    try:
        dataset.mask(image_id)
    except DataError as err:
        return [err.message]
    return []


def _counts(dataset: Dataset, images: Histogram, pixels: Histogram) -> tuple[ClassCount, ...]:
    return tuple(
        ClassCount(
            label.id,
            label.name,
            label.color,
            images=int(images[label.id]),
            pixels=int(pixels[label.id]),
        )
        for label in dataset.labels
    )


def _warnings(counts: dict[str, tuple[ClassCount, ...]]) -> list[str]:
    """Classes that do not occur, and classes that are rare in `train`."""
    found = []
    for split, classes in counts.items():
        labelled = sum(c.pixels for c in classes)
        for entry in classes:
            part = entry.pixels / labelled if labelled else 0.0
            if entry.pixels == 0:
                found.append(f"class '{entry.name}' does not occur in {split}")
            elif split == "train" and entry.images < FEW_IMAGES:
                found.append(f"class '{entry.name}' is in {entry.images} images of train only")
            elif split == "train" and part < FEW_PIXELS:
                found.append(f"class '{entry.name}' has {part:.4%} of the labelled pixels of train")
    return found
