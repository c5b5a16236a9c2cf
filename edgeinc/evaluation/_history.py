"""Scores after earlier steps beside those of now, and the thresholds they are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeinc import metrics
from edgeinc.errors import UsageError
from edgeinc.evaluation._scores import headline
from edgeinc.runs import Run
from edgeinc.schema import ClassScore, Convention, EvalResult, StepScore

__all__ = ["gates", "recorded", "with_history"]


def recorded(run: Run | None, now: EvalResult) -> list[EvalResult]:
    """Scores written after earlier steps, as far as the same images were compared alike."""
    past = [run.score(i) for i in range(now.step)] if run else []
    return [p for p in past if p and _conditions(p) == _conditions(now)]


def _conditions(score: EvalResult) -> tuple[object, ...]:
    images = (score.data, score.split, score.limit, score.images)
    return (*images, score.grid, score.convention)


def with_history(now: EvalResult, past: Sequence[EvalResult]) -> EvalResult:
    """The score with what was scored before: a row for each step, and forgetting by class."""
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


def gates(
    result: EvalResult, rules: Convention, *, min_miou: float | None, max_drop: float | None
) -> tuple[str, ...]:
    """Every threshold that was not met, in words.

    Raises:
        UsageError: A drop is asked for, and the data labels no older class or earlier steps were
            not scored on the same images.
    """
    failed = []
    if min_miou is not None:
        found = headline(result.miou, rules)
        if found is None or found < min_miou:
            figure = "none" if found is None else f"{found:.1f}"
            bare = " without background" if rules.mean == "without-background" else ""
            failed.append(f"mIoU{bare} {figure} is below {min_miou:g}")
    if max_drop is not None:
        old = [c for c in result.classes if c.step < result.step]
        if old and all(c.name in result.unlabelled for c in old):
            raise UsageError(
                f"{result.data.root or result.data.name} labels no older class, so what they lost "
                "is not known",
                hint="drop --max-drop, or give --data that labels them",
            )
        drop = metrics.mean([c.forgetting for c in old], range(len(old)))
        if old and drop is None:
            raise UsageError(
                "--max-drop needs the scores after earlier steps on the same images",
                hint="add --step all",
            )
        if drop is not None and drop > max_drop:
            failed.append(f"older classes lost {drop:.1f} points on average, over {max_drop:g}")
    return tuple(failed)
