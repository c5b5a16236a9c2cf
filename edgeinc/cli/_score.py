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
    alone = any(t.alone is not None for t in result.tasks)
    if len(result.tasks) > 1 or alone:
        headers = ("step", "its classes", "mIoU", *(["alone"] if alone else []))
        tasks = [(t.step, t.classes, t.miou, t.alone)[: len(headers)] for t in result.tasks]
        blocks += [ui.table(headers, tasks), ""]
    if result.unions:
        unions = [("+".join(map(str, u.steps)), u.miou) for u in result.unions]
        blocks += [ui.table(("steps among themselves", "mIoU"), unions), ""]
    if len(result.history) > 1:
        past = [(h.step, h.miou.old, h.miou.new, h.miou.all, h.hiou) for h in result.history]
        headers = ("after step", "old mIoU", "new mIoU", "mIoU", "hIoU")
        blocks += [ui.table(headers, past), ""]
    return [*blocks, *miou_lines(ui, result)]


def miou_lines(ui: Ui, result: EvalResult) -> list[str]:
    """The headline of a score, and what it is a mean of."""
    from edgeinc.data._conventions import load_convention

    m = result.miou
    figures = f"mIoU {ui.text(m.all)}  old {ui.text(m.old)}  new {ui.text(m.new)}"
    if result.hiou is not None:
        figures += f"  hIoU {ui.text(result.hiou)}"
    lines = [figures]
    if m.all_without_background is not None and m.all_without_background != m.all:
        bare = f"without background: mIoU {ui.text(m.all_without_background)}"
        lines.append(f"{bare}  old {ui.text(m.old_without_background)}")
    rules = load_convention(result.convention, dataset=result.data.name)
    counted = sum(c.iou is not None for c in result.classes)
    fate = "left out of the mean"
    if rules.absent == "zero":
        counted, fate = counted + len(result.absent), "counted as zero"
    cut = f" (--limit {result.limit})" if result.limit else ""
    lines += [
        f"percent, mean over {counted} classes; pixels pooled over {result.images} images"
        f"{cut} of {result.data.name} {result.split}, void skipped",
        f"compared at {result.grid}",
    ]
    if result.unlabelled:
        names = ", ".join(result.unlabelled)
        lines.append(f"not labelled in this data, so in no score: {names}")
    shown = [c.name for c in result.classes if c.pixels_true]
    if len(shown) == 1:
        lines.append(f"only {shown[0]} is labelled: its IoU is the share of it that was found")
    if result.absent:
        names = ", ".join(result.absent)
        lines.append(f"warning: no pixel of {names} in truth or prediction: {fate}")
    if result.miou_ignoring_background is not None:
        ignoring = result.miou_ignoring_background
        lines.append(
            f"with the background never decided for: mIoU {ui.text(ignoring.all)}  "
            f"old {ui.text(ignoring.old)}  new {ui.text(ignoring.new)}"
        )
    if rules.name != "default":
        mean = rules.mean.replace("-", " ")
        lines.append(f"convention {rules.name}: its mIoU is the one {mean}")
    return [*lines, f"step {result.step} on {result.runtime}"]
