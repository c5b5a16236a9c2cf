"""SDR: sparse and disentangled features around one prototype per class (Michieli, CVPR 2021).

Michieli, Zanuttigh, "Continual Semantic Segmentation via Repulsion-Attraction of Sparse and
Disentangled Latent Representations". Needs: new images, labels of the new classes, a background
class at id 0, the previous step's network. Keeps: one mean feature vector and one count per class.

    L   = L_CE + 100 L_KD + 0.01 L_PM + 0.001 (L_A + L_R) + 0.001 L_S
    L_CE, L_KD: those of MiB, as is the start of new rows
    L_PM = mean over old classes in the batch of mean_d (m_c - p_c)^2
    L_A  = mean over classes in the batch of mean over their pixels and d of (f - p_c)^2
    L_R  = mean over pairs of classes in the batch of 1 / ||m_c - m_e||
    L_S  = mean over pixels of sum_d exp(g_d) / sum_d g_d,   g = f / largest feature of its class

f are the features (non-negative) of the classifier at their own resolution, m_c the mean of class c
in the batch, p_c its prototype. A background pixel counts as what the old network says there.

- Prototypes of the step's classes are running means over all pixels so far; those of older classes
  stay as they were, because a prototype that moved with the network would hold nothing in place.
- Step 0 is plain cross-entropy and gathers prototypes. Without them (step 0 imported, or learnt by
  another method) they come from the old network's features and answers on the new images.
- Two means nearer than 0.01 repel as if they were 0.01 apart, and a pixel whose g adds up to less
  than 1 is divided by 1: else a silent pixel would weigh more than all others.
- Terms follow the paper's formulas; the authors' code mixes channels of different images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeinc.methods import Method, StepContext, Survey
from edgeinc.methods._background import (
    start_from_background,
    unbiased_auxiliary,
    unbiased_cross_entropy,
    unbiased_distillation,
)
from edgeinc.methods._losses import supervised
from edgeinc.models import Model, Output
from edgeinc.schema import VOID, Background

NEAR = 0.01
"""Least distance of two class means in the repulsion."""


class SDR(Method):
    """MiB's terms, prototype matching, attraction and repulsion, sparsity."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("real", "virtual")
    teacher: ClassVar[bool] = True
    prepares: ClassVar[str] = (
        "one prototype per class; "
        "without them they are taken from its network's answers on the new images"
    )

    @dataclass(frozen=True)
    class Config:
        """Options of SDR.

        Attributes:
            lambda_kd: Factor of L_KD (the authors' code).
            lambda_matching: Factor of L_PM (the authors' code).
            lambda_contrast: Factor of attraction and repulsion (the authors' code).
            lambda_sparsity: Factor of L_S (the authors' code).
        """

        lambda_kd: float = 100.0
        lambda_matching: float = 0.01
        lambda_contrast: float = 0.001
        lambda_sparsity: float = 0.001

    def __init__(self, config: Any, context: StepContext) -> None:
        super().__init__(config, context)
        self._prototypes: Tensor | None = context.memory.get("prototypes")
        self._counts: Tensor | None = context.memory.get("counts")
        self._batches: list[tuple[Tensor, Tensor]] = []

    def begin(self, model: Model, old: Model | None) -> None:
        """New classes start as equal parts of the background, as in MiB."""
        if old is not None:
            start_from_background(model)

    def prepare(self, survey: Survey, teacher: Model | None) -> dict[str, Tensor]:
        """Prototypes of the old classes, where the step before kept none."""
        if teacher is None or self._prototypes is not None:
            return {}
        first = self.context.first_new
        prototypes, counts = torch.zeros(()), torch.zeros(())
        with survey.progress.task("prototypes of the old network", None, "batch") as task:
            for x, labels in survey.passes():
                answer = survey.infer(teacher, x)
                hidden = torch.where((labels < first) & (labels != VOID), 0, VOID)
                total, found = sums(*seen(answer, hidden, answer), first)
                if not counts.ndim:
                    prototypes, counts = torch.zeros_like(total), torch.zeros_like(found)
                prototypes, counts = running(prototypes, counts, total, found)
                task.advance()
        return {"prototypes": prototypes, "counts": counts} if counts.ndim else {}

    def ready(self, prepared: dict[str, Tensor]) -> None:
        """Take the prototypes that had to be made."""
        if prepared:
            self._prototypes, self._counts = prepared["prototypes"], prepared["counts"]

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy at step 0; every term of the module's docstring afterwards."""
        weights, first = self.context.class_weights, self.context.first_new
        features, classes = seen(output, labels, teacher)
        total, counts = sums(features, classes, self.context.classes)
        self._batches.append((total.detach(), counts))
        if teacher is None:
            return supervised(output, labels, weights)
        prototypes, until_now = self._table()
        mean, present = total / counts.clamp(min=1).unsqueeze(1), counts > 0
        known = present & (until_now > 0)
        config = self.config
        return {
            "ce": unbiased_cross_entropy(output.logits, labels, first, weights),
            "kd": config.lambda_kd * unbiased_distillation(output.logits, teacher.logits),
            "matching": config.lambda_matching
            * matching(mean[:first], prototypes[:first], known[:first]),
            "attraction": config.lambda_contrast * attraction(features, classes, prototypes, known),
            "repulsion": config.lambda_contrast * repulsion(mean[present]),
            "sparsity": config.lambda_sparsity * sparsity(features, classes, present),
            **unbiased_auxiliary(output, labels, first, weights),
        }

    def after_update(self, model: Model) -> None:
        """Take the batches of this iteration into the running means."""
        if self._batches:
            self._prototypes, self._counts = self._table()
            self._batches = []

    def state(self) -> dict[str, Tensor]:
        """The running means and what they count."""
        if self._prototypes is None or self._counts is None:
            return {}
        return {"prototypes": self._prototypes, "counts": self._counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take them back."""
        if state:
            self._prototypes, self._counts = state["prototypes"], state["counts"]

    def finish(self, model: Model, old: Model | None, survey: Survey) -> dict[str, Tensor]:
        """Keep the prototype of every class so far and how many pixels it stands for."""
        return self.state()

    def _table(self) -> tuple[Tensor, Tensor]:
        """Prototypes (C, D) and counts (C,), the batches of this iteration included."""
        like, like_counts = self._batches[0]
        prototypes, counts = torch.zeros_like(like), torch.zeros_like(like_counts)
        if self._prototypes is not None and self._counts is not None:
            prototypes[: len(self._prototypes)] = self._prototypes.to(like)
            counts[: len(self._counts)] = self._counts.to(like_counts)
        new = self.context.first_new
        for total, found in self._batches:
            prototypes[new:], counts[new:] = running(
                prototypes[new:], counts[new:], total[new:], found[new:]
            )
        return prototypes, counts


def seen(output: Output, labels: Tensor, teacher: Output | None) -> tuple[Tensor, Tensor]:
    """Features in float32 (B, D, h, w), and the class (B, h, w) of each of their pixels.

    Labels and the teacher's answers are taken at the nearest pixel; background becomes the answer.
    """
    if output.features is None:
        raise RuntimeError("the network gives no features")
    features = output.features.float()
    classes = labels
    if teacher is not None:
        classes = torch.where(labels == 0, teacher.logits.argmax(1), labels)
    size = features.shape[-2:]
    small = F.interpolate(classes.unsqueeze(1).float(), size=(size[0], size[1]), mode="nearest")
    return features, small.squeeze(1).long()


def sums(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Per class the sum of its features (classes, D) and its pixels (classes,) int64."""
    flat, where = features.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()
    flat, where = flat[where < classes], where[where < classes]
    total = flat.new_zeros(classes, flat.shape[1]).index_add(0, where, flat)
    return total, torch.bincount(where, minlength=classes)


def running(
    prototypes: Tensor, counts: Tensor, total: Tensor, found: Tensor
) -> tuple[Tensor, Tensor]:
    """Means and counts after a batch with sums `total` over `found` pixels."""
    after = counts + found
    change = (total - found.unsqueeze(1) * prototypes) / after.clamp(min=1).unsqueeze(1)
    return prototypes + change, after


def matching(mean: Tensor, prototypes: Tensor, known: Tensor) -> Tensor:
    """L_PM: mean over the `known` of the old classes of the mean squared difference."""
    per_class = ((mean - prototypes) ** 2).mean(1)
    return torch.where(known, per_class, 0).sum() / known.sum().clamp(min=1)


def attraction(features: Tensor, labels: Tensor, prototypes: Tensor, known: Tensor) -> Tensor:
    """L_A: mean over the `known` classes of the mean squared distance of their pixels."""
    flat, where = features.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()
    inside = where < len(prototypes)
    flat, where = flat[inside], where[inside]
    distance = ((flat - prototypes[where]) ** 2).mean(1)
    total = distance.new_zeros(len(prototypes)).index_add(0, where, distance)
    per_class = total / torch.bincount(where, minlength=len(prototypes)).clamp(min=1)
    return torch.where(known, per_class, 0).sum() / known.sum().clamp(min=1)


def repulsion(mean: Tensor) -> Tensor:
    """L_R of class means (K, D); 0 when there is no pair."""
    one, two = torch.triu_indices(len(mean), len(mean), 1, device=mean.device)
    distance = torch.linalg.vector_norm(mean[one] - mean[two], dim=1)
    return (1 / distance.clamp(min=NEAR)).sum() / max(1, len(one))


def sparsity(features: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """L_S: mean over the pixels of the `present` classes; void pixels do not count."""
    flat, where = features.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()
    inside = where < len(present)
    flat, where = flat[inside], where[inside]
    largest = flat.new_zeros(len(present)).scatter_reduce(0, where, flat.amax(1), "amax")
    scaled = flat / largest.clamp(min=torch.finfo(flat.dtype).tiny)[where].unsqueeze(1)
    ratio = scaled.exp().sum(1) / scaled.sum(1).clamp(min=1)
    return ratio.sum() / max(1, len(ratio))
