"""Feature extraction with a decoder per step over a frozen encoder (ITSC 2020 FE).

The model-based baseline FE of Klingner, Bär, Donn, Fingscheidt, "Class-Incremental Learning for
Semantic Segmentation Re-Using Neither Old Data Nor Old Labels" (section III-C). Needs: new images,
labels of the new classes. Keeps the decoder of every step in the network.

    L = mean over pixels with a new label of -log p_label, p over the new decoder's classes only

As `finetune_decoder`, but only the new decoder learns. The encoder stays in eval mode: its
BatchNorm statistics do not move and its dropout is off, so the old classes' logits stay exactly
what they were.

- What step 0 did not need of an image the encoder never learnt (45.4 % of the new classes in table
  II, where fine-tuning reaches 59.7 %).
- No loss compares the classes of two decoders, so their logits are not on one scale.
- Every step makes the network slower by a decoder, and all steps after it must add one too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgeinc.methods import Method
from edgeinc.methods._losses import new_supervised
from edgeinc.models import Model, Output
from edgeinc.schema import Background


class FeatureExtraction(Method):
    """Cross-entropy among the new classes, moving nothing but a new decoder."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none",)

    @dataclass(frozen=True)
    class Config:
        """Feature extraction has no options."""

    def grow(self, model: Model, classes: int) -> None:
        """Add a decoder."""
        model.grow_decoder(classes)

    def begin(self, model: Model, old: Model | None) -> None:
        """Freeze everything but the new decoder."""
        if old is not None:
            model.freeze(model, but=model.decoders()[-1:])

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy among the step's classes; at step 0 these are all."""
        return new_supervised(output, labels, self.context.first_new, self.context.class_weights)
