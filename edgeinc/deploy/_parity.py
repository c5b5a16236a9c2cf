"""Does an exported file decide as the trained network does? Counted in pixels of real images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeinc import metrics
from edgeinc.data import Image
from edgeinc.data._augment import resize_image
from edgeinc.progress import Task
from edgeinc.runtimes import Session
from edgeinc.schema import Parity


def compare(
    reference: Session, candidate: Session, images: Sequence[Image], *, gate: float, task: Task
) -> Parity:
    """Run both sessions on the same images and count where they agree.

    Args:
        reference: The trained network.
        candidate: The exported file; both have the same size and classes.
        images: At least one, of any size.
        gate: Percent of pixels that must agree.
        task: Advanced by one per image.
    """
    classes = reference.table.classes
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for image in images:
        batch = resize_image(image, reference.size)[None]
        matrix += metrics.confusion(reference.run(batch), candidate.run(batch), len(classes))
        task.advance()
    agreement = float(100 * np.trace(matrix) / matrix.sum())
    scores = {c.name: s for c, s in zip(classes, metrics.iou(matrix), strict=True) if s is not None}
    worst = min(scores, key=scores.__getitem__)
    return Parity(
        images=len(images),
        agreement=agreement,
        worst_class=worst,
        worst_class_iou=scores[worst],
        gate=gate,
        passed=agreement >= gate,
    )
