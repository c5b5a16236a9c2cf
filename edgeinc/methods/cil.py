"""CIL: class-incremental learning by a joint softmax and entropy-weighted distillation.

Klingner, Bär, Donn, Fingscheidt, "Class-Incremental Learning for Semantic Segmentation Re-Using
Neither Old Data Nor Old Labels" (ITSC 2020). Needs: new images, labels of the new classes, the
previous step's network. Pixels labelled with a new class learn from the label; on all others the
previous network teaches the old classes. Both share one softmax over old and new classes, which is
what makes them comparable at inference.

    L    = L_CE + L_KD
    L_CE = mean over labelled pixels of -log p_label
    L_KD = mean over the other pixels of a_i sum_{c old} -q_c log p_c,   a_i = 1 + H_2(q_i) or 1

q is the teacher's softmax over the old classes, p the student's over all, H_2 the entropy in bits.
The weights a_i are not renormalised. With a real background its pixels belong to the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeinc.methods import Init, Method
from edgeinc.methods._losses import auxiliary, entropy_bits, log_softmax, nll
from edgeinc.models import Output
from edgeinc.schema import VOID


class CIL(Method):
    """Cross-entropy where there is a new label, distillation where there is none."""

    teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of CIL.

        Attributes:
            entropy_weights: Weigh distillation by 1 + the teacher's entropy in bits (section
                III-C); off gives the paper's "without weights" row.
            init: Start each extension from the `previous` step's weights, or `fresh` as the
                authors' code does.
        """

        entropy_weights: bool = True
        init: Init = "previous"

    @classmethod
    def init(cls, config: Any) -> Init:
        """As configured."""
        return config.init

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy on new labels; distillation elsewhere once there is a teacher."""
        weights = self.context.class_weights
        log_p = log_softmax(output.logits)
        if teacher is None:
            return {"ce": nll(log_p, labels, weights), **auxiliary(output, labels, weights)}
        new = (labels >= self.context.first_new) & (labels != VOID)
        labels = labels.masked_fill(~new, VOID)
        return {
            "ce": nll(log_p, labels, weights),
            "kd": distillation(log_p, teacher.logits, ~new, weighted=self.config.entropy_weights),
            **auxiliary(output, labels, weights),
        }


def distillation(log_p: Tensor, teacher: Tensor, where: Tensor, *, weighted: bool) -> Tensor:
    """L_KD of the module's docstring.

    Args:
        log_p: (B, C, H, W) log-softmax of the student over all classes.
        teacher: (B, C_old, H, W) logits of the previous network, C_old <= C.
        where: (B, H, W) bool, the pixels without a new label.
        weighted: Weigh each pixel by 1 + entropy.

    Returns:
        A scalar, 0 when `where` is empty.
    """
    log_q = log_softmax(teacher)
    per_pixel = -(log_q.exp() * log_p[:, : log_q.shape[1]]).sum(1)
    if weighted:
        per_pixel = per_pixel * (1 + entropy_bits(log_q))
    return torch.where(where, per_pixel, 0).sum() / where.sum().clamp(min=1)
