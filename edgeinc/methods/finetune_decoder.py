"""Fine-tuning with a decoder per step: the encoder moves on, old decoders stay (ITSC 2020 FT).

The model-based baseline FT of Klingner, Bär, Donn, Fingscheidt, "Class-Incremental Learning for
Semantic Segmentation Re-Using Neither Old Data Nor Old Labels" (section III-C). Needs: new images,
labels of the new classes. Keeps the decoder of every step in the network.

    L = mean over pixels with a new label of -log p_label, p over the new decoder's classes only

A step adds a second decoder with its own classifier beside the first; the encoder and the new
decoder learn, the old decoders keep their weights and statistics. The decision is the argmax over
the logits of all decoders. ERFNet's decoder is the paper's; BiSeNet's is its fusion module and
classifier, without training-only outputs.

- The old decoders are not adapted to an encoder that moves away from them: they forget.
- No loss compares the classes of two decoders, so their logits are not on one scale (29.2 % of
  old and new classes together in table II, 59.7 % of the new ones alone).
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


class FinetuneDecoder(Method):
    """Cross-entropy among the new classes, moving the encoder and a new decoder."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none",)

    @dataclass(frozen=True)
    class Config:
        """Fine-tuning with a decoder per step has no options."""

    def grow(self, model: Model, classes: int) -> None:
        """Add a decoder."""
        model.grow_decoder(classes)

    def begin(self, model: Model, old: Model | None) -> None:
        """Freeze every decoder but the new one."""
        if old is not None:
            model.freeze(*model.decoders()[:-1])

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy among the step's classes; at step 0 these are all."""
        return new_supervised(output, labels, self.context.first_new, self.context.class_weights)
