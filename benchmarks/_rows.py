"""What the tables of methods share: rows, their trainings one after the other, one file of scores.

A row is a method with options. All rows of a table extend the same step 0, but for methods that
train something of their own at step 0 (`Method.prepares`) or need another background mode: those
share one with their like. Each row trains in a process of its own, so that its peak memory is its
own. Interrupted or killed, the same call continues; finished rows are kept.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import edgeinc
from edgeinc import metrics, registry
from edgeinc.cli._ui import Ui
from edgeinc.runs import Run
from edgeinc.schema import Background, EvalResult, StepInfo

PEAK = "peak_memory.json"
SCORED = "scored.json"
"""What `lines_of` found, beside a run; without it the run is scored anew."""
PLAIN = "finetune"
"""Trains a step 0 for every method that prepares nothing."""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        method: Name of the method of the extensions.
        sets: Its options, and settings that are part of what the row shows.
        background: Mode of the run where it is not the table's.
        base_sets: Options of step 0, for a method that prepares it.
    """

    method: str
    sets: tuple[str, ...] = ()
    background: Background | None = None
    base_sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conditions:
    """What every row of a table has in common.

    Attributes:
        name: Names the folder of its runs: everything that makes it different from another.
        base: Arguments of `edgeinc.train` for step 0.
        extend: Arguments of `edgeinc.extend`; the settings are step 0's.
        columns: What the lines of the table say about it.
        tasks: Names of the classes of every step.
    """

    name: str
    base: dict[str, Any]
    extend: dict[str, Any]
    columns: dict[str, object]
    tasks: tuple[tuple[str, ...], ...]


def train_row(name: str, row: Row, conditions: Conditions, runs: Path) -> None:
    """Train what is missing of a row, in its own process.

    Raises:
        SystemExit: It failed; what it printed says why.
    """
    for work in (train_base, train_extensions):
        in_its_own_process(work, name, row, conditions, runs)


def in_its_own_process(work: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a fresh process, and stop where it fails."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def base_of(row: Row, conditions: Conditions, runs: Path) -> Path:
    """The run whose step 0 a row extends."""
    name = "base" if row.background is None else f"base-{row.background}"
    if registry.load("methods", row.method).prepares:
        name += f"-{row.method}"
    return runs / conditions.name / "-".join([name, *map(_slug, row.base_sets)])


def folder_of(name: str, conditions: Conditions, runs: Path) -> Path:
    """The run of a row."""
    return runs / conditions.name / _slug(name)


def train_base(name: str, row: Row, conditions: Conditions, runs: Path) -> None:
    """Train the step 0 of a row, if no other row has."""
    prepares = registry.load("methods", row.method).prepares
    arguments = {"background": row.background, **conditions.base}
    arguments["sets"] = (*conditions.base.get("sets", ()), *row.base_sets)
    edgeinc.train(
        run=base_of(row, conditions, runs),
        method=row.method if prepares else PLAIN,
        resume=True,
        progress=Ui().progress,
        **arguments,
    )


def train_extensions(name: str, row: Row, conditions: Conditions, runs: Path) -> None:
    """Extend a copy of the step 0 by every step of the plan, and keep the peak memory."""
    path = folder_of(name, conditions, runs)
    if not path.exists():
        unfinished = path.with_suffix(".copying")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(base_of(row, conditions, runs), unfinished)
        unfinished.rename(path)
    run = Run(path)
    scenario = run.info.scenario
    assert scenario is not None
    if len(run.steps) == len(scenario.steps):
        return
    extend = partial(
        edgeinc.extend, path, method=row.method, sets=row.sets, resume=True, **conditions.extend
    )
    if registry.load("methods", row.method).labels != "all":
        extend(all_steps=True, progress=Ui().progress)
    while len(run.steps) < len(scenario.steps):
        # Images of several steps are joined once: as many epochs as all steps' iterations take.
        epochs, budget = conditions.base["epochs"], run.steps[0].iterations * (len(run.steps) + 1)
        (planned,) = extend(epochs=epochs, dry_run=True).steps
        share = budget / planned.iterations
        extend(epochs=round(epochs * share), progress=Ui().progress)
    file = path / PEAK
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else 0.0
    file.write_text(json.dumps(max(before, peak_memory())), encoding="utf-8")


def peak_memory() -> float:
    """MiB that this process needed at most: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def lines_of(
    name: str, path: Path, tasks: Sequence[Sequence[str]], **evaluation: Any
) -> list[dict[str, object]]:
    """One line per step of a row's run, scored once; none while steps are missing.

    `miou`, `task0`, ...: the decision over all classes so far, a virtual background never decided
    for; `with_other` is `miou` with it. `alone0`, ...: the classes of a task among themselves. A
    run that learned everything in one step counts as the last one and has no `alone`.

    Args:
        name: The row.
        path: Its run.
        tasks: Names of the classes of every step.
        evaluation: Arguments of `edgeinc.evaluate`.
    """
    scored = path / SCORED
    if not scored.exists():
        if not path.exists():
            return []
        run = edgeinc.open_run(path)
        steps = run.steps
        if len(steps) < (len(tasks) if run.info.scenario else 1):
            return []
        lines = [{"row": name, **line} for line in _scored(path, steps, tasks, evaluation)]
        scored.write_text(json.dumps(lines, indent=1), encoding="utf-8")
    found: list[dict[str, object]] = json.loads(scored.read_text(encoding="utf-8"))
    return found


def _scored(
    path: Path,
    steps: Sequence[StepInfo],
    tasks: Sequence[Sequence[str]],
    evaluation: Mapping[str, Any],
) -> Iterator[dict[str, object]]:
    file = path / PEAK
    peak = f"{json.loads(file.read_text(encoding='utf-8')):.0f}" if file.exists() else ""
    for step in steps:
        score = edgeinc.evaluate(
            path,
            step=step.index,
            per_task=True,
            ignore_background=step.background == "virtual",
            progress=Ui().progress,
            **evaluation,
        )
        yield {
            "step": step.index if len(steps) > 1 else len(tasks) - 1,
            **_scores(score, tasks, alone=len(steps) > 1),
            "peak_mib": peak if step.index == len(steps) - 1 else "",
            **_facts(step, score),
        }


def _scores(score: EvalResult, tasks: Sequence[Sequence[str]], *, alone: bool) -> dict[str, object]:
    virtual = score.miou_ignoring_background is not None
    miou = score.miou_ignoring_background or score.miou
    iou = {c.name: c.iou_ignoring_background if virtual else c.iou for c in score.classes}
    among = {t.step: t.alone for t in score.tasks} if alone else {}
    line: dict[str, object] = {"miou": _percent(miou.all)}
    for task, names in enumerate(tasks):
        line[f"task{task}"] = _percent(metrics.mean([iou.get(n) for n in names], range(len(names))))
    for task in range(len(tasks)):
        line[f"alone{task}"] = _percent(among.get(task))
    line["with_other"] = _percent(score.miou.all) if virtual else ""
    line["iou"] = json.dumps({k: None if v is None else round(v, 2) for k, v in iou.items()})
    return line


def _facts(step: StepInfo, score: EvalResult) -> dict[str, object]:
    return {
        "seconds": f"{step.seconds:.0f}",
        "images": step.images,
        "iterations": step.iterations,
        "scored_images": score.images,
        "method": step.method,
        "background": step.background,
        "precision": step.settings["precision"].value,
        "hardware": step.host.gpu or f"{step.host.cpu}, {step.host.cores} cores",
        "versions": " ".join(f"{k}={v}" for k, v in step.host.versions.items()),
    }


def write_lines(lines: list[dict[str, object]], conditions: Conditions, out: Path) -> None:
    """Replace the lines of these conditions in a file; others are kept.

    Args:
        lines: Of `lines_of`.
        conditions: Their `columns` say which lines of the file are replaced.
        out: The file.
    """
    mine = {k: str(v) for k, v in conditions.columns.items()}
    full: list[dict[str, object]] = [{**mine, **line} for line in lines]
    if out.exists():
        with out.open(encoding="utf-8", newline="") as file:
            there = list(csv.DictReader(file))
        full = [r for r in there if {k: r.get(k) for k in mine} != mine] + full
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        names = list(dict.fromkeys(k for line in full for k in line))
        writer = csv.DictWriter(file, names, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(full)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)
