"""Which labels a step may see: one remap table, built once per step and applied by indexing.

Rules: ids of older classes never move, new classes are appended; void stays void; a class the step
may not see becomes void, or background where the data has a real one. A pixel of an old or future
class never keeps its label by accident: everything not listed as visible is hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import cast, get_args

import numpy as np
import numpy.typing as npt

from edgeinc.data import Dataset, Label
from edgeinc.data._conventions import load_convention
from edgeinc.errors import UsageError
from edgeinc.schema import VOID, Background, ClassInfo, ClassTable, Color, Convention

Table = npt.NDArray[np.uint8]
"""(256,) uint8: dataset id -> id of the network, `VOID` for what is hidden."""

VIRTUAL = ("other", "background", "rest")
"""Names for id 0 where a background is added that the data does not have: the first free one."""


def first_table(
    dataset: Dataset, names: Sequence[str] | None, background: str | None = None
) -> ClassTable:
    """The class table of step 0.

    Args:
        dataset: Names and colours come from it.
        names: Classes in the order of their ids; None for all. A background is always id 0.
        background: What id 0 is; None takes what the dataset has. `virtual` adds a class for
            everything else to data without a background; `none` leaves a real one out.

    Raises:
        UsageError: An unknown class, a class twice, or none at all; or a background that the
            dataset does not have, or has already.
    """
    mode = _background(dataset, background)
    wanted = [label.name for label in dataset.labels] if names is None else list(names)
    own = [label.name for label in dataset.labels[:1] if dataset.background == "real"]
    if mode == "none" and names is not None and set(names) & set(own):
        raise UsageError(f"'{own[0]}' is the background", hint="leave it out of --classes")
    wanted = [name for name in wanted if name not in own]
    if mode == "virtual":
        taken = {label.name for label in dataset.labels}
        name = next(n for n in VIRTUAL if n not in taken)
        other = ClassInfo(0, name, (0, 0, 0), 0)
        return _append(ClassTable((other,), mode), dataset, wanted, 0)
    return _append(ClassTable((), mode), dataset, own + wanted if mode == "real" else wanted, 0)


def _background(dataset: Dataset, asked: str | None) -> Background:
    """The background mode of a run that begins with a data set."""
    has, name = dataset.background, dataset.ref.name
    if asked is None or asked == has:
        return has
    if asked not in get_args(Background):
        known = ", ".join(get_args(Background))
        raise UsageError(f"background '{asked}' is not known", hint=f"use one of {known}")
    first = dataset.labels[0]
    if asked == "real":
        raise UsageError(
            f"{name} has no background: id {first.id} is '{first.name}'",
            hint="use --background none, or virtual to add one",
        )
    if asked == "virtual" and has == "real":
        raise UsageError(
            f"{name} has a real background, '{first.name}'", hint="use --background real"
        )
    return cast("Background", asked)


def extend_table(table: ClassTable, dataset: Dataset, names: Sequence[str]) -> ClassTable:
    """The table with new classes appended as the next step; older entries are not touched.

    Raises:
        UsageError: An unknown class, one that is already learned, a class twice, or none at all;
            or more classes than a uint8 mask can hold.
    """
    return _append(table, dataset, names, table.last_step + 1)


def _append(table: ClassTable, dataset: Dataset, names: Sequence[str], step: int) -> ClassTable:
    if not names:
        raise UsageError("no class was named", hint="give --new-classes a,b")
    entries = list(table.classes)
    for name in names:
        label = dataset.label(name)
        if dataset.background == "real" and label.id == dataset.labels[0].id and entries:
            raise UsageError(
                f"'{name}' is the background of {dataset.ref.name}, not a class to add",
                hint="leave it out",
            )
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


class Remap:
    """Which label a pixel has for a step: one lookup table for each kind of source.

    Images of one source share a table; `remap(image_id)` is that of an image, (256,) uint8 from
    ids of the dataset to ids of the network, `VOID` for what is hidden.
    """

    def __init__(self, dataset: Dataset, build: Callable[[frozenset[str]], Table]) -> None:
        self._dataset, self._build = dataset, build
        self._tables: dict[frozenset[str], Table] = {}

    def __call__(self, image_id: str) -> Table:
        """The table (256,) of an image."""
        declared = self._dataset.declared(image_id)
        if declared not in self._tables:
            self._tables[declared] = self._build(declared)
        return self._tables[declared]

    def reached(self, image_ids: Iterable[str]) -> frozenset[int]:
        """Ids of the network that a pixel of these images can have by its label.

        A label counts where its image's source declares it, shown or not; the background of a
        data set is declared as far as the table says that it is one.
        """
        return frozenset(
            int(self(example)[label.id])
            for declared, example in {self._dataset.declared(i): i for i in image_ids}.items()
            for label in self._dataset.labels
            if label.name in declared or self._is_background(label)
        ) - {VOID}

    def _is_background(self, label: Label) -> bool:
        return self._dataset.background == "real" and label == self._dataset.labels[0]


def training_remap(
    dataset: Dataset, table: ClassTable, visible: Collection[str], *, train_void: str = "void"
) -> Remap:
    """The targets of a step, from the labels in `visible` only.

    What has none of these labels is void. Where the run has a background it is background, real
    or virtual, unless a visible class is not declared by the image's source: then it might be
    that class.

    Args:
        dataset: Whose ids come in.
        table: Classes of the network after the step.
        visible: Names of the classes that keep their label.
        train_void: `background` makes void background as well (`Convention.train_void`); with a
            virtual background it always is.
    """
    things = {entry.name for entry in table.classes if not _is_background(entry, table)}
    kept = things.intersection(visible)

    def build(declared: frozenset[str]) -> Table:
        trusted = table.background != "none" and declared >= kept
        rest = 0 if trusted else VOID
        void_too = table.background == "virtual" or train_void == "background"
        remap = np.full(256, rest if void_too else VOID, np.uint8)
        for label in dataset.labels:
            remap[label.id] = rest
        for label, entry in _matches(dataset, table):
            if entry.name in kept:
                remap[label.id] = entry.id
        return remap

    return Remap(dataset, build)


def evaluation_remap(
    dataset: Dataset, table: ClassTable, convention: Convention | None = None
) -> Remap:
    """The truth that a network with the classes of `table` is compared with.

    Background pixels count only where the image's source declares every class of the network;
    a virtual background occurs in no truth.

    Args:
        dataset: Whose ids come in.
        table: Classes of the network.
        convention: What classes of the future and id 0 are; None for `default`.
    """
    rules = convention or load_convention("default")
    learned = {entry.name for entry in table.classes if not _is_background(entry, table)}

    def build(declared: frozenset[str]) -> Table:
        remap = np.full(256, VOID, np.uint8)
        trusted = table.background == "real" and declared >= learned
        if trusted and rules.test_future == "background":
            for label in dataset.labels:
                remap[label.id] = 0
        for label, entry in _matches(dataset, table):
            background = _is_background(entry, table)
            if not background or (trusted and rules.test_other == "scored"):
                remap[label.id] = entry.id
            elif background:
                remap[label.id] = VOID
        return remap

    return Remap(dataset, build)


def _matches(dataset: Dataset, table: ClassTable) -> Iterator[tuple[Label, ClassInfo]]:
    """Labels of the dataset with the class of the network they stand for.

    Names say which, but two real backgrounds are one thing whatever they are called.
    """
    by_name = {entry.name: entry for entry in table.classes}
    for label in dataset.labels:
        real = dataset.background == "real" and label.id == dataset.labels[0].id
        if real and table.background == "real":
            yield label, table.classes[0]
        elif label.name in by_name and not real:
            yield label, by_name[label.name]


def _is_background(entry: ClassInfo, table: ClassTable) -> bool:
    return table.background != "none" and entry.id == 0


def _free_color(color: Color, taken: Sequence[Color]) -> Color:
    """The colour itself, or the first of a fixed series that no older class has."""
    series = np.random.default_rng(0).integers(32, 256, (256, 3))
    candidates = [color, *((int(r), int(g), int(b)) for r, g, b in series)]
    return next(c for c in candidates if c not in taken)
