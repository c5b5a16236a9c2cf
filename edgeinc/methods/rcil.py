"""RCIL: two parallel convolutions, one frozen, merged after the step (Zhang et al., CVPR 2022).

Zhang, Xiao, Liu, Chen, Cheng, "Representation Compensation Networks for Continual Semantic
Segmentation". Needs: new images, labels of the new classes, a background class at id 0, the
previous step's network. While a step is trained, convolutions inside the residual blocks have a
twin with a BatchNorm of its own; from step 1 on the first of the two is frozen and remembers. When
the step is done both are merged: what is stored and exported is the plain network, at no cost.

    training: each channel is that of one twin, of the other, or their mean, a third each
    otherwise: the mean, (s1 w1 + s2 w2) / 2 with s the scales of the BatchNorms
    L      = L_CE + L_PCKD
    L_CE   = that of PLOP, with its pseudo-labels and its start of new rows, without class weights
    L_PCKD = sqrt(C / n) / maps * sum over maps of w * mean over images of
             (mean over k of ||P_k(a^2) - P_k(b^2)|| + ||P_c(a^2) - P_c(b^2)||)

P_k averages k x k pixels with stride 1, k = 4, 8, ..., 24; P_c averages three neighbouring
channels. Maps are the stages of the network and the logits; n of C classes are new.

- Doubled are: in ERFNet the second convolution of each factorised pair, which alone has a BatchNorm
  behind it; in ResNet the second of a block. The authors also double those of DeepLab's ASPP.
- The twin starts as a copy, so a step starts with the answers of the old network. In the authors'
  code it goes on from its own weights instead.
- The merged BatchNorm takes over what is known of the statistics, so training goes on from it.
- The sizes of the pools and their factors are from the authors' code; that the six sizes are
  averaged and the channels' part is added as it is, is our choice. A pool is at most as large as
  the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeinc.methods import Survey
from edgeinc.methods.plop import PLOP, compared
from edgeinc.models import Model, Output
from edgeinc.models._parallel import merge, split

KERNELS = (4, 8, 12, 16, 20, 24)
"""Sides of the windows that are averaged over."""
CHANNELS = 3
"""Neighbouring channels that are averaged over."""


class RCIL(PLOP):
    """PLOP's cross-entropy and pooled cube distillation on a network of two branches."""

    @dataclass(frozen=True)
    class Config:
        """Options of RCIL.

        Attributes:
            floor: Least threshold of the entropy, in the unit of the authors' code.
            median: Median of the entropies per class, as in PLOP.
            pckd_features: Factor of the stages in L_PCKD (the authors' code for VOC; ADE20K 5e-6).
            pckd_logits: Factor of the logits in L_PCKD (the authors' code for VOC; ADE20K 5e-7).
        """

        floor: float = 0.001
        median: Literal["exact", "published"] = "exact"
        pckd_features: float = 0.01
        pckd_logits: float = 0.0005

    def begin(self, model: Model, old: Model | None) -> None:
        """The start of new rows as in PLOP, then two branches, one frozen after step 0."""
        super().begin(model, old)
        branches = split(model)
        if old is not None:
            model.freeze(*(each.first for each in branches))

    def distillation(self, output: Output, teacher: Output) -> Tensor:
        """L_PCKD of the module's docstring, its factors included."""
        factors = [self.config.pckd_features] * len(output.stages) + [self.config.pckd_logits]
        losses = [
            factor * cube_distance(a**2, b**2).mean()
            for factor, (a, b) in zip(factors, compared(output, teacher), strict=True)
        ]
        return self.growth * torch.stack(losses).mean()

    def finish(self, model: Model, old: Model | None, survey: Survey) -> dict[str, Tensor]:
        """Merge the branches into the plain network."""
        merge(model)
        return {}


def cube_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distance of two maps (B, D, h, w) pooled over pixels and over channels, (B,)."""
    difference = a - b  # pooling is linear
    height, width = a.shape[2:]
    norms = []
    for side in KERNELS:
        pooled = F.avg_pool2d(difference, (min(side, height), min(side, width)), stride=1)
        norms.append(torch.linalg.vector_norm(pooled.flatten(1), dim=1))
    lines = difference.permute(0, 2, 3, 1).flatten(0, 2).unsqueeze(1)
    window = min(CHANNELS, a.shape[1])
    across = F.avg_pool1d(lines, window, stride=1).view(len(a), -1)
    return torch.stack(norms).mean(0) + torch.linalg.vector_norm(across, dim=1)
