"""What `edgeinc data info` and `edgeinc data check` say about a data set.

Rules: `check` goes on after a fault and lists them all. A *problem* stops or spoils training: files
that cannot be read, images without masks and masks without images, sizes, ids and colours that do
not fit. A *warning* is worth a look: classes too rare to learn, images of `val` that look like
images of `train`, images without labels, classes of one colour.

    report = check("my-folder")
    report.ok, report.problems
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.data import Dataset, open_dataset
from edgeinc.data._copies import Fingerprint, fingerprint, near_copies
from edgeinc.data._files import read_pair
from edgeinc.errors import DataError
from edgeinc.progress import SILENT, Progress
from edgeinc.schema import VOID, ClassCount, Color, DataCheck, DataInfo

__all__ = ["check", "info"]

FEW_IMAGES = 5
"""A class in fewer images of `train` than this is worth a warning."""
FEW_PIXELS = 2e-4
"""And so is a class with a smaller part of the labelled pixels of `train`."""
FEW_EXAMPLES = 3
"""Of images that look the same, so many are named."""

Histogram = npt.NDArray[np.int64]


def info(data: str, *, data_root: str | os.PathLike[str] | None = None) -> DataInfo:
    """The classes and splits of a data set, and the size of its first image.

    Args:
        data: Name of a data set, or path of data in a known format.
        data_root: Folder that holds data sets by name.

    Raises:
        UsageError: Neither a known name nor an existing path.
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
        data: Name of a data set, or path of data in a known format.
        data_root: Folder that holds data sets by name.
        limit: Read only the first images of each split.
        progress: Told about every image.

    Raises:
        UsageError: Neither a known name nor an existing path.
        DataError: The format is not recognised, or the class table or a list is wrong: then
            there is nothing to check image by image.
    """
    dataset = open_dataset(data, data_root=data_root, progress=progress)
    ids = {split: dataset.ids(split)[:limit] for split in dataset.splits()}
    problems = [f"mask {path} has no image" for path in dataset.strays()]
    counts: dict[str, tuple[ClassCount, ...]] = {}
    prints: dict[str, dict[str, Fingerprint]] = {}
    empty: dict[str, int] = {}
    with (
        progress.task("check", total=sum(map(len, ids.values())), unit="img") as task,
        ThreadPoolExecutor(host.cores()) as pool,
    ):
        for split, listed in ids.items():
            pixels, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
            prints[split], empty[split] = {}, 0
            findings = pool.map(partial(_examined, dataset), listed)
            for image_id, found in zip(listed, findings, strict=True):
                problems += found.problems
                pixels += found.pixels
                images += found.pixels > 0
                empty[split] += not (found.problems or found.pixels[:VOID].any())
                if found.fingerprint is not None:
                    prints[split][image_id] = found.fingerprint
                task.advance(note=f"{len(problems)} problems" if problems else "")
            counts[split] = _counts(dataset, images, pixels)
    warnings = (
        list(dataset.notes()) + _same_colors(dataset) + _copies(prints) + _without_labels(empty)
    )
    return DataCheck(
        data=dataset.ref,
        images={split: len(listed) for split, listed in ids.items()},
        counts=counts,
        problems=tuple(problems),
        warnings=(*warnings, *(_rare(counts) if limit is None else ())),
        ok=not problems,
    )


class _Finding(NamedTuple):
    """What reading one pair showed; `pixels` per id, all zero where the pair is not usable."""

    problems: list[str]
    pixels: Histogram
    fingerprint: Fingerprint | None


def _examined(dataset: Dataset, image_id: str) -> _Finding:
    try:
        image, mask = read_pair(dataset, image_id)
    except DataError as err:
        # The first fault of a pair hides one in its mask: a broken image may have both.
        further = [p for p in _mask_problem(dataset, image_id) if p != err.message]
        return _Finding([err.message, *further], np.zeros(256, np.int64), None)
    return _Finding([], np.bincount(mask.ravel(), minlength=256), fingerprint(image))


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


def _same_colors(dataset: Dataset) -> list[str]:
    """Classes that no picture tells apart."""
    names: dict[Color, list[str]] = {}
    for label in dataset.labels:
        names.setdefault(label.color, []).append(f"'{label.name}'")
    return [
        f"classes {' and '.join(same)} have one colour, {list(color)}"
        for color, same in names.items()
        if len(same) > 1
    ]


def _copies(prints: dict[str, dict[str, Fingerprint]]) -> list[str]:
    """Images to score with that look like images to learn from."""
    found = []
    for split in (name for name in prints if name != "train"):
        pairs = near_copies(prints.get("train", {}), prints[split])
        if pairs:
            n = len(pairs)
            like = ", ".join(f"'{p.second}' like '{p.first}'" for p in pairs[:FEW_EXAMPLES])
            subject = "1 image looks" if n == 1 else f"{n} images look"
            found.append(
                f"{subject} the same in {split} as in train: {like}{', ...' * (n > FEW_EXAMPLES)}"
            )
    return found


def _without_labels(empty: dict[str, int]) -> list[str]:
    return [
        f"{n} {'image' if n == 1 else 'images'} of {split} without a labelled pixel"
        for split, n in empty.items()
        if n
    ]


def _rare(counts: dict[str, tuple[ClassCount, ...]]) -> list[str]:
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
