"""Which labels a step may see: one remap table, built once per step and applied by indexing.

Rules: ids of older classes never move, new classes are appended; void stays void; a class the step
may not see becomes void, or background where the data has a real one. A pixel of an old or future
class never keeps its label by accident: everything not listed as visible is hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.data import Dataset
from edgeinc.errors import DataError, UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.schema import VOID, ClassInfo, ClassTable, Color

Table = npt.NDArray[np.uint8]
"""(256,) uint8: dataset id -> id of the network, `VOID` for what is hidden."""

Counts = npt.NDArray[np.int64]
"""(images, 256) pixels per dataset id."""


def first_table(dataset: Dataset, names: Sequence[str] | None) -> ClassTable:
    """The class table of step 0.

    Args:
        dataset: Names and colours come from it.
        names: Classes in the order of their ids; None for all. A real background is always id 0.

    Raises:
        UsageError: An unknown class, a class twice, or none at all.
    """
    background = [label.name for label in dataset.labels[:1] if dataset.background == "real"]
    wanted = [label.name for label in dataset.labels] if names is None else list(names)
    wanted = background + [name for name in wanted if name not in background]
    return extend_table(ClassTable((), dataset.background), dataset, wanted)


def extend_table(table: ClassTable, dataset: Dataset, names: Sequence[str]) -> ClassTable:
    """The table with new classes appended as the next step; older entries are not touched.

    Raises:
        UsageError: An unknown class, one that is already learned, a class twice, or none at all;
            or more classes than a uint8 mask can hold.
    """
    if not names:
        raise UsageError("no class was named", hint="give --new-classes a,b")
    step, entries = table.last_step + 1, list(table.classes)
    for name in names:
        label = dataset.label(name)
        known = next((c for c in entries if c.name == name), None)
        if known is not None:
            raise UsageError(
                f"class '{name}' "
                + ("is named twice" if known.step == step else f"was learned at step {known.step}"),
                hint="name only classes that are new",
            )
        color = _free_color(label.color, [c.color for c in entries])
        entries.append(ClassInfo(len(entries), name, color, step))
    if len(entries) > VOID:
        raise UsageError(f"{len(entries)} classes do not fit in a mask", hint=f"at most {VOID}")
    return ClassTable(tuple(entries), table.background)


def remap_table(dataset: Dataset, table: ClassTable, visible: Collection[str]) -> Table:
    """Dataset ids to ids of the network, for the classes in `visible` only.

    A hidden class becomes `VOID`; with a real background it becomes background (id 0), because
    that is how data that is labelled for some classes only looks like.
    """
    hidden = 0 if table.background == "real" else VOID
    remap = np.full(256, VOID, np.uint8)
    for label in dataset.labels:
        remap[label.id] = hidden
    by_name = {label.name: label.id for label in dataset.labels}
    for entry in table.classes:
        if entry.name in visible and entry.name in by_name:
            remap[by_name[entry.name]] = entry.id
    if table.background == "real" and dataset.labels:
        remap[dataset.labels[0].id] = 0
    return remap


def evaluation_table(dataset: Dataset, table: ClassTable) -> Table:
    """Dataset ids to ids of the network for scoring: classes not learned yet are void."""
    remap = np.full(256, VOID, np.uint8)
    for label in dataset.labels:
        for entry in table.classes:
            if entry.name == label.name:
                remap[label.id] = entry.id
    return remap


def count_pixels(dataset: Dataset, ids: Sequence[str], *, progress: Progress = SILENT) -> Counts:
    """Read every mask once and count its pixels per dataset id.

    Raises:
        DataError: A mask is missing or damaged, or there are no images.
    """
    if not ids:
        raise DataError(f"no images in {dataset.root}", hint="see `edgeinc data check`")

    def histogram(image_id: str) -> Counts:
        return np.bincount(dataset.mask(image_id).ravel(), minlength=256)

    with ThreadPoolExecutor(host.cores()) as pool, progress.task("labels", len(ids), "img") as task:
        rows = []
        for row in pool.map(histogram, ids):
            rows.append(row)
            task.advance()
    return np.stack(rows)


def _free_color(color: Color, taken: Sequence[Color]) -> Color:
    """The colour itself, or the first of a fixed series that no older class has."""
    series = np.random.default_rng(0).integers(32, 256, (256, 3))
    candidates = [color, *((int(r), int(g), int(b)) for r, g, b in series)]
    return next(c for c in candidates if c not in taken)
