"""Pixels counted by true and decided class, for one network and several rules of decision.

Rules: the joint decision is what the network answers. Where more is asked for, classes of one step
are decided among themselves, or those of several steps, from the network's scores per class; then
only pixels of these classes count. Nothing is kept of an image but counts.

    counts = Counts(session, reached=range(11), per_task=True)
    counts.add(image, truth)                      # once for every image
    counts.joint                                  # (classes, classes) int64
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from edgeinc import metrics
from edgeinc.data import Image, Mask
from edgeinc.data._augment import resize_mask
from edgeinc.runtimes import Session
from edgeinc.schema import VOID, ClassInfo, ClassTable

__all__ = ["Among", "Counts", "scored_ids"]


class Among:
    """A confusion matrix under a decision among some of the classes.

    Args:
        answers: Ids that are decided among, contiguous.
        truths: Ids whose pixels count.
        classes: Number of all classes, the sides of the matrix.
    """

    def __init__(self, answers: range, truths: Iterable[int], classes: int) -> None:
        self.answers = answers
        self.matrix: metrics.Matrix = np.zeros((classes, classes), np.int64)
        self._table = np.full(256, VOID, np.uint8)
        for each in truths:
            self._table[each] = each

    def add(self, truth: Mask, scores: npt.NDArray[np.float32]) -> None:
        """Count one image: truth (H, W) ids, scores (C, h, w)."""
        low, high = self.answers.start, self.answers.stop
        ids = (scores[low:high].argmax(0) + low).astype(np.uint8)
        self.matrix += _compared(self._table[truth], ids, len(self.matrix))


class Counts:
    """What is counted over all images of a split.

    Args:
        session: The network.
        reached: Ids that the truth can have.
        per_task: Also count each step alone, and the steps up to each one.
        ignore_background: Also count with id 0 never decided for.

    Attributes:
        scored: Ids in ascending order of the classes that have a score: any other one that is
            answered can only be wrong, and says nothing of its class.
        joint: Matrix of the decision over every class.
        alone: By step, its classes among themselves; empty unless asked for.
        unions: By step from 1 on, the classes of all steps up to it; empty unless asked for.
        ignoring: The decision without id 0; None unless asked for.
    """

    def __init__(
        self,
        session: Session,
        *,
        reached: Collection[int],
        per_task: bool = False,
        ignore_background: bool = False,
    ) -> None:
        table = session.table
        self.scored = [i for i in scored_ids(table, table.classes) if i in reached]
        count = len(table.classes)
        self._session = session
        self.joint: metrics.Matrix = np.zeros((count, count), np.int64)
        self.alone: dict[int, Among] = {}
        self.unions: dict[int, Among] = {}
        self.ignoring = Among(range(1, count), range(count), count) if ignore_background else None
        if per_task:
            for step in range(table.last_step + 1):
                own = scored_ids(table, table.of_step(step))
                if own:
                    self.alone[step] = Among(range(own[0], own[-1] + 1), own, count)
            for step in range(1, table.last_step + 1):
                until = range(len(table.until(step).classes))
                self.unions[step] = Among(until, until, count)
        more = [*self.alone.values(), *self.unions.values(), self.ignoring]
        self._more = [each for each in more if each is not None]

    def add(self, image: Image, truth: Mask) -> None:
        """Count one image.

        Args:
            image: (h, w, 3) at the network's size.
            truth: (H, W) ids of the network on the grid.

        Raises:
            MissingError: Scores are needed and the session gives none.
        """
        if not self._more:
            ids = self._session.run(image[None])[0]
        else:
            scores = self._session.logits(image[None])[0]
            ids = scores.argmax(0).astype(np.uint8)
            for each in self._more:
                each.add(truth, scores)
        self.joint += _compared(truth, ids, len(self.joint))


def scored_ids(table: ClassTable, classes: Iterable[ClassInfo]) -> list[int]:
    """Ids of those among `classes` that have a truth of their own.

    A virtual background has none: it stands for whatever is not another class.
    """
    return [c.id for c in classes if c.id or table.background != "virtual"]


def _compared(truth: Mask, ids: Mask, classes: int) -> metrics.Matrix:
    return metrics.confusion(truth, resize_mask(ids, truth.shape), classes)
