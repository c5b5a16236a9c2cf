"""The classifier as it is exported: a matrix product, whose weights may be an input of the graph.

A classifier has R rows: one per class, in the order of the ids, then the one that is no class where
the network has it. Its weight is held as (R, P, C): P = 1 position for a 1x1 convolution, and 4 for
a 2x2 transposed convolution with stride 2, which is one such convolution for each of the 4 pixels
that it makes of one. Positions stay beside each other in the batch until the decision is made:
what is then put together into an image are ids, one byte a pixel, and not R numbers.

Three modes. `static`: as many rows as there are. `capacity`: N of them; those behind the classes
wait for later steps. `dynamic`: weight and bias are inputs of the graph with any number of rows.
Graph and names of the last two are the same for every step of a run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeinc.errors import UsageError
from edgeinc.models import Model
from edgeinc.schema import HeadMode

NEVER = -100.0
"""Bias of a row without a class. Not lower: quantizers stretch their range to the lowest logit."""


class MatrixHead(nn.Module):
    """A classifier over features (B, C, h, w): gives (P·B, R, h, w), positions outermost.

    Its weight is (P, 1, R, C) and its bias (R, 1), ready for the product: what the graph would have
    to turn first, the exporter would fold into a constant without a name.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """The logits of each position as an image of its own."""
        batch, _, height, width = features.shape
        product = self.weight @ features.flatten(2) + self.bias
        # Where the number of images is fixed, the shape is a constant of the graph.
        rows = -1 if isinstance(batch, int) else self.bias.shape[0]
        return product.reshape(self.weight.shape[0] * batch, rows, height, width)


def turned(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(R, P, C) and (R,) as a `MatrixHead` holds them."""
    return weight.permute(1, 0, 2).unsqueeze(1), bias.unsqueeze(1)


def replace_heads(fused: Model, mode: HeadMode, capacity: int, *, extra: bool) -> MatrixHead:
    """Put matrix heads in the place of a folded network's classifiers.

    Args:
        fused: Of `models._fold.folded`; changed in place.
        mode: How the deciding one is exported.
        capacity: Its rows in mode `capacity`.
        extra: Whether its last row is no class.

    Returns:
        The deciding one.

    Raises:
        UsageError: A step has a decoder of its own, or the capacity is smaller than the head.
    """
    if mode != "static" and fused.branches:
        first = next(iter(fused.branches))
        raise UsageError(
            f"step {first} has a decoder of its own, so no head mode keeps the graph as it was",
            hint="export with --head static",
        )
    heads = [(n, m) for n, m in fused.named_modules() if n == "head" or n.endswith(".head")]
    deciding: Any = fused.heads()[0]
    for name, layer in heads:
        weight, bias = rows_of(layer)
        if layer is deciding and mode == "capacity":
            weight, bias = padded(weight, bias, capacity, extra=extra)
        new = MatrixHead(*(t.contiguous() for t in turned(weight, bias)))
        parent, _, child = name.rpartition(".")
        setattr(fused.get_submodule(parent), child, new)
        if layer is deciding:
            deciding = new
    assert isinstance(deciding, MatrixHead)
    return deciding


def rows_of(layer: Any) -> tuple[Tensor, Tensor]:
    """Weight (R, P, C) and bias (R,) of a plain classifier."""
    weight, bias = layer.weight.detach(), layer.bias.detach()
    axes = (1, 2, 3, 0) if layer.transposed else (0, 2, 3, 1)
    return weight.permute(*axes).flatten(1, 2).contiguous(), bias


def padded(weight: Tensor, bias: Tensor, rows: int, *, extra: bool) -> tuple[Tensor, Tensor]:
    """The same classifier with room: rows that never win stand behind those of the classes.

    Raises:
        UsageError: There are more rows already.
    """
    missing = rows - len(bias)
    if missing < 0:
        raise UsageError(
            f"a capacity of {rows} cannot hold {len(bias)} classes",
            hint=f"give --capacity {len(bias)} or more",
        )
    at = len(bias) - extra
    empty = weight.new_zeros(missing, *weight.shape[1:])
    never = bias.new_full((missing,), NEVER)
    return torch.cat([weight[:at], empty, weight[at:]]), torch.cat([bias[:at], never, bias[at:]])


def assembled(ids: Tensor, batch: int, positions: int) -> Tensor:
    """Ids of the positions, (P·B, h, w), as images: (B, h·√P, w·√P)."""
    if positions == 1:
        return ids
    _, height, width = ids.shape
    parts = ids.reshape(2, 2, batch, height, width).permute(2, 3, 0, 4, 1)
    return parts.reshape(batch, 2 * height, 2 * width)


def assembled_scores(scores: Tensor, batch: int, positions: int) -> Tensor:
    """Scores of the positions, (P·B, R, h, w), as images: (B, R, h·√P, w·√P)."""
    if positions == 1:
        return scores
    _, rows, height, width = scores.shape
    rows = -1 if isinstance(batch, int) else rows

    parts = scores.reshape(2, 2, batch, rows, height, width).permute(2, 3, 4, 0, 5, 1)
    return parts.reshape(batch, rows, 2 * height, 2 * width)
