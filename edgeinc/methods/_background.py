"""Losses and the start of new classifiers when the background hides old and new classes.

Pixels of old classes are labelled background in the images of a step, and pixels of its new classes
were background for the network before it. So probabilities are folded before they are compared
(Cermelli et al., CVPR 2020): for the labels, what is not new counts as background; for the teacher,
what is not old does. All of it needs a background at id 0 of the softmax, real or virtual.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgeinc.methods._losses import log_softmax, nll
from edgeinc.models import Model, Output
from edgeinc.schema import VOID


def folded_old(logits: Tensor, first_new: int) -> Tensor:
    """Log-probabilities of [background or any old class, each new class].

    Args:
        logits: (B, C, H, W) over old classes (background at 0) and new ones.
        first_new: Number of old classes, the background among them.

    Returns:
        (B, 1 + C - first_new, H, W) float32; the probabilities of a pixel add up to 1.
    """
    z = logits.float()
    rest = z[:, :first_new].logsumexp(1, keepdim=True)
    return torch.cat([rest, z[:, first_new:]], 1) - z.logsumexp(1, keepdim=True)


def folded_new(logits: Tensor, old: int) -> Tensor:
    """Log-probabilities of [background or any new class, each old class].

    Args:
        logits: As for `folded_old`.
        old: Number of old classes, the background among them.

    Returns:
        (B, old, H, W) float32; the probabilities of a pixel add up to 1.
    """
    z = logits.float()
    rest = torch.cat([z[:, :1], z[:, old:]], 1).logsumexp(1, keepdim=True)
    return torch.cat([rest, z[:, 1:old]], 1) - z.logsumexp(1, keepdim=True)


def unbiased_cross_entropy(
    logits: Tensor, labels: Tensor, first_new: int, class_weights: Tensor | None = None
) -> Tensor:
    """UNCE: cross-entropy in which background means background or any old class.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64, left as they are; labels of old classes count as background,
            `VOID` pixels do not count.
        first_new: Number of old classes, the background among them; not 0.
        class_weights: (C,) or None, as in `cross_entropy`.

    Returns:
        A scalar, 0 when no pixel is labelled.
    """
    folded = torch.where(labels < first_new, 0, labels - (first_new - 1))
    folded = torch.where(labels == VOID, VOID, folded)
    if class_weights is not None:
        class_weights = torch.cat([class_weights[:1], class_weights[first_new:]])
    return nll(folded_old(logits, first_new), folded, class_weights)


def unbiased_distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """UNKD: the teacher's classes distilled, its background into background or any new class.

    Args:
        logits: (B, C, H, W) of the student.
        teacher: (B, C_old, H, W) of the previous network.

    Returns:
        Mean over every pixel, void ones too, and over the C_old classes of -q log p.
    """
    q = log_softmax(teacher).exp()
    return -(q * folded_new(logits, teacher.shape[1])).mean()


def unbiased_auxiliary(
    output: Output, labels: Tensor, first_new: int, class_weights: Tensor | None
) -> dict[str, Tensor]:
    """Summed UNCE of the training-only outputs; no term where a network has none."""
    if not output.aux:
        return {}
    losses = [unbiased_cross_entropy(z, labels, first_new, class_weights) for z in output.aux]
    return {"aux": torch.stack(losses).sum()}


@torch.no_grad()
def start_from_background(model: Model) -> None:
    """Let the new classes of every head share the background's probability equally.

    Each of the n new rows is a copy of the background's, and their biases and its own become
    b - log(n + 1): together they are as probable as the background was, so the network folded
    by `folded_new` answers as before. Does nothing at step 0.

    Args:
        model: Grown by a step; its old weights are those of the step before.
    """
    for head in model.heads():
        if len(head.steps) == 1:
            continue
        first: Any = head[0]
        new: Any = head[-1]
        shift = math.log(head.steps[-1] + 1)
        row = first.weight.narrow(head.class_axis, 0, 1)
        new.weight.copy_(row.expand_as(new.weight))
        first.bias[0] -= shift
        new.bias.copy_(first.bias[0].expand_as(new.bias))
