"""Michieli: labels of old and new classes, distillation on old ones (ICCV Workshops 2019).

Michieli, Zanuttigh, "Incremental Learning Techniques for Semantic Segmentation", as Klingner, Bär,
Donn, Fingscheidt reimplement it (ITSC 2020, section III-F). Needs: new images, labels of old and
new classes in them (`--labels new-and-old`), the previous step's network. Keeps nothing.

    L    = L_CE + L_KD                                                          (equation 8)
    L_CE = mean over labelled pixels of -log p_label, p the softmax over all classes
    L_KD = mean over pixels labelled with an old class of sum_{c old} -q_c log p_c

q is the teacher's softmax over the old classes; p is not made anew over them.

- It sees more than the methods without old labels: compare it with `joint`, not with them.
- A real background is a class of step 0, so its pixels count as old.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from edgeinc.methods import Init, Method
from edgeinc.methods._losses import auxiliary, log_softmax, nll
from edgeinc.methods.cil import distillation
from edgeinc.models import Output


class Michieli(Method):
    """Cross-entropy over all classes, distillation where the label is an old one."""

    labels: ClassVar[Literal["new", "new-and-old", "all"]] = "new-and-old"

    teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of Michieli.

        Attributes:
            init: Start each extension from the `previous` step's weights, or `fresh` as the
                reimplementation does (Klingner et al., section IV-A, footnote 2).
        """

        init: Init = "previous"

    @classmethod
    def init(cls, config: Any) -> Init:
        """As configured."""
        return config.init

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy, and distillation on old labels once there is a teacher."""
        weights = self.context.class_weights
        log_p = log_softmax(output.logits)
        terms = {"ce": nll(log_p, labels, weights), **auxiliary(output, labels, weights)}
        if teacher is not None:
            where = labels < self.context.first_new
            terms["kd"] = distillation(log_p, teacher.logits, where, weighted=False)
        return terms
