"""The whole story on synthetic street scenes: train, extend, export, score, time, report.

It needs no data, no network and no GPU, and uses nothing the commands do not use. Scores and
speeds in its table are those of the exported files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from edgeinc import metrics
from edgeinc.data._synth import synth
from edgeinc.deploy.bench import bench
from edgeinc.deploy.export import export
from edgeinc.errors import UsageError
from edgeinc.evaluation import evaluate
from edgeinc.predict import predict
from edgeinc.progress import SILENT, Progress
from edgeinc.report import report
from edgeinc.schema import BenchResult, DemoResult, DemoRow, EvalResult
from edgeinc.training import extend, train

BASE = ("road", "building", "sky", "tree")
NEW = ("car", "bus")
SCENES = 250
SIZE = (96, 128)
NETWORK = ("model.width=0.375", "model.dropout=0.1")
EPOCHS = (16, 22)
"""Of the base step and of the extension: what two cores train in about two minutes."""
TIMED_S = (2.0, 1.0)
"""Seconds a variant is timed: the two files side by side, and the last step on every runtime."""

MOST_LOST = 5.0
"""Points of IoU an old class may lose on average."""
LEAST_NEW = 50.0
"""IoU in percent that each new class must reach."""


def teach(
    data: Path,
    run: Path,
    *,
    scenes: int,
    new: Sequence[str],
    epochs: tuple[int, int],
    progress: Progress,
) -> None:
    """Draw streets, train a small network on `BASE`, and extend it; what was there is replaced."""
    synth(data, n=scenes, size=SIZE, seed=0, overwrite=True, progress=progress)
    train(
        data,
        classes=BASE,
        model="erfnet",
        size=SIZE,
        run=run,
        overwrite=True,
        sets=NETWORK,
        epochs=epochs[0],
        batch_size=8,
        lr=2e-3,
        threads=1,  # so small a network gains nothing from a second one
        progress=progress,
    )
    extend(run, new_classes=new, epochs=epochs[1], progress=progress)


def demo(out: str | os.PathLike[str], *, progress: Progress = SILENT) -> DemoResult:
    """Run the story in a folder.

    Args:
        out: Folder for data, run, page and picture; what an earlier demo left is replaced.
        progress: Told about every stretch of work.

    Returns:
        One row per step, measured on the exported files; `failures` names what was not met.

    Raises:
        UsageError: `out` holds something that is not a demo.
        EdgeincError: As from the functions the demo calls.
    """
    start, out = perf_counter(), Path(out)
    data, run = out / "scenes", out / "run"
    if out.exists() and any(p.name not in (data.name, run.name) for p in out.iterdir()):
        raise UsageError(f"{out} holds other files", hint="give an empty folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    progress.message(f"{SCENES} synthetic street scenes, labelled: {data}")
    teach(data, run, scenes=SCENES, new=NEW, epochs=EPOCHS, progress=progress)
    progress.message("both steps become ONNX files; what follows is measured on these files")
    files = [Path(export(run, step=step, progress=progress).path) for step in (0, 1)]
    scores = [evaluate(file, progress=progress) for file in files]
    speed = bench(*files, duration=TIMED_S[0], out=run / "bench" / "steps.json", progress=progress)
    bench(run, data=data, duration=TIMED_S[1], threads=1, progress=progress)
    picture = _picture(run, data, files, scores[1], progress)
    page = report(run, progress=progress)
    return DemoResult(
        run=str(run),
        rows=tuple(_row(score, file, speed) for score, file in zip(scores, files, strict=True)),
        report=page.path,
        picture=str(picture),
        seconds=round(perf_counter() - start, 1),
        failures=_failures(scores[1]),
    )


def _row(score: EvalResult, file: Path, speed: BenchResult) -> DemoRow:
    fps = [r.fps for r in speed.rows if r.artifact == str(file) and r.scope == "e2e"]
    return DemoRow(
        step=score.step,
        classes=tuple(c.name for c in score.classes if c.step == score.step),
        miou_old=score.miou.old,
        miou_new=score.miou.new,
        miou_all=score.miou.all,
        fps=fps[0] if fps else None,
    )


def _failures(score: EvalResult) -> tuple[str, ...]:
    old = [c.forgetting for c in score.classes if c.step < score.step]
    lost = metrics.mean(old, range(len(old))) or 0.0
    failed = []
    if lost > MOST_LOST:
        failed.append(f"old classes lost {lost:.1f} points of IoU on average, over {MOST_LOST:g}")
    failed += [
        f"new class {c.name} has IoU {c.iou or 0:.1f}, below {LEAST_NEW:g}"
        for c in score.classes
        if c.step == score.step and (c.iou or 0) < LEAST_NEW
    ]
    return tuple(failed)


def _picture(
    run: Path, data: Path, files: Sequence[Path], score: EvalResult, progress: Progress
) -> Path:
    """Before and after on the scene of `val` with most of the new classes in it."""
    from edgeinc.data import open_dataset

    dataset = open_dataset(data)
    new = [dataset.label(c.name).id for c in score.classes if c.step == score.step]
    shown = {i: [int((dataset.mask(i) == n).sum()) for n in new] for i in dataset.ids("val")}
    best = max(shown, key=lambda i: (min(shown[i]), sum(shown[i])))
    picture = run / "predict" / "before-after.png"
    picture.parent.mkdir(exist_ok=True)
    source = data / "images" / f"{best}.png"
    predict(files[1], source, out=picture, compare=files[0], progress=progress)
    return picture
