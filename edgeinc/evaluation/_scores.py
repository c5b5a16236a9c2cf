"""Scores made of counted pixels, by class and by group of classes.

Rules: every score is percent; a virtual background has no truth, so it has no IoU and is in no
mean, while answering with it still misses the true class; so it is with a class that the data does
not label; a real background is in each mean that is not said to be without it; a class that is
labelled but absent is left out of a mean, or zero where the convention says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edgeinc import metrics
from edgeinc.evaluation._counts import Counts, scored_ids
from edgeinc.metrics import Absent
from edgeinc.schema import ClassScore, ClassTable, Convention, Miou, TaskScore, UnionScore

__all__ = [
    "absent_classes",
    "class_scores",
    "group_means",
    "headline",
    "hiou",
    "iou",
    "task_scores",
    "union_scores",
    "unlabelled_classes",
]


def iou(counts: Counts, matrix: metrics.Matrix) -> list[float | None]:
    """IoU by id; None for an absent class and for one that has no score."""
    found = metrics.iou(matrix)
    return [score if i in counts.scored else None for i, score in enumerate(found)]


def group_means(
    table: ClassTable,
    scores: Sequence[float | None],
    *,
    scored: Collection[int] | None = None,
    absent: Absent = "skip",
) -> Miou:
    """mIoU over all classes, those of earlier steps, those of the newest, and without background.

    At step 0 there is nothing older: `old` is None and `new` is all.

    Args:
        table: The classes.
        scores: IoU by id.
        scored: Ids that are in the means; None for every class but a virtual background.
        absent: What a class without a score among them adds.
    """
    ids = [i for i in scored_ids(table, table.classes) if scored is None or i in scored]
    old = [i for i in ids if table.classes[i].step < table.last_step]
    real = table.background == "real"

    def mean(chosen: Sequence[int]) -> float | None:
        return metrics.mean(scores, chosen, absent=absent)

    return Miou(
        all=mean(ids),
        old=mean(old),
        new=mean(ids[len(old) :]),
        all_without_background=mean([i for i in ids if i or not real]),
        old_without_background=mean([i for i in old if i or not real]),
    )


def headline(miou: Miou, rules: Convention) -> float | None:
    """The mean that the convention prints as its mIoU of all classes."""
    return miou.all if rules.mean == "with-background" else miou.all_without_background


def hiou(miou: Miou, rules: Convention) -> float | None:
    """Harmonic mean of old and new, the old ones as the convention averages them."""
    with_background = rules.mean == "with-background"
    old = miou.old if with_background else miou.old_without_background
    return metrics.harmonic(old, miou.new)


def class_scores(table: ClassTable, counts: Counts) -> tuple[ClassScore, ...]:
    """IoU and pixels of every class under the joint decision, and IoU without the background."""
    matrix = counts.joint
    scores, true, predicted = iou(counts, matrix), matrix.sum(1), matrix.sum(0)
    ignoring: Sequence[float | None] = [None] * len(scores)
    if counts.ignoring is not None:
        ignoring = iou(counts, counts.ignoring.matrix)
    return tuple(
        ClassScore(
            c.id,
            c.name,
            scores[c.id],
            c.step,
            pixels_true=int(true[c.id]),
            pixels_predicted=int(predicted[c.id]),
            iou_ignoring_background=ignoring[c.id],
        )
        for c in table.classes
    )


def absent_classes(table: ClassTable, counts: Counts) -> tuple[str, ...]:
    """Names of the labelled classes without a pixel in truth and prediction."""
    scores = metrics.iou(counts.joint)
    return tuple(table.classes[i].name for i in counts.scored if scores[i] is None)


def unlabelled_classes(table: ClassTable, counts: Counts) -> tuple[str, ...]:
    """Names of the classes that no pixel of the data can have as its truth."""
    ids = scored_ids(table, table.classes)
    return tuple(table.classes[i].name for i in ids if i not in counts.scored)


def task_scores(table: ClassTable, counts: Counts, absent: Absent) -> tuple[TaskScore, ...]:
    """The classes of every step under the joint decision and, where counted, alone."""
    return tuple(
        TaskScore(
            step,
            tuple(c.name for c in table.of_step(step)),
            _mean(table, counts, counts.joint, range(step, step + 1), absent),
            _mean(table, counts, counts.alone[step].matrix, range(step, step + 1), absent)
            if step in counts.alone
            else None,
        )
        for step in range(table.last_step + 1)
    )


def union_scores(table: ClassTable, counts: Counts, absent: Absent) -> tuple[UnionScore, ...]:
    """The classes of steps 0 to k among themselves, for each k that was counted."""
    return tuple(
        UnionScore(
            tuple(range(step + 1)), _mean(table, counts, among.matrix, range(step + 1), absent)
        )
        for step, among in counts.unions.items()
    )


def _mean(
    table: ClassTable, counts: Counts, matrix: metrics.Matrix, steps: range, absent: Absent
) -> float | None:
    born = [i for i in counts.scored if table.classes[i].step in steps]
    return metrics.mean(iou(counts, matrix), born, absent=absent)
