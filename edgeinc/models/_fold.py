"""A trained network with less in it: one layer per head, BatchNorm folded into convolutions.

The result computes the same as the network in eval mode and is faster; it is what the exporter
writes and what a teacher answers with. It cannot be trained further.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from edgeinc.models import Head, Model


def folded(model: Model) -> Model:
    """A copy of a network for inference only; the original is not changed."""
    return fold_batch_norms(fuse_heads(copy.deepcopy(model).eval())).requires_grad_(False)


class ChannelAffine(nn.Module):
    """x · weight + bias per channel: a BatchNorm that no convolution can take in."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.view(-1, 1, 1))
        self.bias = nn.Parameter(bias.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x * self.weight + self.bias


def fuse_heads(model: Model) -> Model:
    """Replace every growing head by one plain layer, in place."""
    heads = [name for name, module in model.named_modules() if isinstance(module, Head)]
    for name in heads:
        head = model.get_submodule(name)
        _replace(model, name, head.fused())  # type: ignore[operator]
    return model


def fold_batch_norms(model: Model) -> Model:
    """Fold every BatchNorm of a network in eval mode into the layer before it, in place.

    Where a (transposed) convolution feeds the BatchNorm and nothing else, the convolution takes
    it in; elsewhere scale and shift stay as a `ChannelAffine`. Names of the convolutions' tensors
    stay; a convolution without a bias gets one.
    """
    pairs = dict(_pairs(model))
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for name in norms:
        scale, shift = _scale_and_shift(model.get_submodule(name))
        if name in pairs:
            _absorb(model.get_submodule(pairs[name]), scale, shift)
            _replace(model, name, nn.Identity())
        else:
            _replace(model, name, ChannelAffine(scale.float(), shift.float()))
    return model


def _pairs(model: Model) -> Iterator[tuple[str, str]]:
    """(BatchNorm, convolution) by name, where the one is all that uses the other's output."""
    graph = fx.Tracer().trace(model)
    calls = Counter(str(n.target) for n in graph.nodes if n.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        if source.op != "call_module" or len(source.users) != 1:
            continue
        norm, layer = str(node.target), str(source.target)
        if (
            isinstance(model.get_submodule(norm), nn.BatchNorm2d)
            and isinstance(model.get_submodule(layer), nn.Conv2d | nn.ConvTranspose2d)
            and calls[norm] == calls[layer] == 1
        ):
            yield norm, layer


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """y = x · scale + shift of a BatchNorm in eval mode, in float64."""
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def _absorb(layer: Any, scale: Tensor, shift: Tensor) -> None:
    # A transposed convolution has its output channels on axis 1, per group.
    if isinstance(layer, nn.ConvTranspose2d):
        by_axis = scale.view(layer.groups, 1, -1, 1, 1)
        weight = layer.weight.double().unflatten(0, (layer.groups, -1)) * by_axis
        weight = weight.flatten(0, 1)
    else:
        weight = layer.weight.double() * scale.view(-1, 1, 1, 1)
    bias = shift if layer.bias is None else layer.bias.double() * scale + shift
    layer.weight = nn.Parameter(weight.detach().to(layer.weight.dtype))
    layer.bias = nn.Parameter(bias.detach().to(layer.weight.dtype))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
