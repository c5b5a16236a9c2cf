"""Linear: train nothing but the classifier rows of the new classes, everything else frozen.

The cheap baseline that any method must beat. Zhang et al., "Revisiting Continual Semantic
Segmentation with Pre-trained Vision Models" (arXiv 2508.04267), find it level with sixteen methods,
there with rows that step 0 has set aside for every class to come (DFT*). Here the rows are added
when the classes are known, at random. Needs: new images, labels of the new classes. Keeps nothing.

    L = mean over labelled pixels of -log p_label, p the softmax over all classes

- Nothing of the old network moves: no weight, no BatchNorm statistic; dropout is off. Old logits
  stay what they were, and an update of a device is the new rows alone.
- Without a background only pixels of new classes are labelled: nothing tells the new rows where
  they must be silent, and they speak up everywhere. With one they learn against it.
- The paper trains the rows with a learning rate of 5e-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgeinc.methods import Method
from edgeinc.methods._losses import supervised
from edgeinc.models import Model, Output
from edgeinc.schema import Background


class Linear(Method):
    """Cross-entropy over all classes, moving the new rows only."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real", "virtual")

    @dataclass(frozen=True)
    class Config:
        """Linear has no options."""

    def begin(self, model: Model, old: Model | None) -> None:
        """Freeze everything but the new rows of the head that decides."""
        if old is not None:
            model.freeze(model, but=[model.heads()[0][-1]])

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy; a frozen network has no training-only outputs."""
        return supervised(output, labels, self.context.class_weights)
