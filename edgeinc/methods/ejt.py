"""EJT: expected joint training, on labels that the previous network completes (our own).

Needs: new images, labels of the new classes, the previous step's network, and a base that was
trained by it too. Made of CIL's one softmax for old and new classes, of the idea behind MiB and
SSUL that something may be unknown, and of the weights that joint training would use. Derivation and
measurements: docs/ejt.md.

    L   = sum_i sum_c w_c t_ic (-log p_ic) / sum_i sum_c w_c t_ic  +  L_u
    t_i = one-hot of the label           where it is a new class
          (1 - u'_i) b_i                 elsewhere
    b_i = q_i / w', normalised
    L_u = mean over pixels of BCE(u_i, 0 where the label is a new class, else u'_i)

q is the previous network's softmax over the old classes, u' its probability of unknown, w' the
weights it was trained with: weighted cross-entropy makes a softmax w' times too sure of rare
classes, so b is what it believes. What has no
new label is no new class: people label new images completely for what is new. So what is left is an
old class or nothing that has a name, which joint training would leave out as void. With t from
labels alone L is the weighted cross-entropy of joint training; here it is the expectation over what
the previous network believes.

- Unknown: with a background (real or virtual) it is the background, id 0, and L_u is not there.
  Without one, u is a sigmoid beside the classifier, which void teaches at step 0. It is kept
  between the steps and is never part of the network: a network of known classes answers one of them
  for everything, with confidence, and CIL would teach that. It sees the features and does not train
  them, so step 0 is plain training. A base that was trained by another method has no such row; then
  u' is 0.
- w: the settings' `class_weights`, from pixels counted over t in one pass over the images, not from
  the labels alone, which show new classes only.
- Void is left out where there is a background.
- BiSeNet's auxiliary heads learn the same t, by the deciding head's teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeinc.methods import Method, StepContext, Survey
from edgeinc.methods._losses import class_weights, log_softmax
from edgeinc.methods._sigmoid import full_precision, seen_by_classifier
from edgeinc.models import Head, Model, Output
from edgeinc.schema import VOID, Background


class EJT(Method):
    """The loss of joint training, in expectation over what the previous network believes."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real", "virtual")
    teacher: ClassVar[bool] = True
    prepares: ClassVar[str] = (
        "what is unknown, where there is no background; "
        "without it the old network's guesses on unknown things are taken for true"
    )

    @dataclass(frozen=True)
    class Config:
        """Options of EJT.

        Attributes:
            unknown: Learn what is unknown where there is no background.
            balance: Weigh classes by completed labels; off takes the weights from the step's own
                labels, as the other methods do.
        """

        unknown: bool = True
        balance: bool = True

    def __init__(self, config: Any, context: StepContext) -> None:
        super().__init__(config, context)
        self._unknown: Any = nn.ModuleList()
        self._believed: Any = nn.ModuleList()
        self._weights: Tensor | None = None
        self._learned_with: Tensor | None = context.memory.get("class_weights")

    def begin(self, model: Model, old: Model | None) -> None:
        """The row of what is unknown: new at step 0, later as it was, for student and teacher."""
        kept, head = self.context.memory, model.heads()[0]
        wanted = self.config.unknown and self.context.background == "none"
        count = 1 if wanted and (old is None or "weight" in kept) else 0
        self._unknown = nn.ModuleList(Head(head.channels, 1, head.kind) for _ in range(count))
        self._believed = nn.ModuleList()
        if old is not None and count:
            self.restore(kept)
            row = Head(head.channels, 1, head.kind).requires_grad_(False)
            row.load_state_dict(self._unknown[0].state_dict())
            self._believed.append(row)

    def prepare(self, survey: Survey, teacher: Model | None) -> dict[str, Tensor]:
        """Count the pixels of every class under completed labels."""
        if not self.config.balance or self.context.weighting == "none":
            return {}
        device = None if teacher is None else next(teacher.parameters()).device
        self._believed.to(device)
        pixels = torch.zeros(self.context.classes, dtype=torch.float64)
        with survey.progress.task("count completed labels", None, "batch") as task:
            for x, labels in survey.passes():
                answer = None if teacher is None else survey.infer(teacher, x)
                target, _ = self._completed(labels, answer)
                pixels += target.double().sum((0, 2, 3)).cpu()
                task.advance()
        return {"pixels": pixels}

    def ready(self, prepared: dict[str, Tensor]) -> None:
        """Take the weights that follow from the counts."""
        if "pixels" in prepared:
            # Of a class that is not there less than a pixel is expected: no share to balance by.
            pixels = prepared["pixels"]
            there = pixels.where(pixels >= 1, 0)
            self._weights = class_weights(self.context.weighting, there)
        else:
            self._weights = self.context.class_weights

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """The terms of the module's docstring; `aux` is that of the auxiliary outputs."""
        with torch.no_grad():
            target, unknown = self._completed(labels, teacher)
            if self._weights is not None:
                target = target * self._weights.view(1, -1, 1, 1)
        terms = {"ce": expected(output.logits, target)}
        if output.aux:
            terms["aux"] = torch.stack([expected(z, target) for z in output.aux]).sum()
        if len(self._unknown):
            z = beside(output, self._unknown[0])
            terms["unknown"] = F.binary_cross_entropy_with_logits(z, unknown)
        return terms

    def groups(self, model: Model) -> list[dict[str, Any]]:
        """The network, and the row beside it."""
        device = next(model.parameters()).device
        self._believed.to(device)
        row = list(self._unknown.to(device).parameters())
        return [*super().groups(model), *([{"params": row}] if row else [])]

    def state(self) -> dict[str, Tensor]:
        """The row of what is unknown: `weight` without the axis of classes, `bias` (1,)."""
        rows = {}
        for head in self._unknown:
            rows["weight"] = head[0].weight.detach().select(head.class_axis, 0)
            rows["bias"] = head[0].bias.detach()
        return rows

    def restore(self, state: dict[str, Tensor]) -> None:
        """The same."""
        with torch.no_grad():
            for head in self._unknown:
                head[0].weight.copy_(state["weight"].unsqueeze(head.class_axis))
                head[0].bias.copy_(state["bias"])

    def finish(self, model: Model, old: Model | None, survey: Survey) -> dict[str, Tensor]:
        """Keep the row and the weights of the classes for the next step."""
        kept = {name: row.clone() for name, row in self.state().items()}
        return kept if self._weights is None else {**kept, "class_weights": self._weights}

    def _completed(self, labels: Tensor, teacher: Output | None) -> tuple[Tensor, Tensor]:
        """Probabilities of every class, (B, C, H, W) float32, and of unknown, (B, H, W)."""
        classes, first = self.context.classes, self.context.first_new
        void = labels == VOID
        new = (labels >= first) & ~void
        one = F.one_hot(torch.where(new, labels, 0), classes).permute(0, 3, 1, 2).float()
        said = new.unsqueeze(1)
        if teacher is None:
            return one * said, (~new).float()
        u = new.new_zeros(new.shape, dtype=torch.float32)
        for row in self._believed:
            u = beside(teacher, row).sigmoid()
        believed = (1 - u).unsqueeze(1) * self._belief(teacher.logits.float())
        rest = believed.new_zeros(len(u), classes - first, *u.shape[1:])
        target = torch.where(said, one, torch.cat([believed, rest], 1))
        if self.context.background != "none":
            target = target * ~void.unsqueeze(1)
        return target, u * ~new

    def _belief(self, logits: Tensor) -> Tensor:
        """Probabilities of the old classes, without the weights they were learned with."""
        if self._learned_with is not None:
            logits = logits - self._learned_with.to(logits.device).log().view(1, -1, 1, 1)
        return logits.softmax(1)


def beside(output: Output, row: Any) -> Tensor:
    """The logit of a head with one class on the features of the classifier, (B, H, W) float32.

    The features get no gradient: the network learns as it would without the head.
    """
    size = output.logits.shape[-2:]
    with full_precision(output.logits):
        logit: Tensor = row(seen_by_classifier(output, "ejt").detach())
        if logit.shape[-2:] != size:
            logit = F.interpolate(logit, size, mode="bilinear", align_corners=False)
    return logit[:, 0]


def expected(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with weighted probabilities as labels: sum of -t log p over the sum of t.

    Args:
        logits: (B, C, H, W).
        target: The same shape, not negative.

    Returns:
        A scalar, 0 where nothing is said.
    """
    total = -(target * log_softmax(logits)).sum()
    return total / target.sum().clamp(min=torch.finfo(target.dtype).tiny)
