"""One evaluator over a session: a trained step and any exported file are scored by this code.

Rules: images are resized to the session's size, its ids are resized back to the mask's own size by
nearest neighbour, and pixels are compared there; one confusion matrix is pooled over all images;
void and classes the network has not learned do not count; the decision is joint over every class.
Memory does not grow with the number of images.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from edgeinc import metrics
from edgeinc.data import Dataset, Image, Mask, open_dataset
from edgeinc.data._augment import resize_image, resize_mask
from edgeinc.data._files import read_pair
from edgeinc.data._labels import evaluation_table
from edgeinc.errors import UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import Run, open_run
from edgeinc.runtimes import Session, open_artifact
from edgeinc.schema import (
    ClassScore,
    ClassTable,
    DataRef,
    EvalResult,
    Miou,
    StepScore,
    TaskScore,
)

GRID = "every mask's own size, predictions resized to it by nearest neighbour"
_AHEAD = 8


def evaluate(
    target: str | os.PathLike[str],
    *,
    step: int | Literal["all"] | None = None,
    data: str | os.PathLike[str] | DataRef | None = None,
    data_root: str | os.PathLike[str] | None = None,
    split: str = "val",
    limit: int | None = None,
    min_miou: float | None = None,
    max_drop: float | None = None,
    runtime: str | None = None,
    device: str = "auto",
    threads: int = 0,
    progress: Progress = SILENT,
) -> EvalResult:
    """Score a run or an exported file.

    Args:
        target: A run, `RUN/step-N`, or an exported file.
        step: Step of a run, None for the newest; "all" scores every step on the same images and
            puts the earlier ones into `history`.
        data: Name or path of a dataset; None takes the run's, also for a file in RUN/export.
        data_root: Where named datasets lie.
        split: Split to score on.
        limit: Score the first N images only.
        min_miou: Gate: mIoU over all classes, percent.
        max_drop: Gate: mean loss of IoU of the older classes since each one's own step, points.
        runtime: Name of the runtime; None takes the one that opens the target.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads to compute with; 0 takes every core.
        progress: Told about every image.

    Returns:
        The scores; `gates` names every gate that was not met.

    Raises:
        UsageError: The target, split or step does not exist, or no data is known.
        DataError: An image or mask cannot be read.
        MissingError: The runtime or device is not here.
    """
    path = Path(target)
    if not path.exists():
        raise UsageError(f"no such run or artifact: {path}", hint="check the path")
    run = _run_of(path)
    if data is None and run is None:
        raise UsageError(f"{path} does not say which data to score on", hint="add --data NAME|PATH")
    dataset = open_dataset(data if data is not None else run.step(0).data, data_root=data_root)  # type: ignore[union-attr]
    steps: list[int | None] = [step if step != "all" else None]
    if step == "all":
        if run is None or path != run.path:
            raise UsageError(f"{path} is not a run and has one step", hint="drop --step all")
        steps = [s.index for s in run.steps]
    results: list[EvalResult] = []
    for index in steps:
        with open_artifact(
            path, step=index, runtime=runtime, device=device, threads=threads
        ) as session:
            results.append(
                score_session(session, dataset, split=split, limit=limit, progress=progress)
            )
    past = results[:-1] if step == "all" else _recorded(run, results[-1])
    result = _with_history(replace(results[-1], source=str(path)), past)
    return replace(result, gates=_gates(result, min_miou, max_drop))


def score_session(
    session: Session,
    dataset: Dataset,
    *,
    split: str = "val",
    limit: int | None = None,
    progress: Progress = SILENT,
) -> EvalResult:
    """Score an opened session on a split, without history or gates.

    Raises:
        UsageError: No such split, or the data has none of the network's classes.
        DataError: An image or mask cannot be read.
    """
    if not {label.name for label in dataset.labels} & set(session.table.names):
        raise UsageError(
            f"{dataset.root} has none of the classes {', '.join(session.table.names)}",
            hint="give other --data",
        )
    ids = dataset.ids(split)[:limit]
    table = evaluation_table(dataset, session.table)
    count = len(session.table.classes)
    matrix = np.zeros((count, count), np.int64)
    with progress.task(f"score step {session.step}", len(ids), "img") as task:
        for image, mask in _read_ahead(dataset, ids):
            predicted = predict_native(session, image)
            matrix += metrics.confusion(table[mask], predicted, count)
            task.advance()
    return _summary(matrix, session, dataset.ref, split, len(ids), limit)


def predict_native(session: Session, image: Image) -> Mask:
    """Class ids (H, W) for one image of any size, at the image's own size."""
    ids = session.run(resize_image(image, session.size)[None])[0]
    height, width = image.shape[:2]
    return resize_mask(ids, (height, width))


def _summary(
    matrix: metrics.Matrix,
    session: Session,
    data: DataRef,
    split: str,
    images: int,
    limit: int | None,
) -> EvalResult:
    table, scores = session.table, metrics.iou(matrix)
    miou = group_means(table, scores)
    return EvalResult(
        source=str(session.path),
        step=session.step,
        runtime=session.runtime,
        artifact_sha256=session.sha256,
        data=data,
        split=split,
        images=images,
        grid=GRID,
        miou=miou,
        hiou=metrics.harmonic(miou.old, miou.new),
        classes=tuple(ClassScore(c.id, c.name, scores[c.id], c.step) for c in table.classes),
        tasks=tuple(
            TaskScore(
                step,
                tuple(c.name for c in table.of_step(step)),
                metrics.mean(scores, [c.id for c in table.of_step(step)]),
            )
            for step in range(table.last_step + 1)
        ),
        absent=tuple(c.name for c in table.classes if scores[c.id] is None),
        limit=limit,
    )


def group_means(table: ClassTable, scores: Sequence[float | None]) -> Miou:
    """mIoU over all classes, those of earlier steps, those of the newest, and without background.

    At step 0 there is nothing older: `old` is None and `new` is all.
    """
    last = table.last_step
    real = table.background == "real"
    return Miou(
        all=metrics.mean(scores, [c.id for c in table.classes]),
        old=metrics.mean(scores, [c.id for c in table.classes if c.step < last]),
        new=metrics.mean(scores, [c.id for c in table.classes if c.step == last]),
        all_without_background=metrics.mean(scores, [c.id for c in table.classes][real:]),
    )


def _run_of(path: Path) -> Run | None:
    """The run a target belongs to: itself, or the one whose step or export folder it is in."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "run.json").is_file():
            return open_run(folder)
    return None


def _recorded(run: Run | None, now: EvalResult) -> list[EvalResult]:
    """Scores written after earlier steps, as far as they saw the same images."""
    past = [run.score(i) for i in range(now.step)] if run else []
    same = (now.data, now.split, now.limit, now.images)
    return [p for p in past if p and (p.data, p.split, p.limit, p.images) == same]


def _with_history(now: EvalResult, past: Sequence[EvalResult]) -> EvalResult:
    rows = {p.step: p for p in [*past, now]}
    born = {c.name: c.iou for p in rows.values() for c in p.classes if c.step == p.step}

    def forgetting(score: ClassScore) -> float | None:
        before = born.get(score.name)
        return None if before is None or score.iou is None else before - score.iou

    return replace(
        now,
        classes=tuple(replace(c, forgetting=forgetting(c)) for c in now.classes),
        history=tuple(
            StepScore(step, p.miou, p.hiou, {c.name: c.iou for c in p.classes})
            for step, p in sorted(rows.items())
        ),
    )


def _gates(result: EvalResult, min_miou: float | None, max_drop: float | None) -> tuple[str, ...]:
    failed = []
    if min_miou is not None and (result.miou.all is None or result.miou.all < min_miou):
        found = "none" if result.miou.all is None else f"{result.miou.all:.1f}"
        failed.append(f"mIoU {found} is below {min_miou:g}")
    if max_drop is not None:
        old = [c for c in result.classes if c.step < result.step]
        drop = metrics.mean([c.forgetting for c in old], range(len(old)))
        if old and drop is None:
            raise UsageError(
                "--max-drop needs the scores after earlier steps on the same images",
                hint="add --step all",
            )
        if drop is not None and drop > max_drop:
            failed.append(f"older classes lost {drop:.1f} points on average, over {max_drop:g}")
    return tuple(failed)


def _read_ahead(dataset: Dataset, ids: Sequence[str]) -> Iterator[tuple[Image, Mask]]:
    """Images and masks in order, a few read ahead by a thread of their own."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[Image, Mask]]] = deque()
        for image_id in ids:
            waiting.append(pool.submit(read_pair, dataset, image_id))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
