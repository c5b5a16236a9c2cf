"""What a network's answer is compared with: the labels, or labels and the previous network.

Images that a step keeps out of its training are labelled for its new classes only. Where they have
no such label the previous network's answer stands in for the truth: agreement with it is what can
be known of the old classes without their data (Cermelli et al. 2020 choose settings that way).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Protocol

import cv2
import numpy as np

from edgeinc.data import Dataset, Image, Mask
from edgeinc.data._augment import resize_mask
from edgeinc.data._labels import Remap, training_remap
from edgeinc.errors import UsageError
from edgeinc.runs import Run
from edgeinc.runtimes import Session
from edgeinc.schema import VOID, Convention

__all__ = ["HOLD_OUT", "HoldOut", "LabelTruth", "Truth", "held_out_truth"]

HOLD_OUT = "hold-out"
"""Name of the split of images that a step kept out of its training."""


class Truth(Protocol):
    """Gives the ids (H, W) of the network that an image is compared with, `VOID` where nothing."""

    def __call__(self, image_id: str, image: Image, mask: Mask) -> Mask:
        """Truth of one image.

        Args:
            image_id: Id of the image.
            image: (h, w, 3) at the network's size.
            mask: (H, W) ids of the dataset on the grid.
        """

    def reached(self, image_ids: Iterable[str]) -> frozenset[int]:
        """Ids that some pixel of these images can have as its truth, whether one has or not."""


class LabelTruth:
    """The labels as they are.

    Args:
        remap: Ids of the dataset to ids of the network.
    """

    def __init__(self, remap: Remap) -> None:
        self._remap = remap

    def __call__(self, image_id: str, image: Image, mask: Mask) -> Mask:
        """The labels of an image."""
        return cv2.LUT(mask, self._remap(image_id))  # type: ignore[return-value]

    def reached(self, image_ids: Iterable[str]) -> frozenset[int]:
        """Ids that the images are labelled for."""
        return self._remap.reached(image_ids)


class HoldOut:
    """New labels where there are some, elsewhere what the previous network says.

    Args:
        ids: The images.
        remap: Ids of the dataset to ids of the network, for the step's own classes.
        first_new: Id of its first new class.
        before: The previous step's network; None at step 0.
    """

    words = "images kept out of training; without a new label the step before is the truth"

    def __init__(
        self, ids: tuple[str, ...], remap: Remap, first_new: int, before: Session | None
    ) -> None:
        self.ids = ids
        self._labels, self._first_new, self._before = LabelTruth(remap), first_new, before

    def __call__(self, image_id: str, image: Image, mask: Mask) -> Mask:
        """The truth of an image."""
        truth = self._labels(image_id, image, mask)
        if self._before is None:
            return truth
        answer = resize_mask(self._before.run(image[None])[0], truth.shape)
        new = (truth >= self._first_new) & (truth != VOID)
        return np.where(new | (mask == VOID), truth, answer)

    def reached(self, image_ids: Iterable[str]) -> frozenset[int]:
        """Ids that the images are labelled for, and those that the previous network answers."""
        old = frozenset(range(self._first_new)) if self._before is not None else frozenset()
        return self._labels.reached(image_ids) | old


def held_out_truth(
    run: Run | None,
    session: Session,
    dataset: Dataset,
    rules: Convention,
    open_session: Callable[..., Session],
    stack: ExitStack,
) -> HoldOut:
    """The images that a step kept out, and what they are compared with.

    Raises:
        UsageError: The target is not of a run, or its step kept no image out.
    """
    if run is None:
        raise UsageError(f"{session.path} is not of a run and kept no image out", hint="use a run")
    step = run.step(session.step)
    ids = run.held_out(step.index)
    if not ids:
        raise UsageError(
            f"step {step.index} of {run.path} kept no image out of its training",
            hint="train it with --hold-out 0.2",
        )
    remap = training_remap(dataset, step.table, step.new_classes, train_void=rules.train_void)
    before = None
    if step.index:
        before = stack.enter_context(open_session(run.folder(step.index - 1), runtime="torch"))
    first_new = len(step.classes) - len(step.new_classes)
    return HoldOut(ids, remap, first_new, before)
