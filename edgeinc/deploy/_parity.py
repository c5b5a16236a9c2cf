"""Does an exported file decide as the trained network does? Counted in pixels of real images.

Two measures: on how many pixels both agree, and, where there are labels, how much worse the file
is. The second is what counts in the end: a file may differ where the network was wrong anyway.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeinc import metrics
from edgeinc.data import Dataset, Image, open_dataset
from edgeinc.data._augment import resize_image
from edgeinc.deploy._probe import probe_split
from edgeinc.errors import DataError, UsageError
from edgeinc.evaluation import score_session
from edgeinc.progress import Progress, Task
from edgeinc.runs import Run
from edgeinc.runtimes import Session
from edgeinc.schema import ClassLoss, DataRef, EvalResult, Parity


def compare(
    reference: Session,
    candidate: Session,
    images: Sequence[Image],
    *,
    gate: float,
    task: Task,
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


class Labels:
    """Labelled images, and what the trained network scores on them: computed once, when asked.

    Args:
        network: The trained network.
        dataset: What to score on; None means that there are no labels.
        convention: Rules of scoring.
        limit: Look at the first N images only.
        note: Why there are no labels.
    """

    def __init__(
        self,
        network: Session,
        dataset: Dataset | None,
        *,
        convention: str = "default",
        limit: int = 0,
        note: str = "",
    ) -> None:
        self.note = note
        self._network, self._dataset = network, dataset
        self._convention, self._limit = convention, limit
        self._reference: EvalResult | None = None

    def judged(
        self, parity: Parity, candidate: Session, *, gate: float, progress: Progress
    ) -> Parity:
        """The same outcome with the loss of mIoU; without labels as it is.

        Args:
            parity: Of `compare`.
            candidate: The exported file.
            gate: Points of mIoU it may lose.
            progress: Told about every image.
        """
        if self._dataset is None:
            return parity
        try:
            if self._reference is None:
                self._reference = self._scored(self._network, progress)
            found = self._scored(candidate, progress)
        except (DataError, UsageError) as err:  # labels of other classes, or a damaged mask
            self._dataset, self.note = None, f"mIoU was not measured: {err.message}"
            return parity
        expected = self._reference
        if expected.miou.all is None or found.miou.all is None:
            return parity
        return replace(
            parity,
            passed=parity.passed and expected.miou.all - found.miou.all <= gate,
            scored=found.images,
            miou=found.miou.all,
            reference_miou=expected.miou.all,
            miou_gate=gate,
            losses=tuple(
                ClassLoss(a.name, a.iou, b.iou)
                for a, b in zip(expected.classes, found.classes, strict=True)
            ),
        )

    def _scored(self, session: Session, progress: Progress) -> EvalResult:
        assert self._dataset is not None
        return score_session(
            session,
            self._dataset,
            split=probe_split(self._dataset),
            limit=self._limit,
            convention=self._convention,
            progress=progress,
        )


def labels_of(
    run: Run,
    network: Session,
    reference: DataRef,
    *,
    data: str | os.PathLike[str] | None,
    data_root: str | os.PathLike[str] | None,
    limit: int,
) -> Labels:
    """The labelled images of the data that was asked for, else of a run's own.

    Args:
        run: Scored by the convention it was trained with.
        network: The trained network.
        reference: The data of the run's step.
        data: Data asked for.
        data_root: Where named data lies.
        limit: How many images; 0 for none.
    """
    if not limit:
        return Labels(network, None, note="mIoU was not measured, as was asked for")
    setting = run.step().settings.get("convention")
    convention = str(setting.value) if setting else "default"
    try:
        dataset = open_dataset(data if data is not None else reference, data_root=data_root)
    except (DataError, UsageError, OSError):
        return Labels(network, None)  # the note on noise says it already
    return Labels(network, dataset, convention=convention, limit=limit)
