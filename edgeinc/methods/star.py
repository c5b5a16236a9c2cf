"""STAR: replays old classes from statistics of their features (Chen et al., NeurIPS 2023).

"Saving 100x Storage: Prototype Replay for Reconstructing Training Sample Distribution in
Class-Incremental Semantic Segmentation". Needs: new images, labels of the new classes, the previous
step's network, and a base that STAR trained too. One sigmoid per class, none for the background.

    L = L_mBCE + 5 L_PKD + 0.05 L_Cont
    L_mBCE = (sum_i w_i l_i + sum_k missing_k mean l(f_k)) / (sum_i w_i + sum_k missing_k)
             l = sum over new classes of BCE(z, [y = class]), positives times gamma
    f_k    = (mu_k + e s_k) (m_k + e' d_k),   e and e' normal
    L_PKD  = mean over features of old classes of (F_d - F'_d)^2
    L_Cont = mean over new classes in the batch of 1 / min_k |c_new - mu_k|

Kept per class, never an image: the mean direction mu of its features (each divided by its norm),
their spread s around it per dimension, mean m and standard deviation d of the norms, and the
number of pixels. missing_k: how many of its pixels the step's images lack, per batch: those kept
less those that the previous network still finds. Made features f_k of that weight are negatives of
the new classes; background pixels weigh more by the same rule (w_i). So the new classes see old,
background and new pixels in the shares that joint training has. An old class is where the previous
network says so with a sigmoid above 0.5 and the label does not say otherwise.

In extensions BatchNorm and dropout stand still and only new rows decay; no term moves old rows.

- Corrected against the published code: the rule of 0.5 holds for sigmoids, not for logits; noise
  is drawn with the statistics of the class it is for; constants that depend on the benchmark are
  gone; means over nothing are 0.
- Features are made in a fixed number per batch and weighed, not one per missing pixel.
- A background pixel is one labelled so where no old class is found. Without a background, void is
  a negative of the step's classes and weighs 1, and old logits that come from a softmax are set
  against each other (`_sigmoid`).
- Classes of a base that STAR did not train have no statistics and are not replayed.
- Auxiliary heads learn by mBCE without replay. `class_weights` of the settings do not apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from edgeinc.methods import Method, StepContext, Survey
from edgeinc.methods._sigmoid import (
    above_background,
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
    zero_background,
)
from edgeinc.models import Model, Output
from edgeinc.schema import VOID, Background

NEAR = 1e-4
"""Added to squared distances in L_Cont: where two classes coincide it is 100, not infinite."""


class STAR(Method):
    """Binary cross-entropy with replayed features, old features held, new ones kept apart."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real", "virtual")
    teacher: ClassVar[bool] = True
    sigmoids: ClassVar[bool] = True
    prepares: ClassVar[str] = "the classes of step 0 have no statistics and are not replayed"

    @dataclass(frozen=True)
    class Config:
        """Options of STAR. Those of the authors' code are marked so.

        Attributes:
            gamma: Factor of positives (authors' code).
            lambda_pkd: Factor of the term that holds features of old classes (authors' code).
            lambda_cont: Factor of the term that keeps new classes from old ones (authors' code).
            replay: Replay features and weigh the background; off leaves the plain mBCE.
            samples: Features made per batch; their weight does not depend on it.
            old_lr: Factor on the learning rate of old rows; the authors' code takes 10 with SGD.
            new_lr: Factor on the learning rate of new rows; the authors' code takes 100 with SGD.
        """

        gamma: Annotated[float, Gt(0)] = 4.0
        lambda_pkd: Annotated[float, Ge(0)] = 5.0
        lambda_cont: Annotated[float, Ge(0)] = 0.05
        replay: bool = True
        samples: Annotated[int, Ge(1)] = 1024
        old_lr: Annotated[float, Gt(0)] = 1.0
        new_lr: Annotated[float, Gt(0)] = 1.0

    def __init__(self, config: Any, context: StepContext) -> None:
        super().__init__(config, context)
        self._model: Model | None = None
        self._missing: Tensor | None = None
        self._background_weight: Tensor | None = None
        self._draws = 0

    def begin(self, model: Model, old: Model | None) -> None:
        """Zero background row; in extensions BatchNorm and dropout stand still."""
        self._model = model
        zero_background(model, self.context.background, 0 if old is None else len(model.steps) - 1)
        start_sigmoids(model, self.context)
        if old is not None:
            hold_still(model)

    def prepare(self, survey: Survey, teacher: Model | None) -> dict[str, Tensor]:
        """Count what the previous network finds in the step's images, and so what they lack.

        Returns:
            `missing`: (C_old,) pixels per batch; `background_weight`: of a background pixel.
            Nothing where there is nothing to replay.
        """
        memory, known = self.context.memory, self.context.first_new
        if teacher is None or not memory or not self.config.replay:
            return {}
        found = torch.zeros(known, dtype=torch.float64)
        background, batches = 0.0, 0
        for x, labels in survey.passes():
            old = self._old_classes(survey.infer(teacher, x), labels)
            found += torch.bincount(old[old != VOID], minlength=known).cpu()
            background += float(self._is_background(old, labels).sum())
            batches += 1
        missing = (memory["pixels"].cpu() - found).clamp(min=0) / max(batches, 1)
        weight = max(float(memory["background"]), background) / background if background else 1.0
        return {"missing": missing.float(), "background_weight": torch.tensor([weight])}

    def ready(self, prepared: dict[str, Tensor]) -> None:
        """Take the counts."""
        self._missing = prepared.get("missing")
        self._background_weight = prepared.get("background_weight")

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """The terms of the module's docstring; `aux` is the mBCE of the auxiliary heads."""
        first, gamma = first_taught(self.context), self.config.gamma
        where = learned_from(labels, self.context, void_negative=False)
        with full_precision(output.logits):
            loss = binary_map(output.logits[:, first:], labels, first, gamma)
            terms = {}
            if output.aux:
                aux = [
                    mean_over(binary_map(z[:, first:], labels, first, gamma), where)
                    for z in output.aux
                ]
                terms["aux"] = torch.stack(aux).sum()
            if teacher is None:
                return {"bce": mean_over(loss, where), **terms}
            old = self._old_classes(teacher, labels)
            now = seen_by_classifier(output, "star")
            before = seen_by_classifier(teacher, "star")
            held = shrunk(old, now.shape[-2:]) != VOID
            terms["pkd"] = self.config.lambda_pkd * mean_over((now - before).square().mean(1), held)
            terms["cont"] = self.config.lambda_cont * self._apart(now, labels)
            return {"bce": self._balanced(loss, where, old, labels), **terms}

    def groups(self, model: Model) -> list[dict[str, Any]]:
        """Backbone, old rows, new rows; in extensions only the new rows decay."""
        extension = self.context.first_new > 0
        new = self.config.new_lr if extension else self.config.old_lr
        return head_groups(model, extension=extension, old_lr=self.config.old_lr, new_lr=new)

    def state(self) -> dict[str, Tensor]:
        """How many times features were made: it seeds the next."""
        return {"draws": torch.tensor([self._draws])}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The same."""
        self._draws = int(state["draws"])

    def finish(self, model: Model, old: Model | None, survey: Survey) -> dict[str, Tensor]:
        """Measure the classes of the step on its images; the statistics of older ones stay."""
        training = model.training
        model.eval()
        memory = self._measured(model, old, survey)
        model.train(training)
        return memory

    def _measured(self, model: Model, old: Model | None, survey: Survey) -> dict[str, Tensor]:
        classes, first = self.context.classes, first_taught(self.context)
        sums, background = None, 0.0
        for x, labels in survey.passes():
            features = seen_by_classifier(survey.infer(model, x), "star")
            found = torch.full_like(labels, VOID)
            if old is not None:
                found = self._old_classes(survey.infer(old, x), labels)
            background += float(self._is_background(found, labels).sum())
            taught = torch.where(labels < first, VOID, labels)
            sums = Sums(classes, features.shape[1]) if sums is None else sums
            sums.add(features, taught)
        if sums is None:
            return dict(self.context.memory)
        fresh, kept = sums.statistics(), self.context.memory
        known = self.context.first_new
        for name, value in fresh.items():
            if name in kept:
                value[:known] = kept[name].cpu()
        before = float(kept["background"]) if kept else 0.0
        return {**fresh, "background": torch.tensor([max(before, background)])}

    def _old_classes(self, answer: Output, labels: Tensor) -> Tensor:
        """(B, H, W) int64: the old class of a pixel, `VOID` where there is none."""
        mode = self.context.background
        score, index = above_background(answer.logits, self.context).max(1)
        unsaid = learned_from(labels, self.context, void_negative=False)
        unsaid &= (labels < self.context.first_new) | (labels == VOID)
        return torch.where(unsaid & (score > 0), index + first_class(mode), VOID)

    def _is_background(self, old: Tensor, labels: Tensor) -> Tensor:
        """(B, H, W) bool: labelled background and no old class."""
        if self.context.background == "none":
            return torch.zeros_like(labels, dtype=torch.bool)
        return (labels == 0) & (old == VOID)

    def _balanced(self, loss: Tensor, where: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        weight = where.to(loss)
        if self._missing is None or self._background_weight is None:
            return mean_over(loss, where)
        weight = torch.where(self._is_background(old, labels), self._background_weight, weight)
        total, count = (weight * loss).sum(), weight.sum()
        missing = self._missing.sum()
        if missing > 0:
            total = total + missing * self._replayed()
        return total / (count + missing).clamp(min=1)

    def _replayed(self) -> Tensor:
        """Mean loss of features made from the old classes' statistics, negatives all."""
        assert self._model is not None
        assert self._missing is not None
        numbers = np.random.SeedSequence([self.context.seed, self._draws])
        generator = torch.Generator().manual_seed(int(numbers.generate_state(1, np.uint64)[0]))
        self._draws += 1
        made = synthesise(self.context.memory, self._missing, self.config.samples, generator)
        logits = self._model.heads()[0](made[:, :, None, None])
        return F.softplus(logits[:, first_taught(self.context) :]).sum(1).mean()

    def _apart(self, features: Tensor, labels: Tensor) -> Tensor:
        """L_Cont; 0 where the batch has no new class or nothing is kept."""
        memory, nothing = self.context.memory, features.new_zeros(())
        if not memory:
            return nothing
        kept = memory["direction"][memory["pixels"] > 0]
        places = shrunk(labels, features.shape[-2:])
        unit = F.normalize(features, dim=1)
        losses = []
        for k in range(self.context.first_new, self.context.classes):
            here = places == k
            if len(kept) and bool(here.any()):
                centre = F.normalize((unit * here.unsqueeze(1)).sum((0, 2, 3)), dim=0)
                nearest = (centre - kept).square().sum(1).min()
                losses.append((nearest + NEAR).rsqrt())
        return torch.stack(losses).mean() if losses else nothing


class Sums:
    """Sums over pixels from which the statistics of classes follow, in float64.

    Args:
        classes: Number of classes.
        channels: Channels of the features.
    """

    def __init__(self, classes: int, channels: int) -> None:
        self.unit = torch.zeros(classes, channels, dtype=torch.float64)
        self.unit_squared = torch.zeros_like(self.unit)
        self.norm = torch.zeros(classes, 2, dtype=torch.float64)
        self.places = torch.zeros(classes, dtype=torch.float64)
        self.pixels = torch.zeros_like(self.places)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            features: (B, D, h, w) float32.
            labels: (B, H, W) int64, `VOID` where a pixel is not counted.
        """
        classes = len(self.pixels)
        self.pixels += torch.bincount(labels[labels != VOID], minlength=classes).cpu()
        places = shrunk(labels, features.shape[-2:]).flatten()
        chosen = places != VOID
        rows = features.permute(0, 2, 3, 1).flatten(0, 2)[chosen].cpu().double()
        ids = places[chosen].cpu()
        norms = rows.norm(dim=1)
        units = rows / norms.clamp(min=1e-12).unsqueeze(1)
        self.places += torch.bincount(ids, minlength=classes)
        self.unit.index_add_(0, ids, units)
        self.unit_squared.index_add_(0, ids, units.square())
        self.norm.index_add_(0, ids, torch.stack([norms, norms.square()], 1))

    def statistics(self) -> dict[str, Tensor]:
        """`direction` and `spread` (C, D), `norm` (C, 2) mean and deviation, `pixels` (C,).

        A class without a feature has zeros, and no pixels.
        """
        n = self.places.clamp(min=1).unsqueeze(1)
        mean, squared = self.unit / n, self.unit_squared / n
        direction = F.normalize(mean, dim=1)
        # The mean of (u - direction)^2, with the direction renormalised.
        spread = (squared - 2 * direction * mean + direction.square()).clamp(min=0).sqrt()
        norm = self.norm / n
        deviation = (norm[:, 1] - norm[:, 0].square()).clamp(min=0).sqrt()
        seen = self.places > 0
        return {
            "direction": direction.float(),
            "spread": torch.where(seen.unsqueeze(1), spread, 0).float(),
            "norm": torch.stack([norm[:, 0], deviation], 1).float(),
            "pixels": torch.where(seen, self.pixels, 0),
        }


def synthesise(
    memory: dict[str, Tensor], shares: Tensor, samples: int, generator: torch.Generator
) -> Tensor:
    """Features of old classes, made from their statistics.

    Args:
        memory: What `Sums.statistics` gave.
        shares: (C,) how often each class is drawn; not all 0.
        samples: How many features.
        generator: Draws classes and noise, on the CPU: the same numbers for every device.

    Returns:
        (samples, D) float32; norms are not negative.
    """
    ids = torch.multinomial(shares.cpu(), samples, replacement=True, generator=generator)
    ids = ids.to(shares.device)
    direction, spread, norm = (memory[name][ids] for name in ("direction", "spread", "norm"))
    noise = torch.randn(direction.shape, generator=generator).to(direction)
    stretch = torch.randn(samples, generator=generator).to(direction)
    length = norm[:, 0] + norm[:, 1] * stretch
    return (direction + noise * spread) * length.clamp(min=0).unsqueeze(1)
