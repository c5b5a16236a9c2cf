"""RW: hold weights by the Fisher matrix and by their path, both (Chaudhry et al., ECCV 2018).

"Riemannian Walk for Incremental Learning: Understanding Forgetting and Intransigence", as MiB
(Cermelli et al., CVPR 2020) compares it for segmentation, without its stored examples. Needs: new
images, labels of the new classes, the memory of the step before. Keeps: two numbers per weight.

    L     = L_CE + lambda sum_j Omega_j (theta_j - theta*_j)^2
    s     <- s + g (theta_before - theta) / (1/2 F (theta - theta_before)^2 + damping)
             every 10 iterations; theta_before are the weights 10 iterations ago
    F     <- alpha g^2 + (1 - alpha) F                       then, every iteration
    S     <- max(0, s), at later steps (max(0, s) + S) / 2     after the step
    Omega = F normalised to [0, 1] + S normalised to [0, 1]

g is the gradient of L_CE at theta. Where the paper sums g over the 10 iterations, the authors' code
of MiB takes the last; so does this.

- F is that of EWC's online estimate: the last two or three iterations. The scores of earlier steps
  are kept, halved at every step.
- As published each tensor is normalised for itself, so one outlier frees the rest of its tensor;
  `normalise = "global"` mends that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le

from edgeinc.methods import Survey
from edgeinc.methods._importance import (
    Importance,
    Named,
    decayed,
    normalised,
    packed,
    running,
    unpacked,
)
from edgeinc.models import Model


class RW(Importance):
    """Riemannian walk: online Fisher matrix and path score, added."""

    @dataclass(frozen=True)
    class Config:
        """Options of RW.

        Attributes:
            lambda_penalty: Factor of the penalty; the authors' code of MiB (its `--method RW`).
            alpha: Weight of the newest iteration in F (same code).
            every: Iterations between two updates of the score (same code).
            damping: Added to the distance a weight went (same code).
            normalise: `tensor`: minimum and maximum of each tensor become 0 and 1, as that code
                does. `global`: one scale for all weights, the topmost 0.1 % of them at 1.
        """

        lambda_penalty: Annotated[float, Ge(0)] = 100.0
        alpha: Annotated[float, Gt(0), Le(1)] = 0.9
        every: Annotated[int, Ge(1)] = 10
        damping: Annotated[float, Gt(0)] = 1e-8
        normalise: Literal["tensor", "global"] = "tensor"

    def begin(self, model: Model, old: Model | None) -> None:
        """Go on from the F of the step before."""
        super().begin(model, old)
        self.fisher = unpacked(self.context.memory, "fisher")
        self.scores: Named = {}
        self.before: Named = {}
        self.iteration = 0

    def importance(self, memory: Named) -> Named:
        """Of F and S."""
        how = self.config.normalise
        scores = normalised(unpacked(memory, "score"), how)
        fisher = normalised(unpacked(memory, "fisher"), how)
        return {n: f + scores[n] if n in scores else f for n, f in fisher.items()}

    def accumulate(self, moving: dict[str, Any]) -> None:
        """The score at every tenth iteration, then F."""
        if self.iteration % self.config.every == 0:
            self._walk(moving)
        self.iteration += 1
        self.fisher |= decayed(self.fisher, moving, self.config.alpha)

    def _walk(self, moving: dict[str, Any]) -> None:
        for name, p in moving.items():
            if name in self.before:
                way = p - running(self.before, name, p, fresh=0)
                distance = running(self.fisher, name, p, fresh=1) * way.square() / 2
                gain = -p.grad * way / (distance + self.config.damping)
                self.scores[name] = running(self.scores, name, p, fresh=0) + gain
        self.before |= {n: p.detach().clone() for n, p in moving.items()}

    def state(self) -> Named:
        """F and s so far, and where the current ten iterations began."""
        kept = packed(fisher=self.fisher, score=self.scores, before=self.before)
        return {**kept, "iteration": torch.tensor(self.iteration)}

    def restore(self, state: Named) -> None:
        """F and s so far, and where the current ten iterations began."""
        self.fisher, self.scores = unpacked(state, "fisher"), unpacked(state, "score")
        self.before, self.iteration = unpacked(state, "before"), int(state["iteration"])

    @torch.no_grad()
    def finish(self, model: Model, old: Model | None, survey: Survey) -> Named:
        """Keep F and S."""
        kept = unpacked(self.context.memory, "score")
        for name, p in model.named_parameters():
            if name in self.scores:
                new = running(self.scores, name, p, fresh=0).clamp(min=0)
                kept[name] = (new + running(kept, name, p, fresh=0)) / 2 if name in kept else new
        return packed(fisher=self.fisher, score=kept)
