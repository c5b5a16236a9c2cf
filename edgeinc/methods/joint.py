"""Joint training: every image and every label of every step at once, the upper bound.

Needs what the other methods do without: the images of all earlier steps and the labels of all
classes on all of them. It starts from fresh weights and takes the epochs of one step, as the
published upper bounds do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from edgeinc.methods import Init, Method
from edgeinc.methods._losses import supervised
from edgeinc.models import Output
from edgeinc.schema import Background


class Joint(Method):
    """Cross-entropy over all classes and all images."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real", "virtual")

    labels: ClassVar[Literal["new", "new-and-old", "all"]] = "all"

    @dataclass(frozen=True)
    class Config:
        """Joint training has no options."""

    @classmethod
    def init(cls, config: Any) -> Init:
        """Fresh weights: one training with everything."""
        return "fresh"

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy, and that of the auxiliary outputs."""
        return supervised(output, labels, self.context.class_weights)
