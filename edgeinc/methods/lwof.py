"""LWOF: learning without forgetting with a softmax per step, no background (ITSC 2020 baseline).

Li, Hoiem, "Learning without Forgetting" (TPAMI 2018), as Klingner, Bär, Donn, Fingscheidt transfer
it to segmentation in "Class-Incremental Learning for Semantic Segmentation Re-Using Neither Old
Data Nor Old Labels" (ITSC 2020), section III-D. Needs: new images, labels of the new classes, the
previous step's network. Keeps nothing.

    L    = L_CE + L_KD                                                          (equation 5)
    L_CE = mean over pixels with a new label of -log p_label, p over the new classes only
    L_KD = mean over all pixels of sum_{c old} -q_c log p'_c, p' over the old classes only

- p and p' are separate softmaxes: nothing ever compares an old class with a new one, so each task
  alone scores well and their union does not (85.4, 62.8 and 57.2 % in table III).
- The decision is the argmax over all logits all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from edgeinc.methods import Init, Method
from edgeinc.methods._losses import new_supervised, old_distillation, supervised
from edgeinc.models import Output
from edgeinc.schema import Background


class LWOF(Method):
    """Cross-entropy among the new classes, distillation among the old ones."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none",)

    teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of LWOF.

        Attributes:
            init: Start each extension from the `previous` step's weights, or `fresh` as the
                paper's experiments do (section IV-A, footnote 2).
        """

        init: Init = "previous"

    @classmethod
    def init(cls, config: Any) -> Init:
        """As configured."""
        return config.init

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Both terms of the module's docstring; at step 0 cross-entropy."""
        weights = self.context.class_weights
        if teacher is None:
            return supervised(output, labels, weights)
        return {
            **new_supervised(output, labels, self.context.first_new, weights),
            "kd": old_distillation(output.logits, teacher.logits),
        }
