"""ILT: distillation of old classes and of the encoder's features (Michieli, Zanuttigh, ICCVW 2019).

"Incremental Learning Techniques for Semantic Segmentation" in the form of every published table
with a background: the authors' code of MiB (Cermelli et al., CVPR 2020, `--method ILT`), which sees
labels of the new classes only. `michieli` is the original's masked form with labels of all classes.
Needs: new images, labels of the new classes, the previous step's network. Keeps nothing.

    L     = L_CE + kd L_KD + features L_F
    L_CE  = mean over labelled pixels of -log p_label, p the softmax over all classes
    L_KD  = mean over all pixels of -1/C_old sum_{c old} q_c log p'_c      (that of `lwf`)
    L_F   = mean over positions and channels of (e - e')^2

e and e' are what the encoders of student and teacher end with, after the ReLU: ERFNet's map at 1/8,
BiSeNet's fused map at 1/8.

- L_F depends on the scale of the features: 100 was set for a ResNet-101 with leaky activations and
  must be chosen anew for another network (`--hold-out`).
- L_F compares the student in training mode with the teacher in eval mode: batch statistics and
  dropout alone make it positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from edgeinc.methods import Method
from edgeinc.methods._losses import old_distillation, supervised
from edgeinc.models import Model, Output
from edgeinc.schema import Background


class ILT(Method):
    """Cross-entropy with the background, distillation of old classes and of features."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("real", "virtual")

    teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of ILT.

        Attributes:
            kd: Factor of L_KD (the authors' code of MiB: `loss_kd` 100).
            features: Factor of L_F (the authors' code of MiB: `loss_de` 100).
        """

        kd: float = 100.0
        features: float = 100.0

    def begin(self, model: Model, old: Model | None) -> None:
        """Remember where the encoder ends."""
        self._encoded = model.encoded

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy, and both distillations once there is a teacher."""
        terms = supervised(output, labels, self.context.class_weights)
        if teacher is not None:
            kd = old_distillation(output.logits, teacher.logits) / teacher.logits.shape[1]
            ours, theirs = (each.stages[self._encoded].float() for each in (output, teacher))
            terms["kd"] = self.config.kd * kd
            terms["features"] = self.config.features * F.mse_loss(ours, theirs)
        return terms
