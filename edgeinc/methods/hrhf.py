"""HRHF: half real images, half images made from the old network (Huang et al., 2021).

"Half-Real Half-Fake Distillation for Class-Incremental Semantic Segmentation". Needs: new images,
labels of the new classes, the previous step's network. Before the step that network is turned
round: noise is changed until it sees its old classes in it (`_inversion`), and every batch is
joined with such images.

    L     = L_seg + lambda L_kd
    L_kd  = mean over pixels of -sum_{c old} q_c log p^_c,   p^_0 = p_0 + sum of p over new classes
    L_seg = mean over pixels of -log p_m,   m = the label where it is a new class, else argmax q

q is the teacher's softmax, p the student's. L_kd sums over the old classes. New rows start from the
background's as in MiB. Both terms see the joined images, on which m is argmax q everywhere.

- The paper does not say how many images are made; what DeepInversion adds (jitter, mirroring,
  clipping, decay of the learning rate) is on by default here.
- A batch is `batch_size` real images and as many made ones (`fakes`): its memory doubles.
- Void pixels of real images take no part in L_seg. The teacher's argmax is taken whatever its
  confidence. Class weights of the settings count labels, not merged ones: they are not applied.
- background none: nothing is folded and L_kd is left to the pixels without a new label, as in CIL;
  there unlabelled and void are one, so every pixel without a new label has a merged one.
- The images stay in the run (`inverted/`) and resemble what the network was trained on: see
  docs/synthesised-images.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from edgeinc.methods import Method, Survey
from edgeinc.methods._background import folded_new, start_from_background
from edgeinc.methods._inversion import Recipe, invert
from edgeinc.methods._losses import auxiliary, log_softmax, nll, supervised
from edgeinc.models import Model, Output
from edgeinc.schema import VOID, Background

FAKE = -1
"""Label of every pixel of a made image; no mask file and no other term knows it."""

Aggregation = Literal["scale-aware", "average", "maximum"]
Positive = Annotated[int, Ge(1)]
NotNegative = Annotated[float, Ge(0)]


class HRHF(Method):
    """Merged labels and folded distillation on real and on made images."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("real", "virtual", "none")
    teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of HRHF and of the images it makes.

        Attributes:
            lambda_kd: Factor of the distillation (equation 5, section 4.2).
            fakes: Made images for each real one in a batch; 1 is best in table 6, 0 makes none.
            per_class: Images made for each old class, rounded up to full batches; the paper does
                not say how many.
            iterations: Of the optimiser for a batch of images (section 4.2); 0 leaves noise
                (table 2).
            batch: Images made together, at least 8: fewer have no BatchNorm statistics. 16 in
                section 4.2.
            part: At most so many pass the network at once, for less memory and a third more
                time; the result is the same but for rounding. 0: all of them.
            lr: Adam's learning rate (section 4.2); it decays as a cosine, as in DeepInversion.
            classes_per_image: Classes an image shall show: 1, by cross-entropy; more, by binary
                cross-entropy (figure 3).
            aggregation: How logits become one score of an image (table 3).
            r: Scale of `scale-aware`; 0 draws it for each image and class from 0.5, 1, 5, 10, 20
                (table 4).
            tv: Weight of the total variation (DeepInversion's code, as l2).
            l2: Weight of the norm.
            bn: Weight of the BatchNorm statistics (0.05 in DeepInversion's code).
            jitter: Images are shifted by up to so many pixels in the first three quarters of the
                iterations, an eighth of a side at most (30 in DeepInversion, to the end).
            flip: Mirror them in half of the iterations (DeepInversion).
            clip: Keep every pixel one that an image can have (DeepInversion).
            stop_loss: A batch whose classification loss is below this is done (section 3.2, no
                value given); 0 takes every iteration.
        """

        lambda_kd: float = 1.0
        fakes: NotNegative = 1.0
        per_class: Positive = 32
        iterations: Annotated[int, Ge(0)] = 1000
        batch: Annotated[int, Ge(8)] = 16
        part: Annotated[int, Ge(0)] = 0
        lr: Annotated[float, Gt(0)] = 0.25
        classes_per_image: Positive = 1
        aggregation: Aggregation = "scale-aware"
        r: NotNegative = 0.0
        tv: NotNegative = 1e-4
        l2: NotNegative = 1e-5
        bn: NotNegative = 0.05
        jitter: Annotated[int, Ge(0)] = 30
        flip: bool = True
        clip: bool = True
        stop_loss: NotNegative = 0.0

    def begin(self, model: Model, old: Model | None) -> None:
        """New rows start as equal parts of the background, where there is one."""
        self._old, self._fakes = old, torch.empty(0)
        if old is not None and self.context.background != "none":
            start_from_background(model)

    def prepare(self, survey: Survey, teacher: Model | None) -> dict[str, Tensor]:
        """Make the images; the store keeps them, so there is nothing to hand to `ready`."""
        classes = old_classes(self.context.first_new, self.context.background)
        if self._old is None or not classes or not self.config.fakes:
            return {}
        x, _ = next(survey.passes())
        height, width = x.shape[2:]
        batches = invert(
            self._old,
            classes,
            Recipe.of(self.config),
            size=(height, width),
            seed=self.context.seed,
            dtype=computing(x.dtype),
            store=survey.store,
            progress=survey.progress,
        )
        self._fakes = torch.cat([batch["images"] for batch in batches])
        return {}

    def blend(self, x: Tensor, labels: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Append made images, labelled `FAKE`."""
        wanted = round(self.config.fakes * len(x))
        if not len(self._fakes) or not wanted:
            return x, labels
        seeds = (self.context.seed, self.context.first_new)
        chosen = list(_rounds(len(self._fakes), batch * wanted, wanted, seeds))
        fakes = self._fakes[chosen].to(x)
        marked = labels.new_full((wanted, *labels.shape[1:]), FAKE)
        joined = torch.cat([x, fakes])
        return joined.contiguous(memory_format=torch.channels_last), torch.cat([labels, marked])

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Merged cross-entropy and distillation once there is a teacher."""
        if teacher is None:
            return supervised(output, labels, self.context.class_weights)
        context = self.context
        folded = context.background != "none"
        merged = merge(labels, teacher.logits, context.first_new, void_too=not folded)
        log_p = log_softmax(output.logits)
        if folded:
            kd = distillation(folded_new(output.logits, context.first_new), teacher.logits)
        else:
            kd = distillation(log_p, teacher.logits, merged < context.first_new)
        return {
            "ce": nll(log_p, merged),
            "kd": self.config.lambda_kd * kd,
            **auxiliary(output, merged, None),
        }


def old_classes(first_new: int, background: Background) -> range:
    """What images are made of: every class of the previous network but a background."""
    return range(0 if background == "none" else 1, first_new)


def computing(dtype: torch.dtype) -> torch.dtype:
    """What images are made in where the training computes in `dtype`.

    The gradients of the statistics are too small for float16.
    """
    return dtype if dtype == torch.bfloat16 else torch.float32


def merge(labels: Tensor, teacher: Tensor, first_new: int, *, void_too: bool) -> Tensor:
    """Complete labels: those of new classes, and what the previous network sees elsewhere.

    Args:
        labels: (B, H, W) int64, left as they are; `FAKE` on made images.
        teacher: (B, C_old, H, W) logits.
        first_new: Id of the first new class.
        void_too: Whether void of real images takes the teacher's class as well.
    """
    new = (labels >= first_new) & (labels != VOID)
    left = new if void_too else new | (labels == VOID)
    return torch.where(left, labels, teacher.argmax(1))


def distillation(log_p: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
    """Mean over pixels of the sum over old classes of -q log p; 0 for an empty set.

    Args:
        log_p: (B, C, H, W) float32, C >= C_old; folded or not.
        teacher: (B, C_old, H, W) logits.
        where: (B, H, W) bool; None for every pixel.
    """
    q = log_softmax(teacher).exp()
    per_pixel = -(q * log_p[:, : q.shape[1]]).sum(1)
    if where is None:
        return per_pixel.mean()
    return torch.where(where, per_pixel, 0).sum() / where.sum().clamp(min=1)


def _rounds(count: int, start: int, wanted: int, seeds: Sequence[int]) -> Iterator[int]:
    """`wanted` positions from `start` on, of endless shuffled rounds through `count` things."""
    order: Any = None
    for place in range(start, start + wanted):
        turn, at = divmod(place, count)
        if order is None or at == 0:
            order = np.random.default_rng([*seeds, turn]).permutation(count)
        yield int(order[at])
