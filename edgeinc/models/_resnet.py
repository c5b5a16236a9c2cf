"""ResNet as a feature extractor (He et al., CVPR 2016), with torchvision's key names.

torchvision itself is not used: on Jetson it must be built from source, and its wheel replaces a
pinned torch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgeinc.errors import UsageError

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18)."""

    expansion = 1
    parallel = (("conv2", "bn2"),)
    """Convolutions with the BatchNorm behind them that may be doubled, see `_parallel`."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, as torchvision has it), 1x1 convolutions (ResNet-50 and 101)."""

    expansion = 4
    parallel = (("conv2", "bn2"),)
    """As in `BasicBlock`."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.downsample = _shortcut(inputs, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """The convolutional part; returns the maps at 1/16 and 1/32.

    Args:
        depth: 18, 50 or 101.
        width: Factor on every channel count.

    Raises:
        UsageError: Another depth.
    """

    def __init__(self, depth: int, width: float = 1.0) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise UsageError(f"no ResNet-{depth}", hint="depth is 18, 50 or 101")
        block = BasicBlock if depth == 18 else Bottleneck
        # Not below 16: the backward of a strided 1x1 convolution with 8 input channels, in
        # channels-last on several threads, writes past its memory in torch 2.13's CPU build.
        widths = [max(16, round(width * c)) for c in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs, stages = widths[0], []
        for i, (count, channels) in enumerate(zip(BLOCKS[depth], widths, strict=True)):
            layers = []
            for j in range(count):
                layers.append(block(inputs, channels, 2 if i and j == 0 else 1))
                inputs = channels * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = (widths[2] * block.expansion, widths[3] * block.expansion)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (B, C16, H/16, W/16), (B, C32, H/32, W/32)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        deep16 = self.layer3(self.layer2(self.layer1(x)))
        return deep16, self.layer4(deep16)

    def load_torchvision(self, state: dict[str, Tensor]) -> int:
        """Copy a torchvision ResNet's tensors; returns their number.

        Raises:
            UsageError: A tensor is missing or has another shape (another depth or width).
        """
        state = {k: v for k, v in state.items() if not k.startswith("fc.")}
        for key, own in self.state_dict().items():
            if key not in state or state[key].shape != own.shape:
                found = "is missing" if key not in state else f"has shape {tuple(state[key].shape)}"
                raise UsageError(
                    f"the ResNet weights do not fit: {key} {found}, expected {tuple(own.shape)}",
                    hint="give the weights of the same depth, with --set model.width=1",
                )
        self.load_state_dict(state)
        return len(state)
