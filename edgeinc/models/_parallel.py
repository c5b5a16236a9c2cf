"""Two parallel convolutions where a network has one, and the one they can be merged into.

A convolution and the BatchNorm behind it become two such pairs that are averaged. Averages of
linear maps are linear: in eval mode one convolution with one BatchNorm says the same, so a network
that was trained with two is stored, exported and run as the plain network.

    split(model)         # in place; answers as before in eval mode
    merge(model)         # in place; answers as before in eval mode
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from edgeinc.models import Model


def split(model: Model) -> list[Parallel]:
    """Double the convolutions that the network's blocks name in `parallel`, in place."""
    made = []
    blocks = [(m, m.parallel) for m in model.modules() if hasattr(m, "parallel")]
    for block, pairs in blocks:
        for conv, norm in pairs:  # type: ignore[union-attr]
            double = Parallel(getattr(block, conv), getattr(block, norm))
            setattr(block, conv, double)
            setattr(block, norm, nn.Identity())
            model.keep_like(double.first[1], double.second[1])
            made.append(double)
    return made


def merge(model: Model) -> None:
    """Undo `split`, in place: one convolution and one BatchNorm each, which answer the same."""
    for block in list(model.modules()):
        for conv, norm in getattr(block, "parallel", ()):
            double = getattr(block, conv)
            if isinstance(double, Parallel):
                for name, layer in zip((conv, norm), double.merged(), strict=True):
                    setattr(block, name, layer)


class Parallel(nn.Module):
    """Two convolutions with a BatchNorm each, combined at random per channel in training.

    A channel is that of the first, that of the second or their mean, each in a third of all cases;
    in eval mode it is the mean.

    Args:
        conv, norm: The pair to start from; they become the first pair, the second is a copy.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.first = nn.Sequential(conv, norm)
        self.second = copy.deepcopy(self.first)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        one, two = self.first(x), self.second(x)
        if not self.training:
            return (one + two) / 2
        half = torch.randint(3, (one.shape[1],), device=one.device)
        share = (half / 2).to(one.dtype).view(-1, 1, 1)
        return share * one + (1 - share) * two

    @torch.no_grad()
    def merged(self) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        """One pair that answers as both do in eval mode.

        The mean of the merged convolution is known exactly, as is its variance where both
        convolutions are equal. Elsewhere the variance is that of perfectly correlated outputs,
        which is an upper bound, so that training can go on from it.
        """
        pair: Any = copy.deepcopy(self.first)
        conv, norm = pair
        one, two = _parts(*self.first), _parts(*self.second)
        weight, bias, mean, deviation, shift = ((a + b) / 2 for a, b in zip(one, two, strict=True))
        conv.weight.copy_(weight)
        if conv.bias is not None:
            conv.bias.copy_(bias)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(deviation**2)
        norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(shift)
        return conv, norm


def _parts(conv: Any, norm: Any) -> tuple[Tensor, ...]:
    """Of a pair, in float64: weight and bias times BatchNorm's scale, mean, deviation and shift."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = torch.zeros_like(scale) if conv.bias is None else conv.bias.double()
    deviation = norm.running_var.double().sqrt() * scale.abs()
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    return weight, bias * scale, norm.running_mean.double() * scale, deviation, norm.bias.double()
