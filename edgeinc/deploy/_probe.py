"""Images to compare and to time with: a run's own where they can be read, else seeded noise."""

from __future__ import annotations

import os
from dataclasses import dataclass

import cv2
import numpy as np

from edgeinc.data import Dataset, Image, open_dataset
from edgeinc.errors import DataError, EdgeincError, UsageError
from edgeinc.schema import DataRef, Size

SEED = 0


@dataclass(frozen=True)
class Probe:
    """Images in their own sizes, and in words where they are from."""

    images: tuple[Image, ...]
    source: str
    real: bool


def probe(dataset: Dataset | None, *, count: int, size: Size) -> Probe:
    """Up to `count` images spread over the validation split (else the first split) of a dataset.

    Args:
        dataset: None gives noise.
        count: How many.
        size: (height, width) of the noise.

    Raises:
        DataError: The dataset cannot be read.
    """
    if dataset is None:
        return Probe(_noise(count, size), f"{count} images of seeded noise", real=False)
    split = probe_split(dataset)
    ids = dataset.ids(split)
    chosen = sorted({i * len(ids) // count for i in range(count)})
    images = tuple(dataset.image(ids[i]) for i in chosen)
    return Probe(images, f"{len(images)} {split} images of {dataset.ref.name}", real=True)


def probe_split(dataset: Dataset) -> str:
    """`val` where the dataset has it, else its first split."""
    splits = dataset.splits()
    return "val" if "val" in splits else splits[0]


def run_probe(
    reference: DataRef,
    *,
    data: str | os.PathLike[str] | None,
    data_root: str | os.PathLike[str] | None,
    count: int,
    size: Size,
) -> Probe:
    """Images of the data that was asked for, else of a run's own, else noise that says why.

    Raises:
        UsageError: The data asked for is not there.
        DataError: The data asked for cannot be read.
    """
    if data is not None:
        return probe(open_dataset(data, data_root=data_root), count=count, size=size)
    try:
        return probe(open_dataset(reference), count=count, size=size)
    except (DataError, UsageError, OSError):
        noise = probe(None, count=count, size=size)
        if not reference.name:
            return Probe(noise.images, f"{noise.source}, because the run knows no data", real=False)
        gone = f"{noise.source}, because {reference.name} in {reference.root} cannot be read"
        return Probe(noise.images, gone, real=False)


def calibration_images(
    reference: DataRef,
    *,
    data: str | os.PathLike[str] | None,
    data_root: str | os.PathLike[str] | None,
    count: int,
) -> tuple[Image, ...]:
    """Up to `count` images spread over the training split of the data asked for, else of a run's.

    Ranges that come from noise would fit nothing a camera sees, so there is no way around real
    images.

    Raises:
        DataError: No image can be read.
        UsageError: The data asked for is not there.
    """
    try:
        dataset = open_dataset(data if data is not None else reference, data_root=data_root)
        splits = dataset.splits()
        ids = dataset.ids("train" if "train" in splits else splits[0])
        chosen = sorted({i * len(ids) // count for i in range(count)})
        return tuple(dataset.image(ids[i]) for i in chosen)
    except (DataError, UsageError, OSError) as err:
        if data is not None and not isinstance(err, OSError):
            raise
        cause = err.message if isinstance(err, EdgeincError) else str(err)
        raise DataError(
            f"int8 is calibrated on real images, and none can be read: {cause}",
            hint="name some with --data NAME|PATH",
        ) from err


def _noise(count: int, size: Size) -> tuple[Image, ...]:
    """Coarse noise enlarged: it has flat regions and edges, as images do."""
    rng = np.random.default_rng(SEED)
    height, width = size
    shape = (max(2, height // 16), max(2, width // 16), 3)
    return tuple(
        np.asarray(
            cv2.resize(
                rng.integers(0, 256, shape, np.uint8),
                (width, height),
                interpolation=cv2.INTER_LINEAR,
            ),
            np.uint8,
        )
        for _ in range(count)
    )
