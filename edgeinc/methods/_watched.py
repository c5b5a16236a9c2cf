"""Statistics that BatchNorms see, pulled towards those of the training, without a hook.

The term of layer l is R_l = ||mean - running mean|| + ||var - running var||, over the channels of
its input and the whole batch (biased variance). It is not in the graph. Its gradient at the input
depends on that layer's mean and variance only, so a copy of the network with `WatchedNorm`s adds it
in one pass of the backward run, with nothing kept for a graph through the statistics. For the same
reason a batch may pass in parts: one pass collects the statistics, a second one learns.

    watched = Watched(network, torch.bfloat16, bn=0.05)
    loss(watched.logits(x)).backward()              # x.grad holds that of loss + sum f_l R_l
    watched.term()                                  # what was added
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeinc.models import Model

FIRST = 10.0
"""Factor of the first BatchNorm's term, as in DeepInversion's code."""


class WatchedNorm(nn.Module):
    """A BatchNorm in eval mode whose term R_l adds its gradient on the way back.

    Attributes:
        factor: Weight of R_l in the loss.
        collecting: The passes until `reset` only add to the statistics.
        given: The statistics are those collected; otherwise they are those of the pass itself.
    """

    def __init__(self, norm: _BatchNorm, factor: float) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        wide = torch.promote_types(norm.running_mean.dtype, torch.float32)
        self.mean, self.var = (t.detach().to(wide) for t in (norm.running_mean, norm.running_var))
        ones = torch.ones_like(self.mean)
        self.weight = ones if norm.weight is None else norm.weight.detach().to(wide)
        self.bias = ones - 1 if norm.bias is None else norm.bias.detach().to(wide)
        self.eps, self.factor = norm.eps, factor
        self.scale = self.weight / (self.var + self.eps).sqrt()
        self.zeros, self.ones = torch.zeros_like(ones), ones
        self.collecting = self.given = False
        self.reset()

    def reset(self) -> None:
        """Forget what was collected."""
        self.count = 0
        self.batch_mean, self.batch_var = self.zeros, self.zeros

    def collect(self, x: Tensor) -> None:
        """Merge the mean and the biased variance of x (B, C, H, W) into those so far."""
        mean, var = self.zeros.clone(), self.zeros.clone()
        # Momentum 1 leaves this batch's own statistics, in the type of the running ones.
        torch.batch_norm_update_stats(x.detach(), mean, var, 1.0)
        n = x.numel() // x.shape[1]
        var = var * ((n - 1) / n) if n > 1 else self.zeros  # it keeps the unbiased one
        total = self.count + n
        delta, share = mean - self.batch_mean, n / total
        self.batch_var = (
            self.batch_var + (var - self.batch_var) * share + delta**2 * (share * (1 - share))
        )
        self.batch_mean = self.batch_mean + delta * share
        self.count = total

    def term(self) -> Tensor:
        """R_l without its factor."""
        mean = torch.linalg.vector_norm(self.batch_mean - self.mean)
        return mean + torch.linalg.vector_norm(self.batch_var - self.var)

    def forward(self, x: Tensor) -> Tensor:
        """As BatchNorm in eval mode."""
        if not self.given:
            if not self.collecting:
                self.reset()
            self.collect(x)
        if self.collecting or not torch.is_grad_enabled():
            return _affine(x, self.mean, self.scale, self.bias)
        result: Tensor = _Watched.apply(x, self)  # type: ignore[no-untyped-call]
        return result


class _Watched(torch.autograd.Function):
    """BatchNorm in eval mode, and the gradient of R_l beside its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: WatchedNorm) -> Tensor:
        ctx.save_for_backward(x)
        ctx.norm = norm
        return _affine(x, norm.mean, norm.scale, norm.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,), norm = ctx.saved_tensors, ctx.norm
        by_mean = _unit(norm.batch_mean - norm.mean) * (norm.factor / norm.count)
        by_var = _unit(norm.batch_var - norm.var) * (2 * norm.factor / norm.count)
        through = _affine(grad, norm.zeros, norm.scale, norm.zeros)
        return through.add_(_affine(x, norm.batch_mean, by_var, by_mean)), None


def _affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x - mean) · scale + shift per channel, by the one kernel that is fast for every layout."""
    return torch.batch_norm(
        x, scale, shift, mean, torch.ones_like(mean), False, 0.0, 0.0, torch.backends.cudnn.enabled
    )


def _unit(vector: Tensor) -> Tensor:
    """Divided by its norm; the gradient of a norm at 0 is taken as 0."""
    length = torch.linalg.vector_norm(vector)
    return torch.where(length > 0, vector / length.clamp(min=torch.finfo(vector.dtype).tiny), 0)


class Watched:
    """A frozen copy of a network, in eval mode, whose BatchNorms are watched.

    Args:
        network: Left alone.
        dtype: What the copy computes in; statistics and losses are float32 at least.
        bn: Weight of the BatchNorm terms in the loss.
    """

    def __init__(self, network: Model, dtype: torch.dtype, bn: float) -> None:
        frozen = copy.deepcopy(network).eval().requires_grad_(False)
        norms = [(n, m) for n, m in frozen.named_modules() if isinstance(m, _BatchNorm)]
        self.norms = [WatchedNorm(m, bn * (1 if i else FIRST)) for i, (_, m) in enumerate(norms)]
        frozen.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for (name, _), watched in zip(norms, self.norms, strict=True):
            parent, _, child = name.rpartition(".")
            setattr(frozen.get_submodule(parent), child, watched)
        self.network, self.dtype = frozen, dtype

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in any float type -> (B, C, H, W)."""
        x = x.to(self.dtype, memory_format=torch.channels_last)
        logits: Tensor = self.network(x).logits
        return logits

    def collect(self, parts: Sequence[Tensor]) -> None:
        """Take the statistics of a batch that passes in parts; later passes are judged by them."""
        for norm in self.norms:
            norm.reset()
            norm.collecting, norm.given = True, False
        with torch.no_grad():
            for part in parts:
                self.logits(part)
        for norm in self.norms:
            norm.collecting, norm.given = False, True

    def term(self) -> Tensor:
        """The weighted sum of R_l at the last batch; layers that only training uses saw none."""
        seen = [norm for norm in self.norms if norm.count]
        return torch.stack([norm.factor * norm.term() for norm in seen]).sum()
