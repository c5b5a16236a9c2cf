"""PI: hold the weights whose moves lowered the loss of earlier steps (Zenke et al., ICML 2017).

Zenke, Poole, Ganguli, "Continual Learning Through Synaptic Intelligence" (path integral), as MiB
(Cermelli et al., CVPR 2020) compares it for segmentation. Needs: new images, labels of the new
classes, the memory of the step before. Keeps: one number per weight.

    L     = L_CE + lambda sum_j Omega_j (theta_j - theta*_j)^2
    omega <- omega + g (theta_before - theta)             in every iteration but the first
    S     <- S + max(0, omega / ((theta_end - theta_start)^2 + damping))    after the step
    Omega = S normalised to [0, 1]

g is the gradient of L_CE at theta, so a move is valued by the batch after it, as in the authors'
code of MiB; equation 3 of the paper takes the batch that caused it, whose noise the move followed.
theta_start and theta_end are the weights before and after the step.

- As published (damping 1e-20, each tensor for itself) a weight that hardly moved gets a huge S and
  pushes all others of its tensor to 0: there PI forgets as much as fine-tuning.
- `damping = 1e-3, normalise = "global"` mends that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt

from edgeinc.methods import Survey
from edgeinc.methods._importance import (
    Importance,
    Named,
    normalised,
    packed,
    running,
    unpacked,
)
from edgeinc.models import Model


class PI(Importance):
    """Synaptic intelligence: what each weight did for the loss along the path of training."""

    @dataclass(frozen=True)
    class Config:
        """Options of PI.

        Attributes:
            lambda_penalty: Factor of the penalty; the authors' code of MiB (its `--method PI`).
            damping: Added to the squared way of a weight. 1e-20 is that code's; 1e-3 is xi of
                Zenke et al. for split MNIST (equation 5).
            normalise: `tensor`: minimum and maximum of each tensor become 0 and 1, as that code
                does. `global`: one scale for all weights, the topmost 0.1 % of them at 1.
        """

        lambda_penalty: Annotated[float, Ge(0)] = 500.0
        damping: Annotated[float, Gt(0)] = 1e-20
        normalise: Literal["tensor", "global"] = "tensor"

    def begin(self, model: Model, old: Model | None) -> None:
        """Remember where the weights start."""
        super().begin(model, old)
        self.start = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.omegas: Named = {}
        self.before: Named = {}

    def importance(self, memory: Named) -> Named:
        """Of S."""
        return normalised(unpacked(memory, "score"), self.config.normalise)

    def accumulate(self, moving: dict[str, Any]) -> None:
        """One more piece of the path integral."""
        for name, p in moving.items():
            if name in self.before:
                omega = running(self.omegas, name, p, fresh=0)
                before = running(self.before, name, p, fresh=0)
                self.omegas[name] = omega + p.grad * (before - p)
        self.before |= {n: p.detach().clone() for n, p in moving.items()}

    def state(self) -> Named:
        """The integral so far, and the weights of the last iteration."""
        return packed(omega=self.omegas, before=self.before)

    def restore(self, state: Named) -> None:
        """The integral so far, and the weights of the last iteration."""
        self.omegas, self.before = unpacked(state, "omega"), unpacked(state, "before")

    @torch.no_grad()
    def finish(self, model: Model, old: Model | None, survey: Survey) -> Named:
        """Keep S."""
        scores = unpacked(self.context.memory, "score")
        for name, p in model.named_parameters():
            if name in self.omegas:
                way = (p - self.start[name].to(p.device)).square()
                new = running(self.omegas, name, p, fresh=0) / (way + self.config.damping)
                scores[name] = running(scores, name, p, fresh=0) + new.clamp(min=0)
        return packed(score=scores)
