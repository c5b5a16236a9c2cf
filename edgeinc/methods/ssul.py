"""SSUL: a frozen network, one sigmoid per class and an unknown class (Cha et al., NeurIPS 2021).

"SSUL: Semantic Segmentation with Unknown Label for Exemplar-based Class-Incremental Learning".
Needs: new images, labels of the new classes, a background class at id 0, the previous step's
network. The head has one more row, "unknown", for what is none of the classes so far; it is not in
the class table. A step teaches the new rows, the unknown row and, slowly, the background's.

    L  = mean over pixels that are not void of sum over [unknown, background, classes] of
         -(y log s + (1 - y) log(1 - s)),  s = sigmoid(z), y = 1 for the pixel's channel
    y  = the label; background becomes unknown; from step 1 on, background where the largest s of
         the previous network is that of an old class and at least 0.7 becomes that class
    decision: argmax of [s_background + s_unknown, s_1, s_2, ...]
    new rows = copies of the unknown row of the step before

- The paper finds unknown objects with a saliency detector that was trained elsewhere. Here there is
  none: all background is unknown, as in the authors' setting for ADE20K. No images are kept either.
- The authors' heads are a 3x3 and a 1x1 convolution for each step; here a step adds only rows
  to the one classifier, so the network does not become slower with every step.
- Weights of classes do not apply: every channel is a decision of its own.
- Auxiliary outputs have no unknown row: there background is the channel of the background. After
  step 0 they are off, since nothing moves that they could teach.
- The decision is exported with its sigmoids: a sum of two cannot be had from logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeinc.methods import Method
from edgeinc.models import Model, Output
from edgeinc.schema import VOID, Background


class SSUL(Method):
    """Binary cross-entropy per channel; after step 0 nothing but rows of the head moves."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("real", "virtual")
    teacher: ClassVar[bool] = True
    sigmoids: ClassVar[bool] = True
    prepares: ClassVar[str] = (
        "a head of sigmoids with a row for what is unknown; without it, that row and the new ones "
        "start as copies of the background's, and a softmax's logits are read as sigmoids'"
    )

    @dataclass(frozen=True)
    class Config:
        """Options of SSUL.

        Attributes:
            threshold: Least sigmoid of a pseudo-label (section 3.2).
            background_lr: Factor of the learning rate for the background's row after step 0 (the
                authors' code).
        """

        threshold: float = 0.7
        background_lr: float = 1e-4

    def begin(self, model: Model, old: Model | None) -> None:
        """The unknown row; from step 1 on everything frozen but rows of the heads."""
        bare = model.heads()[0].extra_weight is None
        model.add_unknown()
        if old is None:
            return
        if bare:
            _take_unknown(model, old)
        _start_from_unknown(model)
        model.freeze(model, but=[model.heads()[0][-1]])
        for parameter in (*_unknown(model), *_first(model)):
            parameter.requires_grad_(True)

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Binary cross-entropy of the decision and of the auxiliary outputs."""
        if output.unknown is None:
            raise RuntimeError("the network's forward must take its logits through `parted`")
        if teacher is not None:
            labels = with_pseudo_labels(labels, teacher, self.config.threshold)
        classes = output.logits.shape[1]
        unknown = torch.where(labels == 0, classes, labels)
        terms = {"bce": binary(torch.cat([output.logits, output.unknown], 1), unknown)}
        if output.aux:
            terms["aux"] = torch.stack([binary(logits, labels) for logits in output.aux]).sum()
        return terms

    def groups(self, model: Model) -> list[dict[str, Any]]:
        """The background's row apart, after step 0: slower, and not decayed."""
        if not self.context.first_new:
            return super().groups(model)
        slow = _first(model)
        known = {id(p) for p in slow}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        # The old classes' rows lie in the same tensor: decay would move them without a gradient.
        still = {"lr_scale": self.config.background_lr, "weight_decay": 0.0}
        return [{"params": rest}, {"params": slow, **still}]

    def after_backward(self, model: Model) -> dict[str, Tensor]:
        """Of the first step's rows only the background's has a gradient, after step 0."""
        if self.context.first_new:
            weight, bias = _first(model)
            axis = model.heads()[0].class_axis
            if weight.grad is not None:
                weight.grad.narrow(axis, 1, weight.shape[axis] - 1).zero_()
            if bias.grad is not None:
                bias.grad[1:].zero_()
        return {}


def binary(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy summed over channels, mean over pixels that are not void.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64, the channel that is 1.

    Returns:
        A scalar, 0 when every pixel is void.
    """
    z, valid = logits.float(), labels != VOID
    own = z.gather(1, labels.masked_fill(~valid, 0).unsqueeze(1)).squeeze(1)
    loss = F.softplus(z).sum(1) - own  # -log(1 - s) everywhere, and -log s instead for the own
    return torch.where(valid, loss, 0).sum() / valid.sum().clamp(min=1)


def with_pseudo_labels(labels: Tensor, teacher: Output, threshold: float) -> Tensor:
    """Labels in which background is an old class wherever the previous network is sure of one.

    Args:
        labels: (B, H, W) int64, left as they are.
        teacher: Its logits (B, C_old, H, W) and its unknown (B, 1, H, W), which may be missing.
        threshold: Least sigmoid.
    """
    z = (
        teacher.logits
        if teacher.unknown is None
        else torch.cat([teacher.logits, teacher.unknown], 1)
    )
    score, says = torch.sigmoid(z.float()).max(1)
    sure = (labels == 0) & (score >= threshold) & (says > 0) & (says < teacher.logits.shape[1])
    return torch.where(sure, says, labels)


def _unknown(model: Model) -> tuple[nn.Parameter, nn.Parameter]:
    head = model.heads()[0]
    if head.extra_weight is None or head.extra_bias is None:
        raise RuntimeError("the network has no unknown row; `begin` adds it")
    return head.extra_weight, head.extra_bias


def _first(model: Model) -> list[nn.Parameter]:
    """Weight and bias of the deciding head's first step, whose row 0 is the background."""
    layer: Any = model.heads()[0][0]
    return [layer.weight, layer.bias]


@torch.no_grad()
def _take_unknown(model: Model, old: Model) -> None:
    """Fill an unknown row that is new here: the previous network's, or a copy of background's."""
    head, before = model.heads()[0], old.heads()[0]
    weight, bias = before.rows()
    row = 0 if before.extra_weight is None else bias.numel() - 1
    for own, source in zip(
        _unknown(model), (weight.narrow(head.class_axis, row, 1), bias[row : row + 1]), strict=True
    ):
        own.copy_(source)


@torch.no_grad()
def _start_from_unknown(model: Model) -> None:
    """New rows: copies of the unknown row, in auxiliary heads of the background's."""
    deciding, *others = model.heads()
    sources = [(deciding, *_unknown(model))]
    for head in others:
        first: Any = head[0]
        sources.append((head, first.weight.narrow(head.class_axis, 0, 1), first.bias[:1]))
    for head, weight, bias in sources:
        new: Any = head[-1]
        new.weight.copy_(weight.expand_as(new.weight))
        new.bias.copy_(bias.expand_as(new.bias))
