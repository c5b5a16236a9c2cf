"""The growing head: a list of per-step classifiers, computed as one layer.

Old keys of the state dict never change when a step is added (`head.0.weight`, `head.1.weight`,
...), so a checkpoint of step t is a strict subset of that of step t+1. The classifiers are
concatenated before the convolution rather than after it: one kernel instead of one per step, and
the same layer that is exported.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["conv1x1", "deconv2x2"]


class Head(nn.ModuleList):
    """Classifiers of every step over the same features.

    Args:
        channels: Channels of the features.
        classes: Classes of step 0.
        kind: `conv1x1` keeps the resolution; `deconv2x2` is ERFNet's transposed convolution with
            stride 2, whose weight has the classes on axis 1.
    """

    def __init__(self, channels: int, classes: int, kind: Kind) -> None:
        super().__init__()
        self.channels = channels
        self.kind = kind
        self.extra_weight: nn.Parameter | None = None
        self.extra_bias: nn.Parameter | None = None
        self.grow(classes)

    @property
    def class_axis(self) -> int:
        """Axis of the weight that counts classes."""
        return 1 if self.kind == "deconv2x2" else 0

    @property
    def steps(self) -> tuple[int, ...]:
        """Number of classes added at each step."""
        return tuple(layer.bias.numel() for layer in self._layers())

    def grow(self, classes: int) -> None:
        """Append a randomly initialised classifier for `classes` classes."""
        self.append(self._layer(classes))

    def _layer(self, classes: int) -> nn.Conv2d | nn.ConvTranspose2d:
        layer: nn.Conv2d | nn.ConvTranspose2d
        if self.kind == "deconv2x2":
            layer = nn.ConvTranspose2d(self.channels, classes, 2, stride=2)
        else:
            layer = nn.Conv2d(self.channels, classes, 1)
        reference = next(self.parameters(), None)
        return layer if reference is None else layer.to(reference)

    def add_extra(self) -> None:
        """Add a randomly initialised row that is no class, behind those of every class."""
        layer: Any = self._layer(1)
        self.extra_weight, self.extra_bias = layer.weight, layer.bias

    def drop_extra(self) -> None:
        """Take that row away again."""
        self.extra_weight = self.extra_bias = None

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """All classifiers as one: weight with every class on `class_axis`, bias (C,)."""
        weights = [layer.weight for layer in self._layers()]
        biases = [layer.bias for layer in self._layers()]
        if len(weights) == 1:
            return weights[0], biases[0]
        return torch.cat(weights, self.class_axis), torch.cat(biases)

    def rows(self) -> tuple[Tensor, Tensor]:
        """As `weight_and_bias`, with the row that is no class at the end where there is one."""
        weight, bias = self.weight_and_bias()
        if self.extra_weight is None or self.extra_bias is None:
            return weight, bias
        return torch.cat([weight, self.extra_weight], self.class_axis), torch.cat(
            [bias, self.extra_bias]
        )

    def _layers(self) -> list[Any]:
        return list(self)  # torch types a layer's weight and bias too loosely to use

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to logits (B, C, h, w), or (B, C, 2h, 2w) for `deconv2x2`.

        With a row that is no class there are C + 1.
        """
        return self.scores_with(features, *self.rows())

    def scores_with(self, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What a classifier of this kind with other numbers says about features, as `forward`."""
        if self.kind == "deconv2x2":
            return F.conv_transpose2d(features, weight, bias, stride=2)
        return F.conv2d(features, weight, bias)

    def fused(self) -> nn.Conv2d | nn.ConvTranspose2d:
        """One plain layer with the same output, as it is exported."""
        weight, bias = self.rows()
        layer: nn.Conv2d | nn.ConvTranspose2d
        if self.kind == "deconv2x2":
            layer = nn.ConvTranspose2d(self.channels, bias.numel(), 2, stride=2)
        else:
            layer = nn.Conv2d(self.channels, bias.numel(), 1)
        layer.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        return layer.to(weight)
