"""Terms that several methods share, computed in float32 whatever the network computes in.

Every mean over a set of pixels is 0 when the set is empty: a batch without a labelled pixel must
not turn the weights into NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeinc.config import Weighting
from edgeinc.models import Output
from edgeinc.schema import VOID


def class_weights(kind: Weighting, pixels: Tensor) -> Tensor | None:
    """Weights of a cross-entropy from how many pixels each class has; None for `none`.

    Args:
        kind: `log` is 1 / ln(1.1 + share); `inverse` 1 / share, with a mean of 1.
        pixels: (C,) counts, not negative.

    Returns:
        (C,) float32; a class without a pixel has weight 1, which nothing multiplies.
    """
    if kind == "none":
        return None
    pixels = pixels.double()
    there = pixels > 0
    share = pixels / pixels.sum().clamp(min=torch.finfo(pixels.dtype).tiny)
    if kind == "log":
        weights = 1 / torch.log(1.1 + share)
    else:
        weights = 1 / share.where(there, 1)
        weights = weights / weights[there].mean()
    return weights.where(there, 1).float()


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Weighted mean over labelled pixels of -log softmax(logits)[label].

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64; `VOID` pixels do not count.
        class_weights: (C,) or None; the sum is divided by the weights of the labelled pixels.
    """
    return nll(log_softmax(logits), labels, class_weights)


def nll(log_p: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """`cross_entropy` for logarithms of probabilities that are already there."""
    # Not reduction="sum": on CUDA that is not deterministic.
    total = F.nll_loss(log_p, labels, class_weights, ignore_index=VOID, reduction="none").sum()
    valid = labels != VOID
    if class_weights is None:
        return total / valid.sum().clamp(min=1)
    weight = torch.where(valid, class_weights[labels.masked_fill(~valid, 0)], 0).sum()
    return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)


def supervised(output: Output, labels: Tensor, class_weights: Tensor | None) -> dict[str, Tensor]:
    """Cross-entropy of the decision (`ce`) and of the training-only outputs (`aux`)."""
    return {
        "ce": cross_entropy(output.logits, labels, class_weights),
        **auxiliary(output, labels, class_weights),
    }


def auxiliary(output: Output, labels: Tensor, class_weights: Tensor | None) -> dict[str, Tensor]:
    """Summed cross-entropy of the training-only outputs; no term where a network has none."""
    if not output.aux:
        return {}
    losses = [cross_entropy(logits, labels, class_weights) for logits in output.aux]
    return {"aux": torch.stack(losses).sum()}


def new_cross_entropy(
    logits: Tensor, labels: Tensor, first_new: int, class_weights: Tensor | None = None
) -> Tensor:
    """`cross_entropy` with a softmax over the new classes alone, on the pixels labelled so.

    Args:
        logits: (B, C, H, W) over old and new classes.
        labels: (B, H, W) int64; everything below `first_new` counts as `VOID`.
        first_new: Number of old classes.
        class_weights: (C,) or None.
    """
    new = (labels >= first_new) & (labels != VOID)
    weights = None if class_weights is None else class_weights[first_new:]
    return cross_entropy(logits[:, first_new:], torch.where(new, labels - first_new, VOID), weights)


def new_supervised(
    output: Output, labels: Tensor, first_new: int, class_weights: Tensor | None
) -> dict[str, Tensor]:
    """`new_cross_entropy` of the decision (`ce`) and of the training-only outputs (`aux`)."""
    losses = [
        new_cross_entropy(logits, labels, first_new, class_weights)
        for logits in (output.logits, *output.aux)
    ]
    aux = {"aux": torch.stack(losses[1:]).sum()} if output.aux else {}
    return {"ce": losses[0], **aux}


def old_distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean over every pixel of -sum q log p, q and p softmaxes over the old classes alone.

    Args:
        logits: (B, C, H, W) of the student; those of new classes are cut off before the softmax.
        teacher: (B, C_old, H, W) of the previous network.
    """
    log_p = log_softmax(logits[:, : teacher.shape[1]])
    return -(log_softmax(teacher).exp() * log_p).sum(1).mean()


def log_softmax(logits: Tensor) -> Tensor:
    """Over classes, in float32."""
    return F.log_softmax(logits.float(), dim=1)


def entropy_bits(log_q: Tensor) -> Tensor:
    """Entropy over classes in bits, (B, H, W); exactly 0 for a one-hot distribution.

    `log_q` may hold -inf: 0 log 0 is 0.
    """
    q_log_q = torch.where(log_q == -torch.inf, 0, log_q.exp() * log_q)
    return -q_log_q.sum(1) / torch.log(torch.tensor(2.0, device=log_q.device))
