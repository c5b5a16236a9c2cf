"""DKD: distils the reasons for and against a class one by one (Baek et al., NeurIPS 2022).

"Decomposed Knowledge Distillation for Class-Incremental Semantic Segmentation". Needs: new images,
labels of the new classes, the previous step's network. One sigmoid per class and none for the
background, so the new classes take nothing away from the old ones.

    L     = L_mBCE + alpha L_KD + beta (L_DKD+ + L_DKD-) + L_AC
    L_mBCE = sum over new k of BCE(z_k, [y = k]), positives times gamma
    L_KD   = sum over old c of BCE(z_c, s(z'_c)) on all pixels
    L_DKD+ = sum over old c of BCE(z+_c, s(z'+_c)),   z+ = sum_d F_d max(w_d, 0),   z- with min
    L_AC   = BCE(a, 0) on all pixels

Each BCE is a mean over pixels; s is the sigmoid, z' the previous network, F the non-negative
features of the classifier (z = z+ + z- + bias at its resolution), a an auxiliary classifier with
one output that sees the features without training them. The rows of the next step's classes start
as a copy of it: they already say "nothing here" where nothing was. It is kept between the steps
and is never part of the network.

In extensions BatchNorm and dropout stand still, and only the new rows decay.

- Background: its row is zero, the others win above a sigmoid of 0.5 (`_sigmoid`). Void is left out;
  the published code makes it a negative (`void_negative`).
- Without a background the best class is taken however low it is. Void is a negative there: nothing
  else shows a class what it is not. A pixel labelled with a new class is none of the old ones:
  their targets are 0 in L_KD and it has no part in L_DKD. The paper, which has a background
  everywhere, distils such pixels too; here a network that had to choose among old classes would
  hold on to one.
- A base that DKD did not train has no auxiliary classifier: the new rows then start with zero
  weights and change no decision, but know nothing. With a background their bias is 0: a tie, which
  the background wins. A bias below it kept the old classes no better in short trials on `streets`
  and learnt the new ones no sooner. Without a background it is a sigmoid of 0.01, since 0 would
  beat old classes.
- `class_weights` of the settings do not apply: gamma takes their place.
- BiSeNet's auxiliary heads learn by mBCE and have an auxiliary classifier each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from edgeinc.methods import Method, StepContext, Survey
from edgeinc.methods._sigmoid import (
    above_background,
    binary_distillation,
    binary_map,
    first_class,
    first_taught,
    full_precision,
    head_groups,
    hold_still,
    learned_from,
    mean_over,
    seen_by_classifier,
    shrunk,
    start_sigmoids,
    weight_above_background,
    zero_background,
)
from edgeinc.models import Head, Model, Output
from edgeinc.schema import VOID, Background

SILENT = math.log(0.01 / 0.99)
"""Bias of a row that knows nothing yet, where no background wins a tie: sigmoid 0.01."""


class DKD(Method):
    """Binary cross-entropies on the new classes, on the old ones, and on their two halves."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real", "virtual")
    teacher: ClassVar[bool] = True
    sigmoids: ClassVar[bool] = True
    prepares: ClassVar[str] = "new classes start silent, not from its auxiliary classifier"

    @dataclass(frozen=True)
    class Config:
        """Options of DKD.

        Attributes:
            gamma_base: Factor gamma of positives at step 0 (section 4.1, VOC; 35 for ADE20K).
            gamma: The same in extensions (section 4.1, VOC; 35 for ADE20K).
            alpha: Factor of the distillation (section 4.1).
            beta: Factor of the decomposed distillation (section 4.1).
            kd: Distil the logits of the old classes (equation 5).
            dkd: Distil their positive and negative halves (equations 7 to 9).
            ac: Train an auxiliary classifier on negatives (equation 10).
            init: New rows start from it (`aux`, equation 11) or as `random` rows.
            pool: Average the features over squares of this side before they are decomposed. 1
                is the paper's; 2 takes a quarter of the memory, which counts for ERFNet, whose
                classifier works at full resolution, with many classes.
            head_lr: Factor on the learning rate of the classifiers; the paper names none, the
                authors' code takes 10 with SGD.
            void_negative: Void pixels are negatives of every class, as in the authors' code.
        """

        gamma_base: Annotated[float, Gt(0)] = 2.0
        gamma: Annotated[float, Gt(0)] = 1.0
        alpha: Annotated[float, Ge(0)] = 5.0
        beta: Annotated[float, Ge(0)] = 5.0
        kd: bool = True
        dkd: bool = True
        ac: bool = True
        init: Literal["aux", "random"] = "aux"
        pool: Annotated[int, Ge(1)] = 1
        head_lr: Annotated[float, Gt(0)] = 1.0
        void_negative: bool = False

    def __init__(self, config: Any, context: StepContext) -> None:
        super().__init__(config, context)
        self._model: Model | None = None
        self._old: Model | None = None
        self._auxiliary: Any = nn.ModuleList()

    def begin(self, model: Model, old: Model | None) -> None:
        """Zero background row; in extensions new rows, and what stands still."""
        mode = self.context.background
        self._model, self._old = model, old
        zero_background(model, mode, 0 if old is None else len(model.steps) - 1)
        start_sigmoids(model, self.context)
        heads = model.heads() if self.config.ac else ()
        self._auxiliary = nn.ModuleList(Head(h.channels, 1, h.kind) for h in heads)
        if old is None:
            return
        hold_still(model)
        neutral = SILENT if mode == "none" else 0.0
        for index, head in enumerate(model.heads()):
            weight = self.context.memory.get(f"weight.{index}", torch.zeros(()))
            bias = self.context.memory.get(f"bias.{index}", torch.full((), neutral))
            if self.config.init == "aux":
                fill(head, weight, bias)
            if self.config.ac:
                fill(self._auxiliary[index], weight, bias)

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """The terms of the module's docstring; `aux` is the mBCE of the auxiliary heads."""
        options, mode = self.config, self.context.background
        first, known = first_class(mode), self.context.first_new
        with full_precision(output.logits):
            terms = {"bce": self._taught(output.logits, labels)}
            if output.aux:
                aux = [self._taught(logits, labels) for logits in output.aux]
                terms["aux"] = torch.stack(aux).sum()
            if options.ac:
                terms["ac"] = self._silence(output)
            if teacher is None:
                return terms
            taken = self._taken(labels)
            if options.kd:
                old = output.logits[:, first:known].float()
                target = above_background(teacher.logits, self.context).sigmoid()
                if taken is not None:
                    target = target.masked_fill(taken.unsqueeze(1), 0)
                terms["kd"] = options.alpha * binary_distillation(old, target)
            if options.dkd:
                positive, negative = self._decomposed(output, teacher, taken)
                terms["dkd+"] = options.beta * positive
                terms["dkd-"] = options.beta * negative
            return terms

    def groups(self, model: Model) -> list[dict[str, Any]]:
        """Backbone, old rows, new rows, auxiliary classifiers; only the last two always decay."""
        scale = self.config.head_lr
        extension = self._old is not None
        groups = head_groups(model, extension=extension, old_lr=scale, new_lr=scale)
        device = next(model.parameters()).device
        auxiliary = list(self._auxiliary.to(device).parameters())
        return [*groups, {"params": auxiliary, "lr_scale": scale}] if auxiliary else groups

    def state(self) -> dict[str, Tensor]:
        """The auxiliary classifiers, one row each."""
        rows = {}
        for index, head in enumerate(self._auxiliary):
            rows[f"weight.{index}"] = head[0].weight.detach().select(head.class_axis, 0)
            rows[f"bias.{index}"] = head[0].bias.detach()
        return rows

    def restore(self, state: dict[str, Tensor]) -> None:
        """The auxiliary classifiers."""
        for index, head in enumerate(self._auxiliary):
            fill(head, state[f"weight.{index}"], state[f"bias.{index}"])

    def finish(self, model: Model, old: Model | None, survey: Survey) -> dict[str, Tensor]:
        """Keep the auxiliary classifiers: the new rows of the next step.

        Something is kept in any case: it tells the next step that the logits are sigmoids'.
        """
        rows = {name: row.clone() for name, row in self.state().items()}
        return {"sigmoids": torch.ones(1), **rows}

    def _taught(self, logits: Tensor, labels: Tensor) -> Tensor:
        first = first_taught(self.context)
        extension = self.context.first_new > 0
        gamma = self.config.gamma if extension else self.config.gamma_base
        where = learned_from(labels, self.context, self.config.void_negative)
        return mean_over(binary_map(logits[:, first:], labels, first, gamma), where)

    def _silence(self, output: Output) -> Tensor:
        seen = (seen_by_classifier(output, "dkd"), *output.aux_features)
        # In eval mode a network gives the deciding features only.
        losses = [
            auxiliary_loss(head, features, output.logits.shape[-2:])
            for head, features in zip(self._auxiliary, seen, strict=False)
        ]
        return torch.stack(losses).sum()

    def _taken(self, labels: Tensor) -> Tensor | None:
        """Pixels that can be no old class, (B, H, W) bool; None where nothing says so."""
        if self.context.background != "none":
            return None
        return (labels >= self.context.first_new) & (labels != VOID)

    def _decomposed(
        self, output: Output, teacher: Output, taken: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert self._model is not None
        assert self._old is not None
        mode, known = self.context.background, self.context.first_new
        head, old = self._model.heads()[0], self._old.heads()[0]
        weight, first = head.weight_and_bias()[0], first_class(mode)
        own = split_scores(
            head,
            self._pooled(seen_by_classifier(output, "dkd")),
            weight.narrow(head.class_axis, first, known - first),
        )
        target = split_scores(
            old,
            self._pooled(seen_by_classifier(teacher, "dkd")),
            weight_above_background(old, self.context),
        )
        where = None if taken is None else ~shrunk(taken, own[0].shape[-2:])
        positive, negative = (
            binary_distillation(z, before.sigmoid(), where)
            for z, before in zip(own, target, strict=True)
        )
        return positive, negative

    def _pooled(self, features: Tensor) -> Tensor:
        side = self.config.pool
        return F.avg_pool2d(features, side, ceil_mode=True) if side > 1 else features


def split_scores(head: Head, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative reasoning scores, which add up to the logit without its bias.

    The sign of a weight is the sign of its product with a feature, as these are not negative.

    Args:
        head: Says what kind of classifier it is.
        features: (B, D, h, w) float32, non-negative.
        weight: Rows of C classes, as in the head.

    Returns:
        Two maps (B, C, h, w) at the resolution of the classifier, >= 0 and <= 0.
    """
    positive = head.scores_with(features, weight.float().clamp(min=0))
    return positive, head.scores_with(features, weight.float().clamp(max=0))


def auxiliary_loss(head: Any, features: Tensor, size: torch.Size) -> Tensor:
    """L_AC of one auxiliary classifier at the resolution of the image; the features stay as is."""
    logit = head(features.detach().float())
    if logit.shape[-2:] != size:
        logit = F.interpolate(logit, size, mode="bilinear", align_corners=False)
    return F.softplus(logit).mean()


def fill(head: Any, weight: Tensor, bias: Tensor) -> None:
    """Make every row of a head's last classifier the same.

    Args:
        head: The head.
        weight: One row: the weight's shape without the axis of classes, or a scalar.
        bias: One element.
    """
    with torch.no_grad():
        layer = head[-1]
        layer.weight.copy_(weight.unsqueeze(head.class_axis) if weight.ndim else weight)
        layer.bias.copy_(bias)
