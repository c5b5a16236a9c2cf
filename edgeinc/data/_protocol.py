"""A plan applied to a data set: how many images, and which, every step trains and is tested on.

result = split("voc", scenario="15-1", selection="overlapped", data_root="/data")
[step.images for step in result.steps]       # [9568, 487, 299, 491, 500, 548]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from edgeinc.data import Data, Dataset, open_dataset
from edgeinc.data._index import count_pixels
from edgeinc.data._scenario import load_scenario
from edgeinc.data._select import held_out, read_index, step_images
from edgeinc.errors import UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.registry import suggest
from edgeinc.schema import DataSplit, Labels, Scenario, ScenarioStep, Selection, SplitStep

__all__ = ["split"]


def split(
    data: Data,
    *,
    scenario: str,
    selection: Selection | None = None,
    labels: Labels | None = None,
    index: Sequence[str | os.PathLike[str]] = (),
    hold_out: float = 0.0,
    list_ids: bool = False,
    data_root: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> DataSplit:
    """Which images belong to each step of a plan.

    Args:
        data: Name or path of a dataset.
        scenario: Preset, also without the dataset's name, or TOML file.
        selection: `overlapped`, `disjoint`, `partitioned` or `listed`; None takes the plan's.
        labels: `new-only` or `new-and-old`; None takes the plan's. It changes no count.
        index: One file for each step that lists its images instead.
        hold_out: Share of every step's images that is kept out.
        list_ids: Put the ids of the images into the result.
        data_root: Where named datasets lie.
        progress: Told about every mask that is read.

    Raises:
        UsageError: The plan, a choice or an index file does not exist or does not fit.
        DataError: Images or masks are missing or damaged.
    """
    dataset = open_dataset(data, data_root=data_root, progress=progress)
    plan = load_scenario(scenario, dataset=dataset.ref.name)
    _check("selection", selection, get_args(Selection))
    _check("labels", labels, get_args(Labels))
    plan = replace(
        plan,
        selection=selection or ("listed" if index else plan.selection),
        labels=labels or plan.labels,
    )
    if index:
        plan = _indexed(plan, index, dataset)
    used: set[str] = set()
    steps = []
    learned: list[str] = []
    for number, step in enumerate(plan.steps):
        ids, _ = step_images(dataset, plan, number, progress=progress)
        used.update(ids)
        learned += step.classes
        kept = tuple(i for i in ids if not held_out(dataset, i, hold_out))
        tested = _tested(dataset, learned, progress)
        listed = kept if list_ids else None
        steps.append(
            SplitStep(number, step.classes, len(kept), len(ids) - len(kept), tested, listed)
        )
    total = len(dataset.ids("train"))
    return DataSplit(
        data=dataset.ref,
        scenario=plan.name,
        selection=plan.selection,
        labels=plan.labels,
        background=plan.background or dataset.background,
        total=total,
        unused=total - len(used),
        steps=tuple(steps),
    )


def _check(what: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise UsageError(f"unknown {what} '{value}'", hint=suggest(value, known))


def _indexed(plan: Scenario, files: Sequence[str | os.PathLike[str]], dataset: Dataset) -> Scenario:
    if len(files) != len(plan.steps):
        raise UsageError(
            f"{len(files)} index files for the {len(plan.steps)} steps of '{plan.name}'",
            hint="repeat --index once for each step, in order",
        )
    return replace(
        plan,
        steps=tuple(
            ScenarioStep(step.classes, images=read_index(Path(file), dataset))
            for step, file in zip(plan.steps, files, strict=True)
        ),
    )


def _tested(dataset: Dataset, learned: Sequence[str], progress: Progress) -> int | None:
    """Images of `val` that show a class learned so far."""
    if "val" not in dataset.splits():
        return None
    counts = count_pixels(dataset, dataset.ids("val"), progress=progress)
    columns = [dataset.label(name).id for name in learned]
    return int((counts[:, columns] > 0).any(1).sum())
