"""EJT: expected joint training, on labels that the previous network completes (our own).

Needs: new images, labels of the new classes, the previous step's network, and a base that was
trained by it too. Made of CIL's one softmax for old and new classes, of the idea behind MiB and
SSUL that something may be unknown, and of the weights that joint training would use. Derivation and
measurements: docs/ejt.md.

    L   = sum_i sum_c w_c t_ic (-log p_ic) / sum_i sum_c w_c t_ic
    t_i = one-hot of the label, where it is a new class
          q_i, the previous network's softmax over old classes and unknown, elsewhere

What has no new label is no new class: people label new images completely for what is new. So what
is left is an old class or nothing known, and that is what the previous network was trained to tell.
With t from labels alone this is the weighted cross-entropy of joint training; here its expectation
over what the previous network believes.

- Unknown: with a background (real or virtual) it is the background, id 0. Without one, a row beside
  the classifier, which void teaches at step 0. It is kept between the steps and is never part of
  the network: a network of known classes answers one of them for everything, with confidence, and
  CIL would teach that. A base that was trained by another method has no such row; then t has no
  unknown.
- w: the settings' `class_weights`, from pixels counted over t in one pass over the images, not from
  the labels alone, which show new classes only.
- Void is left out where there is a background.
- BiSeNet's auxiliary heads learn the same t without unknown, by the deciding head's teacher.
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
        """Count the pixels of every class, and of unknown, under completed labels."""
        if not self.config.balance or self.context.weighting == "none":
            return {}
        device = None if teacher is None else next(teacher.parameters()).device
        self._believed.to(device)
        pixels = torch.zeros(self.context.classes + 1, dtype=torch.float64)
        with survey.progress.task("count completed labels", None, "batch") as task:
            for x, labels in survey.passes():
                answer = None if teacher is None else survey.infer(teacher, x)
                pixels += self._completed(labels, answer).double().sum((0, 2, 3)).cpu()
                task.advance()
        return {"pixels": pixels}

    def ready(self, prepared: dict[str, Tensor]) -> None:
        """Take the weights that follow from the counts."""
        if "pixels" in prepared:
            self._weights = class_weights(self.context.weighting, prepared["pixels"])
        elif self.context.class_weights is not None:
            self._weights = F.pad(self.context.class_weights, (0, 1), value=1.0)

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """The loss of the module's docstring; `aux` is that of the auxiliary outputs."""
        with torch.no_grad():
            target = self._completed(labels, teacher)
            if self._weights is not None:
                target *= self._weights.view(1, -1, 1, 1)
        terms = {"ce": expected(with_unknown(output, self._unknown), target)}
        if output.aux:
            terms["aux"] = torch.stack([expected(z, target) for z in output.aux]).sum()
        return terms

    def groups(self, model: Model) -> list[dict[str, Any]]:
        """The network, and the row beside it."""
        device = next(model.parameters()).device
        self._believed.to(device)
        beside = list(self._unknown.to(device).parameters())
        return [*super().groups(model), *([{"params": beside}] if beside else [])]

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
        """Keep the row for the next step."""
        return {name: row.clone() for name, row in self.state().items()}

    def _completed(self, labels: Tensor, teacher: Output | None) -> Tensor:
        """(B, C + 1, H, W) float32 probabilities, the last of unknown; 0 where nothing is said."""
        classes, first = self.context.classes, self.context.first_new
        void, none = labels == VOID, self.context.background == "none"
        new = (labels >= first) & ~void
        # Without a label: unknown, which counts for nothing where there is no row for it.
        ids = torch.where(new, labels, classes)
        target = F.one_hot(ids, classes + 1).permute(0, 3, 1, 2).float()
        if teacher is None:
            keep = new | (void & none & bool(len(self._unknown)))
            return target * keep.unsqueeze(1)
        q = with_unknown(teacher, self._believed).softmax(1)
        gap = q.new_zeros(len(q), classes - first, *q.shape[2:])
        unknown = q[:, first:] if len(self._believed) else gap[:, :1]
        believed = torch.cat([q[:, :first], gap, unknown], 1)
        target = torch.where(new.unsqueeze(1), target, believed)
        return target if none else target * ~void.unsqueeze(1)


def with_unknown(output: Output, row: Any) -> Tensor:
    """Logits in float32, with that of unknown at the end where there is a row for it.

    Args:
        output: Logits (B, C, H, W) and the features of the classifier.
        row: A list of no or one head with one class.

    Returns:
        (B, C, H, W) or (B, C + 1, H, W).
    """
    logits = output.logits.float()
    for head in row:
        with full_precision(logits):
            unknown = head(seen_by_classifier(output, "ejt"))
        if unknown.shape[-2:] != logits.shape[-2:]:
            size = logits.shape[-2:]
            unknown = F.interpolate(unknown, size, mode="bilinear", align_corners=False)
        logits = torch.cat([logits, unknown], 1)
    return logits


def expected(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with weighted probabilities as labels: sum of -t log p over the sum of t.

    Args:
        logits: (B, C, H, W).
        target: (B, C, H, W) or more channels, of which those behind the logits' do not count.

    Returns:
        A scalar, 0 where nothing is said.
    """
    target = target[:, : logits.shape[1]]
    total = -(target * log_softmax(logits)).sum()
    return total / target.sum().clamp(min=torch.finfo(target.dtype).tiny)
