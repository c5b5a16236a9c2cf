"""Methods that ask about each class alone: a sigmoid per class, none for the background.

Where the run has a background its row of the classifier (id 0) is exactly zero, weight and bias.
The decision of such a head, "the best class if its sigmoid is above 0.5, else background", is then
argmax([0, z_1, z_2, ...]), ties included: the same argmax, and the same exported file, as for a
softmax. No loss reads logit 0, so the row never moves, whatever the optimiser and its weight decay.
Without a background there is no such row and the best class is taken wherever it stands; a pixel
then belongs to one class for certain, and void is all that says "none of these": future classes of
a base look like it, and so do old ones in an extension.

An extension may start from a network that was trained with a softmax, whose logits mean nothing one
by one. Taking its background row off every row changes no decision, and sigmoid(z_k - z_0) is the
softmax between class k and the background alone. Without a background the mean of the other rows is
taken off each: z_k - mean_{j != k} z_j changes no decision either, and of two classes it is the
logarithm of their odds.
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


def from_softmax(context: StepContext) -> bool:
    """Whether the old logits come from a softmax without a background."""
    return context.background == "none" and not context.sigmoids and context.first_new > 1


def against_the_others(rows: Tensor, axis: int) -> Tensor:
    """z_k - mean over j != k of z_j, for logits, weights or biases with classes on `axis`."""
    count = rows.shape[axis]
    return (rows - rows.mean(axis, keepdim=True)) * (count / (count - 1))


def start_sigmoids(model: Model, context: StepContext) -> None:
    """Make old rows of a softmax without a background mean something one by one, in every head.

    Args:
        model: The network as the step starts with it; rows of new classes stay as they are.
        context: Says what came before.
    """
    if not from_softmax(context):
        return
    known = context.first_new
    with torch.no_grad():
        for head in model.heads():
            weight, bias = head.weight_and_bias()
            axis = head.class_axis
            weight = against_the_others(weight.narrow(axis, 0, known), axis)
            bias = against_the_others(bias[:known], 0)
            layers: list[Any] = list(head)
            at = 0
            for layer in layers[:-1]:
                count = layer.weight.shape[axis]
                layer.weight.copy_(weight.narrow(axis, at, count))
                layer.bias.copy_(bias[at : at + count])
                at += count


def hold_still(model: Model) -> None:
    """BatchNorm as at inference, scale and shift included, and no dropout."""
    model.freeze_bn(stats=True, affine=True)
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0


def above_background(logits: Tensor, context: StepContext) -> Tensor:
    """Logits of a previous network that mean something one by one, in float32.

    Args:
        logits: (B, C, H, W) of a network whose background row may not be zero, or of a softmax.
        context: The step's.

    Returns:
        (B, C - 1, H, W) z_k - z_0; without a background (B, C, H, W), see `from_softmax`.
    """
    z = logits.float()
    if context.background != "none":
        return z[:, 1:] - z[:, :1]
    return against_the_others(z, 1) if from_softmax(context) else z


def weight_above_background(head: Head, context: StepContext) -> Tensor:
    """Weights of the same logits, classes on their axis."""
    weight, _ = head.weight_and_bias()
    if context.background != "none":
        rest = weight.narrow(head.class_axis, 1, weight.shape[head.class_axis] - 1)
        return rest - _first_row(head, weight)
    return against_the_others(weight, head.class_axis) if from_softmax(context) else weight


def learned_from(labels: Tensor, context: StepContext, void_negative: bool) -> Tensor:
    """Pixels whose label says something about the step's classes, (B, H, W) bool."""
    if void_negative or context.background == "none":
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


def binary_distillation(logits: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
    """BCE(z, target): mean over batch and positions, sum over classes.

    Args:
        logits: (B, C, h, w) float32.
        target: The same shape, 0 to 1.
        where: (B, h, w) bool, the positions that count; None for all. 0 when there is none.
    """
    per_place = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
    return per_place.mean() if where is None else mean_over(per_place, where)


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


def shrunk(labels: Tensor, size: torch.Size) -> Tensor:
    """Labels or marks (B, H, W) at the resolution of the features: of a cell its upper left pixel.

    As `F.interpolate(mode="nearest")` takes them, which published code uses.
    """
    height, width = labels.shape[-2:]
    rows = torch.arange(size[0], device=labels.device) * height // size[0]
    columns = torch.arange(size[1], device=labels.device) * width // size[1]
    return labels[:, rows[:, None], columns]


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
