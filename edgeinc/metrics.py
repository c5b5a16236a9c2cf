"""IoU and what is made of it. numpy only; every score is percent (0 to 100).

Rules: one int64 confusion matrix is pooled over all images (never a mean of per-image scores);
pixels whose truth is void do not count; a class that occurs neither in truth nor in prediction is
absent: its IoU is None and means skip it.

    total = sum(confusion(truth, predicted, n) for truth, predicted in pairs)
    scores = iou(total)
    miou = mean(scores, ids=range(n))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from edgeinc.schema import VOID

Mask = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.int64]


def confusion(truth: Mask, predicted: Mask, classes: int) -> Matrix:
    """Count pixels by (true id, predicted id).

    Args:
        truth: (..., H, W) ids; `VOID` pixels are skipped.
        predicted: Ids of the same shape, all below `classes`.
        classes: Number of classes.

    Returns:
        (classes, classes) counts, rows true, columns predicted.

    Raises:
        ValueError: The shapes differ, or an id that is neither void nor below `classes` occurs.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, the prediction {predicted.shape}")
    valid = truth != VOID
    t, p = truth[valid].astype(np.int64), predicted[valid].astype(np.int64)
    if t.size and max(int(t.max()), int(p.max())) >= classes:
        raise ValueError(f"an id is not below {classes}: {max(int(t.max()), int(p.max()))}")
    return np.bincount(t * classes + p, minlength=classes**2).reshape(classes, classes)


def iou(matrix: Matrix) -> list[float | None]:
    """IoU of each class, TP / (TP + FP + FN), in percent; None where a class is absent."""
    hit = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hit
    return [float(100 * h / u) if u else None for h, u in zip(hit, union, strict=True)]


def mean(scores: Sequence[float | None], ids: Iterable[int]) -> float | None:
    """Mean over the classes `ids` that are not absent; None when there is none."""
    present = [s for s in (scores[i] for i in ids) if s is not None]
    return float(np.mean(present)) if present else None


def harmonic(old: float | None, new: float | None) -> float | None:
    """hIoU, the harmonic mean of old and new mIoU; 0 when either is 0, None when either is."""
    if old is None or new is None:
        return None
    return 2 * old * new / (old + new) if old + new else 0.0


def agreement(a: Mask, b: Mask) -> float:
    """Percent of pixels on which two masks of one shape agree."""
    return float(100 * np.mean(a == b)) if a.size else 100.0
