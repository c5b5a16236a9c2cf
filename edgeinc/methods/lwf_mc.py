"""LwF-MC: binary cross-entropy per class, iCaRL's loss without its exemplars (CVPR 2017).

Rebuffi, Kolesnikov, Sperl, Lampert, "iCaRL: Incremental Classifier and Representation Learning",
where it is a baseline; for segmentation as in the authors' code of MiB (Cermelli et al., CVPR 2020,
`--method LWF-MC`). Needs: new images, labels of the new classes, the previous step's network.
Keeps nothing.

    L     = L_BCE + weight L_D
    L_BCE = mean over labelled pixels of sum_c BCE(z_c, 1 if c is the label else 0)
    L_D   = mean over all pixels of sum_{c old} BCE(z_c, sigmoid(z'_c))

z and z' are the logits of student and teacher, BCE(z, t) = log(1 + e^z) - t z. The background is a
class like the others.

- Step 0 is trained with L_BCE as well: sigmoids of a network that a softmax trained mean nothing,
  since a number added to all its logits changes no answer of it but all of these.
- Every class has a sigmoid of its own; the decision is the largest, which is the argmax of logits.
- L_BCE calls old classes wrong wherever the label is background; L_D, ten times as heavy, opposes.
- Void pixels are left out of L_BCE and are part of L_D. New rows start at random.
- Class weights weigh the pixels by their label, as in cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeinc.methods import Method
from edgeinc.models import Output
from edgeinc.schema import VOID, Background


class LwFMC(Method):
    """A sigmoid per class: labels for all of them, the teacher's answer for the old ones."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("real", "virtual")

    teacher: ClassVar[bool] = True
    sigmoids: ClassVar[bool] = True
    prepares: ClassVar[str] = (
        "a sigmoid per class; "
        "without them a softmax teaches it, which ranks classes but does not say how sure each is"
    )

    @dataclass(frozen=True)
    class Config:
        """Options of LwF-MC.

        Attributes:
            weight: Factor of L_D (the authors' code of MiB: `icarl_importance` 10).
        """

        weight: float = 10.0

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Binary cross-entropy, and distillation once there is a teacher."""
        weights = self.context.class_weights
        terms = {"bce": binary(output.logits, labels, weights)}
        if teacher is not None:
            terms["kd"] = self.config.weight * distillation(output.logits, teacher.logits)
        if output.aux:
            losses = [binary(logits, labels, weights) for logits in output.aux]
            terms["aux"] = torch.stack(losses).sum()
        return terms


def binary(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """L_BCE of the module's docstring.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64; `VOID` pixels do not count.
        class_weights: (C,) or None; the sum is divided by the weights of the labelled pixels.

    Returns:
        A scalar, 0 when no pixel is labelled.
    """
    z = logits.float()
    valid = labels != VOID
    known = labels.masked_fill(~valid, 0)
    # Over every class with target 0, then what the label's target of 1 changes.
    per_pixel = F.softplus(z).sum(1) - z.gather(1, known[:, None]).squeeze(1)
    weight = valid.float() if class_weights is None else class_weights[known] * valid
    return (weight * per_pixel).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """L_D of the module's docstring, from (B, C, H, W) and (B, C_old, H, W) logits."""
    old = teacher.shape[1]
    soft = teacher.float().sigmoid()
    return old * F.binary_cross_entropy_with_logits(logits[:, :old].float(), soft)
