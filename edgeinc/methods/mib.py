"""MiB: background as any other class, in the loss and in the start (Cermelli et al., CVPR 2020).

"Modeling the Background for Incremental Learning in Semantic Segmentation". Needs: new images,
labels of the new classes, a background class at id 0, the previous step's network.

    L    = L_CE + lambda L_KD
    L_CE = mean over labelled pixels of -log p~_label
           p~_0 = p_0 + sum of p over old classes,   p~_k = p_k for new k
    L_KD = mean over all pixels of -(1/C_old) sum_{c old} q_c log p^_c
           p^_0 = p_0 + sum of p over new classes,   p^_c = p_c for old c
    new rows: w_k = w_0, b_k = b_0 - log(n + 1), and b_0 itself becomes b_0 - log(n + 1)

q is the teacher's softmax, p the student's, background included in both; n is the number of new
classes. Right after the start p^ = q on every pixel. Auxiliary outputs learn from L_CE only.

- Void pixels do not count in L_CE; the authors' code trains them as background.
- lambda belongs to the mean over C_old: with a sum over classes it would be 10 / C_old.
- A virtual background means "old, future or nothing", which the folding is made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgeinc.methods import Method
from edgeinc.methods._background import (
    start_from_background,
    unbiased_auxiliary,
    unbiased_cross_entropy,
    unbiased_distillation,
)
from edgeinc.methods._losses import supervised
from edgeinc.models import Model, Output
from edgeinc.schema import Background


class MiB(Method):
    """Unbiased cross-entropy and unbiased distillation."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("real", "virtual")
    teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of MiB.

        Attributes:
            lambda_kd: Factor of the distillation (equation 3). 10 is the paper's; its authors
                used 100 for VOC 15-1, many steps of one class.
        """

        lambda_kd: float = 10.0

    def begin(self, model: Model, old: Model | None) -> None:
        """New classes start as equal parts of the background (equations 10 and 11)."""
        if old is not None:
            start_from_background(model)

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Both folded terms once there is a teacher; plain cross-entropy at step 0."""
        weights, first = self.context.class_weights, self.context.first_new
        if teacher is None:
            return supervised(output, labels, weights)
        return {
            "ce": unbiased_cross_entropy(output.logits, labels, first, weights),
            "kd": self.config.lambda_kd * unbiased_distillation(output.logits, teacher.logits),
            **unbiased_auxiliary(output, labels, first, weights),
        }
