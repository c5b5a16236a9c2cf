"""Scores and steps as several commands show them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from edgeinc.cli._progress import duration
from edgeinc.cli._ui import Ui
from edgeinc.schema import EvalResult, StepInfo


def steps_table(ui: Ui, steps: Sequence[StepInfo]) -> Table:
    """One line per step of a run."""
    return ui.table(
        ("step", "method", "new classes", "images", "iterations", "time"),
        [
            (
                s.index,
                s.method,
                s.new_classes,
                s.images,
                s.iterations,
                duration(s.seconds) if s.seconds else None,
            )
            for s in steps
        ],
    )


def score_blocks(ui: Ui, result: EvalResult) -> list[str | Table]:
    """A score: each class, the groups, and the steps before."""
    rows = [(c.name, c.step, c.iou, c.forgetting) for c in result.classes]
    blocks: list[str | Table] = [ui.table(("class", "step", "IoU", "forgetting"), rows), ""]
    if len(result.tasks) > 1:
        tasks = [(t.step, t.classes, t.miou) for t in result.tasks]
        blocks += [ui.table(("step", "its classes", "mIoU"), tasks), ""]
    if len(result.history) > 1:
        past = [(h.step, h.miou.old, h.miou.new, h.miou.all, h.hiou) for h in result.history]
        headers = ("after step", "old mIoU", "new mIoU", "mIoU", "hIoU")
        blocks += [ui.table(headers, past), ""]
    return [*blocks, *miou_lines(ui, result)]


def miou_lines(ui: Ui, result: EvalResult) -> list[str]:
    """The headline of a score, and what it is a mean of."""
    m = result.miou
    figures = f"mIoU {ui.text(m.all)}  old {ui.text(m.old)}  new {ui.text(m.new)}"
    if result.hiou is not None:
        figures += f"  hIoU {ui.text(result.hiou)}"
    if m.all_without_background is not None and m.all_without_background != m.all:
        figures += f"  without background {ui.text(m.all_without_background)}"
    present = sum(c.iou is not None for c in result.classes)
    cut = f" (--limit {result.limit})" if result.limit else ""
    absent = f" ({', '.join(result.absent)} not in the data)" if result.absent else ""
    return [
        figures,
        f"percent, mean over {present} classes{absent}; pixels pooled over {result.images} images"
        f"{cut} of {result.data.name} {result.split}, void skipped",
        f"compared at {result.grid}",
        f"step {result.step} on {result.runtime}",
    ]
