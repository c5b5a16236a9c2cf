"""Blending the weights before and after a step (Xiao et al., CVPR 2023), for any method's `finish`.

    theta = (1 - beta) theta_old + beta theta_new,   beta = sqrt(n_new / (n_new + n_old))

Everything that both networks have is blended, BatchNorm's running statistics too; the classifier of
the new classes is left as it is. Fewer new classes, more of the old network. It costs nothing at
inference.
"""

from __future__ import annotations

from math import sqrt

import torch

from edgeinc.models import Model


def new_share(new_classes: int, old_classes: int) -> float:
    """Beta; the old classes include the background, as in the authors' code."""
    return sqrt(new_classes / (new_classes + old_classes))


@torch.no_grad()
def blend(model: Model, old: Model, new_classes: int, old_classes: int) -> None:
    """Move a trained network back towards the one before it, in place.

    Counters of integer type keep the trained network's value.

    Args:
        model: The network after the step.
        old: The one before it, unchanged.
        new_classes: Classes of the step.
        old_classes: Classes before it, the background among them.
    """
    beta = new_share(new_classes, old_classes)
    trained = model.state_dict()
    for name, before in old.state_dict().items():
        if before.is_floating_point():
            trained[name].copy_(before.lerp(trained[name], beta))
