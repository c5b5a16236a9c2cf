"""Networks whose head grows: one file per network, file name = public name.

A model turns uint8 images into logits over every class it knows. Normalisation is part of it, so
training, evaluation and export cannot disagree. Its *head* is a list of per-step classifiers over
shared features (`_head.Head`); BiSeNet's two training-only outputs have heads of their own.

    model = create("erfnet", [3])            # three base classes
    model.grow(2)                             # two more at step 1
    out = model(model.normalise(images))      # images (B, H, W, 3) uint8 -> logits (B, 5, H, W)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.models._head import Head
from edgeinc.schema import IMAGENET, Normalisation, Size

__all__ = ["Head", "Model", "Output", "check_size", "create", "nearest_size"]


class Output(NamedTuple):
    """What a model returns in one pass.

    Attributes:
        logits: (B, C, H, W) at the resolution of the input.
        aux: Further logits of the same shape that only training uses, empty in eval mode.
        features: (B, D, h, w), non-negative: what the deciding classifier sees.
        stages: Maps (B, D', h', w') of the network's stages, shallow to deep, each non-negative.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()
    features: Tensor | None = None
    stages: tuple[Tensor, ...] = ()


class Model(nn.Module, ABC):
    """Base of every network.

    Attributes:
        Config: Frozen dataclass of the constructor's options.
        stride: Height and width must be multiples of it.
        encoded: Which of `Output.stages` is the encoder's last.
        mean, std: Normalisation per RGB channel, for values of 0 to 255: ImageNet's, or that of
            the weights a run was imported from (`set_normalisation`).
    """

    Config: ClassVar[type[Any]]
    stride: ClassVar[int]
    encoded: ClassVar[int]
    _mean: Tensor
    _scale: Tensor
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(self) -> None:
        super().__init__()
        self._bn_stats_frozen = False
        self.set_normalisation(IMAGENET)

    @abstractmethod
    def forward(self, x: Tensor) -> Output:
        """Logits for normalised images (B, 3, H, W)."""

    @abstractmethod
    def heads(self) -> tuple[Head, ...]:
        """Every head that grows, the one that decides first."""

    def set_normalisation(self, normalisation: Normalisation) -> None:
        """Normalise images as the weights expect it."""
        self.mean, self.std = normalisation
        # Buffers so that `.to(device)` moves them; not in the state dict: the run is the source.
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        self.register_buffer("_mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_scale", 1 / std.view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 RGB (B, H, W, 3) to float (B, 3, H, W), channels-last in memory.

        The cast comes before the permutation: TensorRT refuses to transpose uint8.
        """
        x = images.to(self._mean.dtype).permute(0, 3, 1, 2)
        return (x - self._mean) * self._scale

    def load_backbone(self, state: dict[str, Tensor]) -> int:
        """Take ImageNet weights for the backbone; returns how many tensors matched.

        Raises:
            UsageError: This network has no backbone with published weights.
        """
        raise UsageError(
            f"{type(self).__name__} has no ResNet backbone to initialise",
            hint="leave out --init, or use --model bisenet",
        )

    @property
    def steps(self) -> tuple[int, ...]:
        """Number of classes added at each step."""
        return self.heads()[0].steps

    def grow(self, classes: int) -> None:
        """Append a classifier for `classes` new classes to every head."""
        for head in self.heads():
            head.grow(classes)

    def freeze_bn(self, *, stats: bool, affine: bool) -> None:
        """Keep BatchNorm's running statistics and/or its scale and shift as they are.

        The first survives every later `train()`; both can be undone by another call.
        """
        self._bn_stats_frozen = stats
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for parameter in module.parameters():
                    parameter.requires_grad_(not affine)
        self.train(self.training)

    def train(self, mode: bool = True) -> Model:
        """As in torch, but frozen statistics stay frozen."""
        super().train(mode)
        if self._bn_stats_frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def create(
    name: str,
    steps: Sequence[int],
    options: dict[str, Any] | None = None,
    *,
    normalisation: Normalisation = IMAGENET,
) -> Model:
    """Build a model with randomly initialised weights.

    Args:
        name: Plug-in name, see `edgeinc ls models`.
        steps: Number of classes added at each step so far, e.g. (3, 2).
        options: Fields of the model's `Config`.
        normalisation: What the weights that will be loaded expect of an image.

    Raises:
        UsageError: No such model or option.
    """
    plugin = registry.load("models", name)
    known = tuple(f.name for f in fields(plugin.Config))
    for key in options or {}:
        if key not in known:
            raise UsageError(f"unknown option '{key}' of {name}", hint=registry.suggest(key, known))
    model = plugin(steps[0], **asdict(plugin.Config(**(options or {}))))
    for classes in steps[1:]:
        model.grow(classes)
    model.set_normalisation(normalisation)
    return model


def nearest_size(name: str, size: Size) -> Size:
    """The size nearest to `size` that the network can divide."""
    stride: int = registry.load("models", name).stride
    height, width = (max(stride, round(side / stride) * stride) for side in size)
    return height, width


def check_size(name: str, size: Size) -> None:
    """Refuse a size the network cannot divide.

    Raises:
        UsageError: With the next size that fits.
    """
    stride = registry.load("models", name).stride
    fitting = tuple(max(stride, -(-side // stride) * stride) for side in size)
    if fitting != tuple(size):
        raise UsageError(
            f"size {size[0]}x{size[1]} is not divisible by {stride} for {name}",
            hint=f"use --size {fitting[0]}x{fitting[1]}",
        )
