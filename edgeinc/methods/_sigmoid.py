"""Methods that ask about each class alone: a sigmoid per class, none for the background.

Where the run has a background its row of the classifier (id 0) is exactly zero, weight and bias.
The decision of such a head, "the best class if its sigmoid is above 0.5, else background", is then
argmax([0, z_1, z_2, ...]), ties included: the same argmax, and the same exported file, as for a
softmax. No loss reads logit 0, so the row never moves, whatever the optimiser and its weight decay.
Without a background there is no such row and the best class is taken wherever it stands.

An extension may start from a network that was trained with a softmax. Taking its background row
off every row changes no decision, and sigmoid(z_k - z_0) is the softmax between class k and the
background alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeinc.errors import UsageError
from edgeinc.methods import StepContext
from edgeinc.models import Head, Model, Output
from edgeinc.schema import VOID, Background


def first_class(background: Background) -> int:
    """Id of the first class that has a sigmoid: 1 where id 0 is the background."""
    return 0 if background == "none" else 1


def first_taught(context: StepContext) -> int:
    """Id of the first class that the step's labels teach."""
    return max(context.first_new, first_class(context.background))


def zero_background(model: Model, background: Background, known: int) -> None:
    """Take the background's row off every old row, in every head; at step 0 set it to zero.

    Args:
        model: The network as the step starts with it.
        background: The run's mode; `none` leaves everything as it is.
        known: Classifiers of each head that hold old rows; 0 at step 0.
    """
    if background == "none":
        return
    with torch.no_grad():
        for head in model.heads():
            layers: list[Any] = list(head)
            row = _first_row(head, layers[0].weight)
            weight, bias = row.clone(), layers[0].bias[0].clone()
            for layer in layers[:known]:
                layer.weight.sub_(weight)
                layer.bias.sub_(bias)
            row.zero_()
            layers[0].bias[0] = 0


def hold_still(model: Model) -> None:
    """BatchNorm as at inference, scale and shift included, and no dropout."""
    model.freeze_bn(stats=True, affine=True)
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0


def above_background(logits: Tensor, background: Background) -> Tensor:
    """Logits z_k - z_0 of a network whose background row may not be zero, in float32.

    Args:
        logits: (B, C, H, W) of the previous network.
        background: The run's mode.

    Returns:
        (B, C - 1, H, W), or (B, C, H, W) without a background.
    """
    z = logits.float()
    return z if background == "none" else z[:, 1:] - z[:, :1]


def weight_above_background(head: Head, background: Background) -> Tensor:
    """Weight of the classes with a sigmoid, the background's taken off, classes on their axis."""
    weight, _ = head.weight_and_bias()
    if background == "none":
        return weight
    rest = weight.narrow(head.class_axis, 1, weight.shape[head.class_axis] - 1)
    return rest - _first_row(head, weight)


def learned_from(labels: Tensor, context: StepContext, void_negative: bool) -> Tensor:
    """Pixels whose label says something about the new classes, (B, H, W) bool.

    Without a background, void is all that says "not this class" in an extension: old classes,
    future classes and true void all look like it, and the new rows would never learn to be silent.
    """
    if void_negative or (context.background == "none" and context.first_new > 0):
        return torch.ones_like(labels, dtype=torch.bool)
    return labels != VOID


def binary_map(logits: Tensor, labels: Tensor, first: int, positive: float) -> Tensor:
    """Binary cross-entropy of every pixel, summed over classes.

    Args:
        logits: (B, n, H, W) of classes `first` to `first` + n - 1.
        labels: (B, H, W) int64; anything but one of these classes is a negative for all.
        first: Id of the first of them.
        positive: Factor gamma of what belongs to a class.

    Returns:
        (B, H, W) float32.
    """
    z = logits.float()
    ids = torch.arange(first, first + z.shape[1], device=labels.device).view(1, -1, 1, 1)
    y = (labels.unsqueeze(1) == ids).to(z)
    return F.binary_cross_entropy_with_logits(
        z, y, reduction="none", pos_weight=torch.tensor(positive, device=z.device)
    ).sum(1)


def mean_over(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` over the pixels of a bool map, 0 when there is none."""
    return torch.where(where, values, 0).sum() / where.sum().clamp(min=1)


def binary_distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """BCE(z, sigmoid(z')): mean over batch and positions, sum over classes.

    Args:
        logits, teacher: (B, C, h, w) float32, the same classes.
    """
    target = teacher.sigmoid()
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()


def seen_by_classifier(output: Output, method: str) -> Tensor:
    """The features of the deciding classifier in float32.

    Raises:
        UsageError: The network does not give them.
    """
    if output.features is None:
        raise UsageError(
            f"method '{method}' needs the features before the classifier",
            hint="let the model's forward return them as Output(logits, features=...)",
        )
    return output.features.float()


def full_precision(tensor: Tensor) -> Any:
    """Switch autocast off: convolutions of a loss are computed in float32 too."""
    return torch.autocast(tensor.device.type, enabled=False)


def head_groups(
    model: Model, *, extension: bool, old_lr: float, new_lr: float
) -> list[dict[str, Any]]:
    """Parameter groups: backbone, old rows, new rows.

    In extensions only the new rows decay.

    Args:
        model: The network as the step trains it.
        extension: Whether there is a step before.
        old_lr, new_lr: Factors on the learning rate of old and new rows.
    """
    new = [p for head in model.heads() for p in head[-1].parameters()]
    every = [p for head in model.heads() for p in head.parameters()]
    old = [p for p in every if not any(p is other for other in new)]
    rows = {id(p) for p in every}
    rest = [p for p in model.parameters() if id(p) not in rows]
    still: dict[str, Any] = {"weight_decay": 0.0} if extension else {}
    groups: list[tuple[list[nn.Parameter], dict[str, Any]]] = [
        (rest, still),
        (old, {"lr_scale": old_lr, **still}),
        (new, {"lr_scale": new_lr}),
    ]
    moving = [([p for p in params if p.requires_grad], options) for params, options in groups]
    return [{"params": params, **options} for params, options in moving if params]


def _first_row(head: Head, weight: Tensor) -> Tensor:
    return weight.narrow(head.class_axis, 0, 1)
