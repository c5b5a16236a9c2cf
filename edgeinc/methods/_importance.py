"""What methods share that hold important weights where the previous step left them.

They learn like fine-tuning and add one penalty over all weights that the previous step had:

    P = lambda sum_j Omega_j (theta_j - theta*_j)^2

theta* are the weights of the previous step, Omega >= 0 is how important they were to all steps
before. Each method measures importance its own way from the gradients of the cross-entropy, before
those of the penalty are added; the sum has no factor 1/2. Importance is kept by the name of a
weight. Classifiers have names by step, so a new one is free until the step after.

What every user of them should know:

- BatchNorm's running statistics are no weights and drift freely; --freeze-bn-stats holds them.
- Weight decay and momentum act on held weights too.
- SGD is unstable where 2 lr lambda Omega is above 1 or so; Adam's steps are bounded.
- A step that was imported or trained by another method measured nothing: the extension after it
  runs without a penalty, and measures for the one after that.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from edgeinc.methods import Method
from edgeinc.methods._losses import supervised
from edgeinc.models import Model, Output
from edgeinc.schema import Background

Normalise = Literal["tensor", "global"]
Named = dict[str, Tensor]
"""Tensors by the name of the weight they belong to."""

SHARE = 0.999
"""Of all weights, how many lie inside the scale of `globally`."""


class Importance(Method):
    """Plain cross-entropy, and the penalty of the module's docstring.

    `Config` has `lambda_penalty`. A method says how it accumulates and what Omega is made of.
    """

    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real", "virtual")
    prepares: ClassVar[str] = (
        "which weights matter is measured in training, so the first extension has no penalty"
    )

    def begin(self, model: Model, old: Model | None) -> None:
        """Take the previous step's weights, and what its memory says of them."""
        # The old network's own tensors, no copies: they go to the device with it.
        self.anchor: dict[str, Any] = dict(old.named_parameters()) if old is not None else {}
        self.omega = self.importance(self.context.memory)

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """Cross-entropy, and that of the auxiliary outputs."""
        return supervised(output, labels, self.context.class_weights)

    def after_backward(self, model: Model) -> dict[str, Tensor]:
        """Accumulate from the gradients, then add the penalty's to them.

        Frozen weights have no gradient: they are not measured, and they cannot move. An iteration
        in which a gradient of fp16 overflowed is not measured either; the optimiser drops it.
        """
        moving: dict[str, Any] = {n: p for n, p in model.named_parameters() if p.grad is not None}
        if moving and _finite(moving):
            with torch.no_grad():
                self.accumulate(moving)
        held = {n: p for n, p in moving.items() if n in self.anchor and n in self.omega}
        if not held:
            return {}
        return {"penalty": penalise(held, self.anchor, self.omega, self.config.lambda_penalty)}

    @abstractmethod
    def accumulate(self, moving: dict[str, Any]) -> None:
        """Measure one iteration: weights by name, each with its finite gradient."""

    @abstractmethod
    def importance(self, memory: Named) -> Named:
        """Omega by the name of the weight, in any shape; empty without a memory."""


@torch.no_grad()
def penalise(held: dict[str, Any], anchor: Named, omega: Named, factor: float) -> Tensor:
    """Add the gradient of the penalty, 2 lambda Omega (theta - theta*), to what is there.

    Args:
        held: Weights by name, at least one, each with a gradient.
        anchor: theta*, of at least these names.
        omega: Importance, of at least these names.
        factor: lambda.

    Returns:
        The penalty, a scalar.
    """
    parts = []
    for name, p in held.items():
        move = p - anchor[name]
        pull = omega[name].to(p.device).view(p.shape) * move
        parts.append((pull * move).sum())
        p.grad.add_(pull, alpha=2 * factor)
    return factor * torch.stack(parts).sum()


def normalised(raw: Named, how: Normalise) -> Named:
    """Importance in [0, 1]: each tensor for itself as published, or all on one scale."""
    return {n: per_tensor(t) for n, t in raw.items()} if how == "tensor" else globally(raw)


def per_tensor(raw: Tensor) -> Tensor:
    """(x - min) / (max - min + 1e-8), as the authors' code of MiB has it.

    One outlier frees the rest of its tensor, a tensor of one element is free, and what is smaller
    than 1e-8 stays small.
    """
    low, high = raw.aminmax()
    return (raw - low) / (high - low + 1e-8)


def globally(raw: Named) -> Named:
    """min(1, x / c) with one c for the network: 99.9 % of its weights are not above it."""
    if not raw:
        return {}
    every = torch.cat([t.flatten().cpu() for t in raw.values()])
    scale = float(every.kthvalue(max(1, round(SHARE * every.numel()))).values) or float(every.max())
    return {n: (t / scale).clamp(max=1) if scale else torch.zeros_like(t) for n, t in raw.items()}


def packed(**parts: Named) -> Named:
    """Several kinds of tensors in one dict, `KIND.NAME`, each as one row.

    Flat because the weights' own shapes mean nothing in a memory, which is read by name.
    """
    return {f"{kind}.{n}": t.flatten() for kind, named in parts.items() for n, t in named.items()}


def unpacked(kept: Named, kind: str) -> Named:
    """One kind of what `packed` made."""
    start = f"{kind}."
    return {n.removeprefix(start): t for n, t in kept.items() if n.startswith(start)}


def running(kept: Named, name: str, p: Tensor, *, fresh: float) -> Tensor:
    """The accumulator of a weight in its shape and on its device; `fresh` everywhere at first."""
    if name in kept:
        return kept[name].to(p.device).view(p.shape)
    return torch.full_like(p, fresh, dtype=torch.float32)


def decayed(fisher: Named, moving: dict[str, Any], alpha: float) -> Named:
    """alpha g^2 + (1 - alpha) F of every weight with a gradient; F is 1 where there is none yet.

    Args:
        fisher: F by the name of the weight.
        moving: Weights by name, each with its gradient.
        alpha: Weight of the newest term.
    """
    found: Named = {}
    for name, p in moving.items():
        f = running(fisher, name, p, fresh=1)
        found[name] = f.lerp(p.grad.float().square(), alpha)
    return found


def _finite(moving: dict[str, Any]) -> bool:
    return bool(torch.isfinite(torch.stack([p.grad.sum() for p in moving.values()])).all())
