"""BiSeNet v1: bilateral segmentation network (Yu et al., ECCV 2018).

A shallow spatial path keeps detail at 1/8, a ResNet context path sees far at 1/32; attention
refines the context, a feature fusion module joins both. Two auxiliary outputs on the refined
context help training only. Built from the paper; the backbone takes ImageNet weights in
torchvision's key names (`--init`). `fusion` and `align_corners` are where widely used published
weights differ from the paper; `edgeinc import` sets them by what the file holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeinc.models import Head, Model, Output
from edgeinc.models._resnet import ResNet

Depth = Literal[18, 50, 101]
Fusion = Literal["paper", "norm"]


class ConvBNReLU(nn.Sequential):
    """Convolution without bias, BN, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)


def global_average(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


class AttentionRefinement(nn.Module):
    """Channel attention from the global average of the refined features (section 3.2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, outputs)
        self.attention = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        x = self.conv(x)
        return x * torch.sigmoid(self.bn(self.attention(global_average(x))))


class FeatureFusion(nn.Module):
    """Concatenate both paths, weigh the channels, add (section 3.3, figure 2c)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, outputs, 1)
        self.squeeze = nn.Conv2d(outputs, outputs // 4, 1)
        self.excite = nn.Conv2d(outputs // 4, outputs, 1)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Two maps of one resolution -> (B, C', H, W)."""
        x = self.conv(torch.cat([spatial, context], 1))
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(global_average(x)))))
        return x + x * weight


class NormFusion(nn.Module):
    """As `FeatureFusion`, the channels weighed by one 1x1 convolution and BN."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, outputs, 1)
        self.attention = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Two maps of one resolution -> (B, C', H, W)."""
        x = self.conv(torch.cat([spatial, context], 1))
        return x + x * torch.sigmoid(self.bn(self.attention(global_average(x))))


class Classifier(nn.Module):
    """3x3 ConvBNReLU and a growing 1x1 classifier, upsampled to the resolution of the image."""

    def __init__(
        self, inputs: int, hidden: int, classes: int, upsample: int, align_corners: bool
    ) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, hidden)
        self.head = Head(hidden, classes, "conv1x1")
        self.upsample = float(upsample)
        self.align_corners = align_corners

    def enlarged(self, logits: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h·upsample, w·upsample), bilinear."""
        return F.interpolate(
            logits,
            scale_factor=self.upsample,
            mode="bilinear",
            align_corners=self.align_corners,
        )


class Branch(nn.Module):
    """What joins both paths for one step, and its classifier."""

    def __init__(self, fuse: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        self.fuse = fuse
        self.classifier = classifier

    @property
    def head(self) -> Head:
        """The classifier's head."""
        return self.classifier.head

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Both paths at 1/8 -> logits (B, C, H, W)."""
        features = self.classifier.conv(self.fuse(spatial, context))
        return self.classifier.enlarged(self.classifier.head(features))


class BiSeNet(Model):
    """The network. Features before the classifier: (B, 256·width, H/8, W/8), non-negative."""

    stride = 32
    encoded = 2

    @dataclass(frozen=True)
    class Config:
        """Options of BiSeNet.

        Attributes:
            depth: ResNet of the context path: 18, 50 or 101 layers.
            width: Factor on every channel count; ImageNet weights need 1.
            fusion: How the fusion module weighs channels. `paper`: squeeze to a quarter, ReLU,
                excite (figure 2c). `norm`: one 1x1 convolution and BN, as in the weights that
                are published for CoinCheung's implementation.
            align_corners: Whether logits are enlarged with the corner pixels' centres aligned,
                as the older form of that implementation does.
        """

        depth: Depth = 18
        width: float = 1.0
        fusion: Fusion = "paper"
        align_corners: bool = False

    def __init__(
        self, classes: int, *, depth: Depth, width: float, fusion: Fusion, align_corners: bool
    ) -> None:
        super().__init__()
        c64, c128, c256 = (max(8, round(width * c)) for c in (64, 128, 256))
        self.spatial = nn.Sequential(
            ConvBNReLU(3, c64, 7, 2),
            ConvBNReLU(c64, c64, 3, 2),
            ConvBNReLU(c64, c64, 3, 2),
            ConvBNReLU(c64, c128, 1),
        )
        self.backbone = ResNet(depth, width)
        deep16, deep32 = self.backbone.channels
        self.refine16 = AttentionRefinement(deep16, c128)
        self.refine32 = AttentionRefinement(deep32, c128)
        self.smooth16 = ConvBNReLU(c128, c128)
        self.smooth32 = ConvBNReLU(c128, c128)
        self.tail = ConvBNReLU(deep32, c128, 1)
        self._fusion = NormFusion if fusion == "norm" else FeatureFusion
        self._channels = (c128 + c128, c256)
        self._align_corners = align_corners
        self.fuse = self._fusion(*self._channels)
        self.classifier = Classifier(c256, c256, classes, 8, align_corners)
        self.aux16 = Classifier(c128, c64, classes, 8, align_corners)
        self.aux32 = Classifier(c128, c64, classes, 16, align_corners)

    def heads(self) -> tuple[Head, ...]:
        """The principal head and the two auxiliary ones."""
        return (self.classifier.head, self.aux16.head, self.aux32.head)

    def new_decoder(self, classes: int) -> Branch:
        """Fusion module and classifier again, a fifth more operations with a ResNet-18."""
        _, c256 = self._channels
        classifier = Classifier(c256, c256, classes, 8, self._align_corners)
        return Branch(self._fusion(*self._channels), classifier)

    def decoders(self) -> tuple[nn.Module, ...]:
        """Fusion, principal and auxiliary classifiers, and every own decoder."""
        first = (self.fuse, self.classifier, self.aux16, self.aux32)
        return (*first, *self.branches.values())

    def load_backbone(self, state: dict[str, Tensor]) -> int:
        """Take a torchvision ResNet's weights; its `fc` is not used."""
        return self.backbone.load_torchvision(state)

    def forward(self, x: Tensor) -> Output:
        """(B, 3, H, W) normalised -> logits (B, C, H, W); in training two more in `aux`.

        A network with own decoders has no auxiliary outputs: they would not know every class.
        """
        deep16, deep32 = self.backbone(x)
        up32 = self.refine32(deep32) + self.tail(global_average(deep32))
        up32 = self.smooth32(F.interpolate(up32, scale_factor=2.0, mode="nearest"))  # 1/16
        up16 = self.refine16(deep16) + up32
        up16 = self.smooth16(F.interpolate(up16, scale_factor=2.0, mode="nearest"))  # 1/8
        spatial = self.spatial(x)
        fused = self.fuse(spatial, up16)
        features = self.classifier.conv(fused)
        scores = self.classifier.enlarged(self.classifier.head(features))
        logits, unknown = self.parted(scores)
        logits = self.beside(logits, spatial, up16)
        stages = (deep16, deep32, fused)
        if not self.training or self.branches:
            return Output(logits, (), features, stages, unknown=unknown)
        seen = (self.aux16.conv(up16), self.aux32.conv(up32))
        aux = (
            self.aux16.enlarged(self.aux16.head(seen[0])),
            self.aux32.enlarged(self.aux32.head(seen[1])),
        )
        return Output(logits, aux, features, stages, seen, unknown)
