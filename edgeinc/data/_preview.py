"""What `edgeinc data preview` draws: a sheet of images with their labels over them.

A glance at it finds what no check can: shifted masks, swapped classes, labels of another image.

    preview("camvid", data_root="/data", n=9, out=Path("camvid.png"))
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgeinc import draw
from edgeinc.data import Label, open_dataset
from edgeinc.data._files import encode_png, read_pair
from edgeinc.errors import UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import write_atomic
from edgeinc.schema import WrittenFile

__all__ = ["preview"]

_PAIRS_IN_ROW = 3
_CELL_WIDTH = 260


def preview(
    data: str,
    *,
    out: Path,
    data_root: str | os.PathLike[str] | None = None,
    split: str = "train",
    n: int = 9,
    progress: Progress = SILENT,
) -> WrittenFile:
    """Draw images spread evenly over a split, each beside itself under its labels.

    Args:
        data: Name of a data set, or path of data in a known format.
        out: PNG file to write; its folder is made.
        data_root: Folder that holds data sets by name.
        split: Which split.
        n: Number of images, fewer where the split has fewer.
        progress: Told about every image.

    Raises:
        UsageError: No such data set or split, `n` below 1, or `out` is not a PNG.
        DataError: An image or a mask cannot be read, or they differ in size.
    """
    if n < 1:
        raise UsageError(f"a preview of {n} images", hint="ask for at least 1")
    if out.suffix.lower() != ".png":
        raise UsageError(f"'{out}' is not a PNG file", hint=f"use '{out.with_suffix('.png')}'")
    dataset = open_dataset(data, data_root=data_root, progress=progress)
    ids = dataset.ids(split)
    chosen = [ids[i] for i in np.linspace(0, len(ids) - 1, min(n, len(ids))).round().astype(int)]
    colors = draw.palette(dataset.labels)
    cells: list[draw.Picture] = []
    with progress.task("preview", total=len(chosen), unit="img") as task:
        for image_id in chosen:
            image, mask = read_pair(dataset, image_id)
            cells += [image, draw.overlay(image, mask, colors)]
            task.advance()
    sheet = _sheet(cells, [text for i in chosen for text in (i, "")], dataset.labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, encode_png(sheet))
    return WrittenFile(path=str(out), images=len(chosen))


def _sheet(
    cells: list[draw.Picture], captions: list[str], labels: tuple[Label, ...]
) -> draw.Picture:
    columns = min(2 * _PAIRS_IN_ROW, len(cells))
    starts = range(0, len(cells), columns)
    names, colors = [label.name for label in labels], [label.color for label in labels]
    return draw.contact_sheet(
        [cells[i : i + columns] for i in starts],
        captions=[captions[i : i + columns] for i in starts],
        footer=draw.legend(names, colors, width=columns * _CELL_WIDTH),
        cell_width=_CELL_WIDTH,
    )
