"""Fine-tuning: train on the new labels and nothing else, the lower bound.

Needs: new images, labels of the new classes. Old classes are forgotten because nothing in the loss
speaks of them; with a real background they are even taught to be background. Every other method is
measured by how far it stays above this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgeinc.methods import Method
from edgeinc.methods._losses import supervised
from edgeinc.models import Output
from edgeinc.schema import Background


class Finetune(Method):
    """Cross-entropy on the labelled pixels."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real", "virtual")

    @dataclass(frozen=True)
    class Config:
        """Fine-tuning has no options."""

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy, and that of the auxiliary outputs."""
        return supervised(output, labels, self.context.class_weights)
