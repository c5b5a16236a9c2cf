"""PLOP: pseudo-labels from the old network and pooled distillation of maps (Douillard, CVPR 2021).

Douillard, Chen, Dapogny, Cord, "PLOP: Learning without Forgetting for Continual Semantic
Segmentation". Needs: new images, labels of the new classes, a background class at id 0, the
previous step's network. Before training, one pass over the images measures how sure that is.

    L     = L_CE + L_POD
    y~    = the label where it is new; else the old network's argmax c where u < t_c; else nothing
    u     = entropy of its softmax / log C_old,   t_c = max(median of u where it says c, floor)
    L_CE  = mean over pixels that are not void of v_i CE(z, y~), 0 where y~ is nothing
    v_i   = share of the unlabelled pixels of image i that got a pseudo-label
    L_POD = sqrt(C / n) / maps * sum over maps of w * mean over images of ||E(a^2) - E(b^2)||

E cuts a map into 1, 2x2 and 4x4 cells, averages each along its rows and along its columns, and
lines everything up. Maps are the stages of the network and the logits; n of C classes are new.

- The start of new rows is MiB's. Auxiliary outputs learn from L_CE only.
- The authors' code averages the entropy over classes and divides by log C once more; its floor of
  0.001 is in that unit, and is multiplied by C_old log C here to be in the unit of u.
- Their median adds the number of a bin instead of what is in it; `median = "published"` does so.
- An image without an unlabelled pixel has v_i = 1; their code gives 0, so it would teach nothing.
- Class weights weigh step 0 only: counted on a step's labels they know nothing of old classes,
  which no label names and pseudo-labels name everywhere.
- The stages are taken after their activation, the logits at the resolution of the features.
- Cells are counted for each side by itself, so maps need not be square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeinc.methods import Method, Survey
from edgeinc.methods._background import start_from_background
from edgeinc.methods._losses import log_softmax, supervised
from edgeinc.models import Model, Output
from edgeinc.schema import VOID, Background

SCALES = (1, 2, 4)
"""Cells per side of a map (section 3.2)."""
BINS = 10_000
PUBLISHED_BINS = 100
"""Bins of the histograms whose medians are taken, over 0 to 1."""


class PLOP(Method):
    """Cross-entropy with pseudo-labels, and local pooled outputs distillation."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("real", "virtual")
    teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of PLOP.

        Attributes:
            floor: Least threshold of the entropy, in the unit of the authors' code.
            median: Median of the entropies per class: `exact`, or as `published` (the authors'
                code, see above).
            pod_features: Factor of the stages in L_POD (the authors' code).
            pod_logits: Factor of the logits in L_POD (the authors' code).
        """

        floor: float = 0.001
        median: Literal["exact", "published"] = "exact"
        pod_features: float = 0.01
        pod_logits: float = 0.0005

    _thresholds: Tensor

    def begin(self, model: Model, old: Model | None) -> None:
        """New classes start as equal parts of the background, as in MiB."""
        if old is not None:
            start_from_background(model)

    def prepare(self, survey: Survey, teacher: Model | None) -> dict[str, Tensor]:
        """The threshold of every old class, from one pass of the old network."""
        if teacher is None:
            return {}
        classes, published = self.context.first_new, self.config.median == "published"
        unit = classes * math.log(self.context.classes)
        bins = PUBLISHED_BINS if published else BINS
        counts = torch.zeros(classes, bins, dtype=torch.int64)
        with survey.progress.task("entropies of the old network", None, "batch") as task:
            for x, labels in survey.passes():
                entropy, says = uncertainty(survey.infer(teacher, x).logits)
                where = hidden(labels, self.context.first_new)
                values = (entropy[where] / unit if published else entropy[where]).cpu()
                bin_ = (values * bins).long().clamp(0, bins - 1)
                index = says[where].cpu() * bins + bin_
                counts += torch.bincount(index, minlength=classes * bins).view(classes, bins)
                task.advance()
        found = published_median(counts) * unit if published else median(counts)
        return {"thresholds": found.clamp(min=self.config.floor * unit).float()}

    def ready(self, prepared: dict[str, Tensor]) -> None:
        """Take the thresholds."""
        if prepared:
            self._thresholds = prepared["thresholds"]

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy with pseudo-labels and distillation; cross-entropy alone at step 0."""
        if teacher is None:
            return supervised(output, labels, self.context.class_weights)
        first = self.context.first_new
        known, share = pseudo_labels(labels, teacher.logits, self._thresholds, first)
        valid = labels != VOID
        losses = [
            shared_cross_entropy(z, known, share, valid) for z in (output.logits, *output.aux)
        ]
        terms = {"ce": losses[0], "kd": self.distillation(output, teacher)}
        return {**terms, "aux": torch.stack(losses[1:]).sum()} if output.aux else terms

    def distillation(self, output: Output, teacher: Output) -> Tensor:
        """L_POD of the module's docstring, its factors included."""
        maps, factors = compared(output, teacher), [self.config.pod_logits]
        factors = [self.config.pod_features] * len(output.stages) + factors
        losses = [
            factor * torch.linalg.vector_norm(local_pod(a**2) - local_pod(b**2), dim=1).mean()
            for factor, (a, b) in zip(factors, maps, strict=True)
        ]
        return self.growth * torch.stack(losses).mean()

    @property
    def growth(self) -> float:
        """sqrt(C / n): the fewer classes are new, the more is kept."""
        classes, first = self.context.classes, self.context.first_new
        return math.sqrt(classes / (classes - first))


def hidden(labels: Tensor, first_new: int) -> Tensor:
    """Where a pixel may show an old class: not void, and not labelled with a new class."""
    return (labels < first_new) & (labels != VOID)


def uncertainty(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy over log C, 0 to 1, and the decision, both (B, H, W), of logits (B, C, H, W)."""
    log_q = log_softmax(logits)
    entropy = -(log_q.exp() * log_q).sum(1)
    return entropy / math.log(max(2, logits.shape[1])), log_q.argmax(1)


def median(counts: Tensor) -> Tensor:
    """Median per class of values in 0 to 1, from a histogram.

    Args:
        counts: (C, bins) int64.

    Returns:
        (C,) float64, linear inside the bin of the median; 0 for a class without a value.
    """
    total, bins = counts.sum(1, keepdim=True).double(), counts.shape[1]
    until = counts.cumsum(1).double()
    place = (until < total / 2).sum(1, keepdim=True).clamp(max=bins - 1)
    inside = counts.gather(1, place).double()
    before = until.gather(1, place) - inside
    found = (place + (total / 2 - before) / inside.clamp(min=1)) / bins
    return torch.where(total > 0, found, 0).squeeze(1)


def published_median(counts: Tensor) -> Tensor:
    """What the authors' code takes for the median: its running sum adds numbers of bins.

    Args:
        counts: (C, bins) int64.

    Returns:
        (C,) float64; 0 for a class without a value.
    """
    bins = counts.shape[1]
    found = torch.zeros(len(counts), dtype=torch.float64)
    for row, values in enumerate(counts.tolist()):
        half, running, place = sum(values) / 2, 0.0, 0
        if not half:
            continue
        for place in range(bins):
            if running <= half <= running + values[place]:
                break
            running += place
        inside = (half - running) / values[place] if values[place] else 0.0
        found[row] = (place + inside) / bins
    return found


def pseudo_labels(
    labels: Tensor, teacher: Tensor, thresholds: Tensor, first_new: int
) -> tuple[Tensor, Tensor]:
    """Labels with the old network's sure answers in, and the share of them per image.

    Args:
        labels: (B, H, W) int64, left as they are.
        teacher: (B, C_old, H, W) logits.
        thresholds: (C_old,); an answer counts where its entropy is below that of its class.
        first_new: Number of old classes, the background among them.

    Returns:
        (B, H, W) int64 with `VOID` where nothing is known, and (B,) float32.
    """
    entropy, says = uncertainty(teacher)
    where = hidden(labels, first_new)
    sure = where & (entropy < thresholds[says])
    known = torch.where(sure, says, torch.where(where, VOID, labels))
    open_, taken = where.sum((1, 2)), sure.sum((1, 2))
    return known, torch.where(open_ > 0, taken / open_.clamp(min=1), 1.0)


def shared_cross_entropy(logits: Tensor, labels: Tensor, share: Tensor, valid: Tensor) -> Tensor:
    """L_CE of the module's docstring.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64 with pseudo-labels; `VOID` adds nothing.
        share: (B,) factor of each image.
        valid: (B, H, W) bool, the pixels the mean is over.

    Returns:
        A scalar, 0 when no pixel is valid.
    """
    loss = F.nll_loss(log_softmax(logits), labels, ignore_index=VOID, reduction="none")
    return (share * loss.sum((1, 2))).sum() / valid.sum().clamp(min=1)


def compared(output: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
    """Pairs of maps in float32: the stages, then the logits with the new ones in the background.

    The logits are averaged to the resolution of the features.
    """
    pairs = [(a.float(), b.float()) for a, b in zip(output.stages, teacher.stages, strict=True)]
    old = teacher.logits.shape[1]
    z = output.logits.float()
    background = z[:, :1] + z[:, old:].sum(1, keepdim=True)
    folded, before = torch.cat([background, z[:, 1:old]], 1), teacher.logits.float()
    if output.features is not None:
        height, width = output.features.shape[-2:]
        size = (height, width)
        folded, before = F.adaptive_avg_pool2d(folded, size), F.adaptive_avg_pool2d(before, size)
    return [*pairs, (folded, before)]


def local_pod(x: Tensor) -> Tensor:
    """E of the module's docstring.

    Args:
        x: (B, D, h, w). Where a side does not divide, its cells differ by one; where it is shorter
            than the number of cells, there are as many cells as pixels.

    Returns:
        (B, values): of every cell its mean over columns, then its mean over rows.
    """
    strips = []
    for scale in SCALES:
        for rows in x.tensor_split(min(scale, x.shape[2]), 2):
            for cell in rows.tensor_split(min(scale, x.shape[3]), 3):
                strips += [cell.mean(3).flatten(1), cell.mean(2).flatten(1)]
    return torch.cat(strips, 1)
