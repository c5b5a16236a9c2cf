"""LwF: learning without forgetting, the previous network's answer on old classes (TPAMI 2018).

Li, Hoiem, "Learning without Forgetting", as the published tables of segmentation with a background
have it: the authors' code of MiB (Cermelli et al., CVPR 2020, `--method LWF`). Needs: new images,
labels of the new classes, the previous step's network. Keeps nothing.

    L    = L_CE + weight L_KD
    L_CE = mean over labelled pixels of -log p_label, p the softmax over all classes
    L_KD = mean over all pixels of -1/C_old sum_{c old} q_c log p'_c

q is the teacher's softmax, p' the student's over the old classes only.

- New logits are cut off before p': L_KD never compares old classes with new ones.
- L_KD divides by the number of old classes, so the weight of 100 is 100 / C_old of the usual KD.
- Every pixel is distilled, void too; L_CE teaches old classes to be background meanwhile.
- New rows start at random; temperature is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgeinc.methods import Method
from edgeinc.methods._losses import old_distillation, supervised
from edgeinc.models import Output
from edgeinc.schema import Background


class LwF(Method):
    """Cross-entropy with the background, distillation over the old classes."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("real", "virtual")

    teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of LwF.

        Attributes:
            weight: Factor of L_KD (the authors' code of MiB: `loss_kd` 100).
        """

        weight: float = 100.0

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy, and distillation once there is a teacher."""
        terms = supervised(output, labels, self.context.class_weights)
        if teacher is not None:
            kd = old_distillation(output.logits, teacher.logits) / teacher.logits.shape[1]
            terms["kd"] = self.config.weight * kd
        return terms
