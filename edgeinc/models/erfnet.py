"""ERFNet: factorised residual network for real-time segmentation (Romera et al., T-ITS 2018).

Residual blocks of four 1-D convolutions (3x1, 1x3, and the same dilated) in an encoder at 1/8 and
a light decoder; the classifier is a transposed convolution at full resolution. Built from the
paper; 2,062,956 parameters before the classifier's 64 C + C. BatchNorm uses eps 1e-3 as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeinc.models import Head, Model, Output

EPS = 1e-3
ENCODER_STAGES = (6, 15)
"""Layers that end a resolution of the encoder: 64 channels at 1/4, 128 at 1/8."""
DECODER_STAGES = (2, 5)
"""And of the decoder: 64 channels at 1/4, 16 at 1/2."""


class Downsampler(nn.Module):
    """Strided 3x3 convolution beside 2x2 max pooling, concatenated, then BN and ReLU (ENet's)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(outputs, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2)."""
        return F.relu(self.bn(torch.cat([self.conv(x), F.max_pool2d(x, 2)], 1)), inplace=True)


class NonBottleneck1d(nn.Module):
    """Residual block of two factorised 3x3 convolutions, the second pair dilated (section III)."""

    parallel = (("conv1x3_1", "bn1"), ("conv1x3_2", "bn2"))
    """Convolutions with the BatchNorm behind them that may be doubled, see `_parallel`."""

    def __init__(self, channels: int, dropout: float, dilation: int) -> None:
        super().__init__()
        d = dilation
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=EPS)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(d, 0), dilation=(d, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, d), dilation=(1, d))
        self.bn2 = nn.BatchNorm2d(channels, eps=EPS)
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        y = F.relu(self.conv3x1_1(x), inplace=True)
        y = F.relu(self.bn1(self.conv1x3_1(y)), inplace=True)
        y = F.relu(self.conv3x1_2(y), inplace=True)
        y = self.dropout(self.bn2(self.conv1x3_2(y)))
        return F.relu(x + y, inplace=True)


class Upsampler(nn.Module):
    """3x3 transposed convolution with stride 2, BN and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(outputs, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2H, 2W)."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Decoder(nn.Sequential):
    """From the encoder's 1/8 to features at 1/2."""

    def __init__(self, channels: tuple[int, int, int]) -> None:
        c16, c64, c128 = channels
        super().__init__(
            Upsampler(c128, c64),
            NonBottleneck1d(c64, 0, 1),
            NonBottleneck1d(c64, 0, 1),
            Upsampler(c64, c16),
            NonBottleneck1d(c16, 0, 1),
            NonBottleneck1d(c16, 0, 1),
        )


class Branch(nn.Module):
    """The decoder of one step and its classifier."""

    def __init__(self, channels: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.decoder = Decoder(channels)
        self.head = Head(channels[0], classes, "deconv2x2")

    def forward(self, encoded: Tensor) -> Tensor:
        """(B, 128·width, H/8, W/8) -> logits (B, C, H, W)."""
        logits: Tensor = self.head(self.decoder(encoded))
        return logits


class ERFNet(Model):
    """The network. Features before the classifier: (B, 16·width, H/2, W/2), non-negative."""

    stride = 8
    encoded = 1

    @dataclass(frozen=True)
    class Config:
        """Options of ERFNet.

        Attributes:
            width: Factor on every channel count; 1 is the paper's network.
            dropout: Dropout2d rate of the 128-channel blocks; the 64-channel blocks take a tenth.
        """

        width: float = 1.0
        dropout: float = 0.3

    def __init__(self, classes: int, *, width: float, dropout: float) -> None:
        super().__init__()
        # A downsampler passes its input on, so its output must have more channels than that.
        c16, c64, c128 = self._channels = (
            max(8, round(width * 16)),
            max(16, round(width * 64)),
            max(32, round(width * 128)),
        )
        self.encoder = nn.Sequential(
            Downsampler(3, c16),
            Downsampler(c16, c64),
            *(NonBottleneck1d(c64, dropout / 10, 1) for _ in range(5)),
            Downsampler(c64, c128),
            *(NonBottleneck1d(c128, dropout, d) for d in (2, 4, 8, 16) * 2),
        )
        self.decoder = Decoder(self._channels)
        self.head = Head(c16, classes, "deconv2x2")

    def heads(self) -> tuple[Head, ...]:
        """The one head."""
        return (self.head,)

    def new_decoder(self, classes: int) -> Branch:
        """The whole decoder again: a fifth more operations than the network with one."""
        return Branch(self._channels, classes)

    def decoders(self) -> tuple[nn.Module, ...]:
        """The decoder, its head, and every own decoder."""
        return (self.decoder, self.head, *self.branches.values())

    def forward(self, x: Tensor) -> Output:
        """(B, 3, H, W) normalised -> logits (B, C, H, W)."""
        stages = []
        for index, layer in enumerate(self.encoder):
            x = layer(x)
            if index in ENCODER_STAGES:
                stages.append(x)
        encoded = x
        for index, layer in enumerate(self.decoder):
            x = layer(x)
            if index in DECODER_STAGES:
                stages.append(x)
        logits, unknown = self.parted(self.head(x))
        logits = self.beside(logits, encoded)
        return Output(logits, features=x, stages=tuple(stages), unknown=unknown)
