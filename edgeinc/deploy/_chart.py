"""The picture of a matrix: mIoU against frames per second, one point per variant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeinc.deploy._tables import conditions
from edgeinc.deploy._variants import run_of
from edgeinc.draw.charts import Point
from edgeinc.draw.picture import scatter_file
from edgeinc.runs import write_atomic
from edgeinc.schema import BenchResult, BenchRow, Scope


def draw(result: BenchResult, scope: Scope, path: Path) -> bool:
    """Draw the rows of a scope that have speed and mIoU; False where there is none."""
    rows = [row for row in result.rows if row.scope == scope and row.fps and row.miou is not None]
    if not rows:
        return False
    points = [
        Point(label, row.fps, row.miou, row.runtime)
        for label, row in zip(labels(rows), rows, strict=True)
        if row.fps is not None and row.miou is not None
    ]
    kept = [
        line
        for line in conditions(result)
        if line.startswith((f"{scope}:", "board:", "power:", "on "))
    ]
    threads = " and ".join(str(n) for n in sorted({row.threads for row in rows}))
    notes = ["dotted: no other variant is both faster and better", *kept, f"threads: {threads}"]
    title = f"mIoU against frames per second, {scope}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, scatter_file(points, title=title, notes=notes).encode())
    return True


def labels(rows: Sequence[BenchRow]) -> list[str]:
    """What tells the variants apart: the runtime, and what else differs between them."""
    names = _models(rows)
    sizes = ["x".join(map(str, row.size)) for row in rows]
    columns = [names, [row.runtime for row in rows], [row.precision for row in rows], sizes]
    told = [c for i, c in enumerate(columns) if i == 1 or len(set(c)) > 1]
    found = [" ".join(parts) for parts in zip(*told, strict=True)]
    if len(set(found)) < len(found):  # two steps of a run, two files of one model
        return [f"{label} {Path(r.artifact).stem}" for label, r in zip(found, rows, strict=True)]
    return found


def _models(rows: Sequence[BenchRow]) -> list[str]:
    """The model of each row's run, or the run's name where one model has several runs."""
    runs = [run_of(Path(row.artifact)) for row in rows]
    models = {run.path: run.info.model for run in runs if run}
    once = len(set(models.values())) == len(models)
    return [
        (models[run.path] if once else run.path.name) if run else Path(row.artifact).stem
        for run, row in zip(runs, rows, strict=True)
    ]
