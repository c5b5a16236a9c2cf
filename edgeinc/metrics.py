"""IoU and what is made of it. numpy only; every score is percent (0 to 100).

Rules: one int64 confusion matrix is pooled over all images (never a mean of per-image scores);
pixels whose truth is void do not count; a class that occurs neither in truth nor in prediction is
absent: its IoU is None, and means skip it unless they are told that it counts as zero.

    total = sum(confusion(truth, predicted, n) for truth, predicted in pairs)
    scores = iou(total)
    miou = mean(scores, ids=range(n))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinc.schema import VOID

Mask = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.int64]
Absent = Literal["skip", "zero"]
"""What an absent class adds to a mean: nothing, or 0."""

_CHUNK = 1 << 18


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
    t, p = truth.reshape(-1), predicted.reshape(-1)
    wrong = int(p.max()) if p.size else 0
    counts = np.zeros(256 * classes, np.int64)
    if wrong < classes:
        for at in range(0, t.size, _CHUNK):
            # Both ids as one uint16; bincount widens what it counts to int64, so in parts.
            pairs = t[at : at + _CHUNK].astype(np.uint16)
            pairs *= np.uint16(classes)
            pairs += p[at : at + _CHUNK]
            counts += np.bincount(pairs, minlength=counts.size)
        strange = np.flatnonzero(counts.reshape(256, classes)[classes:VOID].any(1))
        wrong = classes + int(strange[-1]) if strange.size else 0
    if wrong >= classes:
        raise ValueError(f"an id is not below {classes}: {wrong}")
    return counts.reshape(256, classes)[:classes]


def iou(matrix: Matrix) -> list[float | None]:
    """IoU of each class, TP / (TP + FP + FN), in percent; None where a class is absent."""
    hit = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hit
    return [float(100 * h / u) if u else None for h, u in zip(hit, union, strict=True)]


def mean(
    scores: Sequence[float | None], ids: Iterable[int], *, absent: Absent = "skip"
) -> float | None:
    """Mean over the classes `ids`; None when there is none.

    Args:
        scores: By id, None for an absent class.
        ids: Which classes.
        absent: `skip` leaves absent classes out, `zero` counts them as 0.
    """
    wanted = [scores[i] for i in ids]
    counted = [s or 0.0 for s in wanted if s is not None or absent == "zero"]
    return float(np.mean(counted)) if counted else None


def harmonic(old: float | None, new: float | None) -> float | None:
    """hIoU, the harmonic mean of old and new mIoU; 0 when either is 0, None when either is."""
    if old is None or new is None:
        return None
    return 2 * old * new / (old + new) if old + new else 0.0


def agreement(a: Mask, b: Mask) -> float:
    """Percent of pixels on which two masks of one shape agree."""
    return float(100 * np.mean(a == b)) if a.size else 100.0
