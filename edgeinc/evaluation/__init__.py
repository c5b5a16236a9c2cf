"""One evaluator over a session: a trained step and any exported file are scored by this code.

Rules: images are brought to the session's size, its ids are resized back by nearest neighbour to
the grid that pixels are compared on, every mask's own size unless told otherwise; one confusion
matrix is pooled over all images; void does not count; the decision is joint over every class; a
class that the data does not label has no score. What classes the network has not learned count as,
which images are scored and which mean is the headline is the convention's. Memory does not grow
with the number of images.

    result = evaluate("runs/camvid-erfnet", convention="mib")
    result.miou.all_without_background
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from edgeinc.data import Data, Dataset, Image, Mask, open_dataset
from edgeinc.data._augment import resize_image, resize_mask
from edgeinc.data._conventions import load_convention
from edgeinc.data._files import read_pair
from edgeinc.data._index import count_pixels
from edgeinc.data._labels import evaluation_remap
from edgeinc.errors import Interrupted, UsageError
from edgeinc.evaluation._counts import Counts
from edgeinc.evaluation._grid import Grid, load_grid
from edgeinc.evaluation._history import gates, recorded, with_history
from edgeinc.evaluation._scores import (
    absent_classes,
    class_scores,
    group_means,
    hiou,
    iou,
    task_scores,
    union_scores,
    unlabelled_classes,
)
from edgeinc.evaluation._table import check_writable, write_table
from edgeinc.evaluation._truth import HOLD_OUT, HoldOut, LabelTruth, Truth, held_out_truth
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import Run, open_run
from edgeinc.runtimes import Session, open_artifact
from edgeinc.schema import (
    ClassTable,
    Convention,
    DataRef,
    EvalResult,
)

__all__ = ["evaluate", "group_means", "predict_native", "score_session"]

_AHEAD = 8


def evaluate(
    target: str | os.PathLike[str],
    *,
    step: int | Literal["all"] | None = None,
    data: Data | None = None,
    data_root: str | os.PathLike[str] | None = None,
    split: str = "val",
    limit: int | None = None,
    convention: str | None = None,
    eval_size: str | None = None,
    per_task: bool = False,
    ignore_background: bool = False,
    min_miou: float | None = None,
    max_drop: float | None = None,
    csv: str | os.PathLike[str] | None = None,
    runtime: str | None = None,
    device: str = "auto",
    threads: int = 0,
    progress: Progress = SILENT,
) -> EvalResult:
    """Score a run or an exported file.

    Args:
        target: A run, `RUN/step-N`, or an exported file.
        step: Step of a run, None for the newest; "all" scores every step and puts the earlier
            ones into `history`.
        data: Name or path of a dataset, or several that are joined; None takes the run's, also for
            a file in RUN/export.
        data_root: Where named datasets lie.
        split: Split to score on. `hold-out`: the images of the step that were kept out of its
            training, with the labels the step has; elsewhere the previous network's own answer
            is the truth, so `old` is agreement with it.
        limit: Look at the first N images only.
        convention: Rules of scoring, see `edgeinc ls conventions`; None takes those the run was
            trained with.
        eval_size: Where pixels are compared: `full`, `center512` or HxW; None takes the
            convention's.
        per_task: Also score the classes of each step among themselves, and those of the steps up
            to each one. Needs logits, which an exported file does not give.
        ignore_background: Also score with a virtual background never decided for. Needs logits.
        min_miou: Gate: the mean that the convention prints as its mIoU of all classes, percent.
        max_drop: Gate: mean loss of IoU of the older classes since each one's own step, points.
        csv: File to write one line per class to.
        runtime: Name of the runtime; None takes the one that opens the target.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads to compute with; 0 takes every core.
        progress: Told about every image.

    Returns:
        The scores; `gates` names every gate that was not met.

    Raises:
        UsageError: The target, split, step, convention or size does not exist, no data is known,
            or the file for the classes cannot be written.
        DataError: An image or mask cannot be read.
        MissingError: The runtime or device is not here, or logits are needed and not given.
        Interrupted: Ctrl-C while images were scored.
    """
    path = Path(target)
    if not path.exists():
        raise UsageError(f"no such run or artifact: {path}", hint="check the path")
    if csv is not None:
        check_writable(Path(csv))
    run = _run_of(path)
    if data is None and run is None:
        raise UsageError(f"{path} does not say which data to score on", hint="add --data NAME|PATH")
    steps: list[int | None] = [step if step != "all" else None]
    if step == "all":
        if run is None or path != run.path:
            raise UsageError(f"{path} is not a run and has one step", hint="drop --step all")
        steps = [s.index for s in run.steps]
    if data is None and split == HOLD_OUT and run is not None:
        source: Data = run.step(_step_of(path, steps[-1])).data
    else:
        source = data if data is not None else _data_of(run)  # type: ignore[arg-type]
    dataset = open_dataset(source, data_root=data_root, progress=progress)
    convention = convention or _convention_of(run)
    rules = load_convention(convention, dataset=dataset.ref.name)
    results: list[EvalResult] = []
    for index in steps:
        with ExitStack() as stack:
            open_session = partial(open_artifact, runtime=runtime, device=device, threads=threads)
            session = stack.enter_context(open_session(path, step=index))
            hold_out = None
            if split == HOLD_OUT:
                hold_out = held_out_truth(run, session, dataset, rules, open_session, stack)
            try:
                result = score_session(
                    session,
                    dataset,
                    split=split,
                    hold_out=hold_out,
                    limit=limit,
                    convention=convention,
                    eval_size=eval_size,
                    per_task=per_task,
                    ignore_background=ignore_background,
                    progress=progress,
                )
            except KeyboardInterrupt as stop:
                raise Interrupted(
                    f"interrupted while step {session.step} of {path} was scored; a score is of "
                    "all images, so nothing of it is kept",
                    hint="repeat the command, or score fewer images: --limit N",
                ) from stop
            results.append(result)
    past = results[:-1] if step == "all" else recorded(run, results[-1])
    result = with_history(replace(results[-1], source=str(path)), past)
    if csv is not None:
        write_table(result, Path(csv))
    return replace(result, gates=gates(result, rules, min_miou=min_miou, max_drop=max_drop))


def score_session(
    session: Session,
    dataset: Dataset,
    *,
    hold_out: HoldOut | None = None,
    split: str = "val",
    limit: int | None = None,
    convention: str = "default",
    eval_size: str | None = None,
    per_task: bool = False,
    ignore_background: bool = False,
    progress: Progress = SILENT,
) -> EvalResult:
    """Score an opened session on a split, without history or gates; arguments as for `evaluate`.

    With `hold_out` its images and its truth are taken instead of the split's.

    Raises:
        UsageError: No such split, convention or size, the data has none of the network's classes,
            no image shows one, or there is no virtual background to ignore.
        DataError: An image or mask cannot be read.
        MissingError: Logits are needed and the session gives none.
    """
    rules = load_convention(convention, dataset=dataset.ref.name)
    grid = load_grid(eval_size or rules.eval_size)
    table = session.table
    if ignore_background and table.background != "virtual":
        raise UsageError(
            f"{session.path} has no virtual background to ignore: its background is "
            f"'{table.background}'",
            hint="drop --ignore-background",
        )
    truth_of: Truth
    if hold_out is None:
        ids = _scored_images(dataset, dataset.ids(split)[:limit], table, rules, progress)
        truth_of = LabelTruth(evaluation_remap(dataset, table, convention=rules))
    else:
        ids, truth_of = hold_out.ids[:limit], hold_out
    counts = Counts(
        session,
        reached=truth_of.reached(ids),
        per_task=per_task,
        ignore_background=ignore_background,
    )
    with progress.task(f"score step {session.step}", len(ids), "img") as task:
        for image_id, image, mask in _read_ahead(dataset, ids, grid, session):
            counts.add(image, truth_of(image_id, image, mask))
            task.advance()
    joint, ignoring = counts.joint, counts.ignoring
    means = partial(group_means, table, scored=counts.scored, absent=rules.absent)
    miou = means(iou(counts, joint))
    return EvalResult(
        source=str(session.path),
        step=session.step,
        runtime=session.runtime,
        artifact_sha256=session.sha256,
        data=dataset.ref,
        split=split,
        images=len(ids),
        grid=grid.words + (f"; {hold_out.words}" if hold_out else ""),
        miou=miou,
        hiou=hiou(miou, rules),
        classes=class_scores(table, counts),
        tasks=task_scores(table, counts, rules.absent),
        absent=absent_classes(table, counts),
        unlabelled=unlabelled_classes(table, counts),
        limit=limit,
        convention=rules.name,
        unions=union_scores(table, counts, rules.absent),
        miou_ignoring_background=means(iou(counts, ignoring.matrix)) if ignoring else None,
    )


def predict_native(session: Session, image: Image) -> Mask:
    """Class ids (H, W) for one image of any size, at the image's own size."""
    ids = session.run(resize_image(image, session.size)[None])[0]
    height, width = image.shape[:2]
    return resize_mask(ids, (height, width))


def _scored_images(
    dataset: Dataset, ids: Sequence[str], table: ClassTable, rules: Convention, progress: Progress
) -> Sequence[str]:
    """The images that the convention scores.

    Raises:
        UsageError: The data has none of the network's classes, or no image shows one.
    """
    names = [c.name for c in table.classes if c.id or table.background == "none"]
    columns = [label.id for label in dataset.labels if label.name in names]
    if not columns:
        raise UsageError(
            f"{dataset.root} has none of the classes {', '.join(names)}",
            hint="give other --data",
        )
    if rules.test_images == "all":
        return ids
    counts = count_pixels(dataset, ids, progress=progress)
    shown = [i for i, pixels in zip(ids, counts, strict=True) if pixels[columns].any()]
    if not shown:
        raise UsageError(
            f"none of the {len(ids)} images shows {', '.join(names)}",
            hint=f"convention {rules.name} scores only those that do; use another --convention",
        )
    return shown


def _run_of(path: Path) -> Run | None:
    """The run a target belongs to: itself, or the one whose step or export folder it is in."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "run.json").is_file():
            return open_run(folder)
    return None


def _step_of(path: Path, asked: int | None) -> int | None:
    """The step that is scored: the one asked for, or that of the folder RUN/step-N."""
    name = path.name
    return int(name[5:]) if name.startswith("step-") and name[5:].isdigit() else asked


def _convention_of(run: Run | None) -> str:
    """What the newest step was trained with; imported weights and lone files have `default`."""
    setting = run.step().settings.get("convention") if run else None
    return str(setting.value) if setting else "default"


def _data_of(run: Run) -> DataRef:
    """The data of a run's first step that was trained; an imported one knows none."""
    first = run.step(0).data
    return next((step.data for step in run.steps if step.data.name), first)


def _read_ahead(
    dataset: Dataset, ids: Sequence[str], grid: Grid, session: Session
) -> Iterator[tuple[str, Image, Mask]]:
    """Ids, images at the network's size and masks on the grid, a few made ahead by a thread."""

    def made(image_id: str) -> tuple[str, Image, Mask]:
        image, mask = grid.place(*read_pair(dataset, image_id))
        return image_id, resize_image(image, session.size), mask

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[str, Image, Mask]]] = deque()
        for image_id in ids:
            waiting.append(pool.submit(made, image_id))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
