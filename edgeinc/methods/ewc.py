"""EWC: hold the weights that the loss of earlier steps is curved in (Kirkpatrick, PNAS 2017).

Kirkpatrick et al., "Overcoming Catastrophic Forgetting in Neural Networks", as MiB (Cermelli et
al., CVPR 2020) compares it for segmentation. Needs: new images, labels of the new classes, the
memory of the step before. Keeps: one number per weight.

    L     = L_CE + lambda sum_j Omega_j (theta_j - theta*_j)^2

    online: F <- alpha g^2 + (1 - alpha) F      after every iteration, g of the batch's mean loss;
            Omega = (F - min F) / (max F - min F + 1e-8) of each tensor
    exact:  F <- F + mean over images of g^2    once after the step, g of one image's mean loss;
            Omega = min(1, F / c), c the value that 99.9 % of all weights stay below

theta* and F are those of the previous step; F starts at 1 where a weight is new (online) or at 0.

- Online is what the authors' code of MiB does. Its alpha weighs the newest term with 0.9, so F is
  the last two or three iterations, and of earlier steps next to nothing.
- Exact reads the step's images once more, one by one, in eval mode and float32. Importance of
  earlier steps is kept by the sum. BiSeNet's auxiliary outputs do not answer then and stay free.
- Labels are those of the step: with a background it is the empirical Fisher information of
  "new class or background".
- The step before must have made the same choice of `fisher`; another is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le

from edgeinc.errors import UsageError
from edgeinc.methods import Survey
from edgeinc.methods._importance import (
    Importance,
    Named,
    decayed,
    globally,
    normalised,
    packed,
    running,
    unpacked,
)
from edgeinc.models import Model


class EWC(Importance):
    """Elastic weight consolidation with a diagonal Fisher matrix."""

    @dataclass(frozen=True)
    class Config:
        """Options of EWC.

        Attributes:
            lambda_penalty: Factor of the penalty; the authors' code of MiB (its `--method EWC`).
            alpha: Weight of the newest iteration in the online estimate (same code).
            fisher: `online`: from the gradients of training, as that code does. `exact`: from one
                more pass over the images at the end of the step (Kirkpatrick et al., equation 3).
        """

        lambda_penalty: Annotated[float, Ge(0)] = 500.0
        alpha: Annotated[float, Gt(0), Le(1)] = 0.9
        fisher: Literal["online", "exact"] = "online"

    def begin(self, model: Model, old: Model | None) -> None:
        """Go on from the F of the step before.

        Raises:
            UsageError: It was estimated in the other way, on another scale.
        """
        super().begin(model, old)
        kind = self.config.fisher
        self.fisher = unpacked(self.context.memory, kind)
        if self.context.memory and not self.fisher:
            other = next(iter(self.context.memory)).split(".")[0]
            raise UsageError(
                f"method.fisher={kind} cannot go on from an importance that is '{other}'",
                hint=f"go on with --set method.fisher={other}",
            )

    def importance(self, memory: Named) -> Named:
        """Of F, on the scale that belongs to how it was estimated."""
        fisher = unpacked(memory, self.config.fisher)
        return normalised(fisher, "tensor") if self.config.fisher == "online" else globally(fisher)

    def accumulate(self, moving: dict[str, Any]) -> None:
        """The online estimate; the exact one has its own pass."""
        if self.config.fisher == "online":
            self.fisher |= decayed(self.fisher, moving, self.config.alpha)

    def state(self) -> Named:
        """F so far."""
        return packed(**{self.config.fisher: self.fisher})

    def restore(self, state: Named) -> None:
        """F so far."""
        self.fisher = unpacked(state, self.config.fisher)

    def finish(self, model: Model, old: Model | None, survey: Survey) -> Named:
        """Keep F."""
        if self.config.fisher == "exact":
            for name, new in self._squared_gradients(model, survey).items():
                self.fisher[name] = running(self.fisher, name, new, fresh=0) + new
        return packed(**{self.config.fisher: self.fisher})

    def _squared_gradients(self, model: Model, survey: Survey) -> Named:
        """Mean over the images of the step of the squared gradient of one image's loss."""
        moving = {n: p for n, p in model.named_parameters() if p.requires_grad}
        total = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in moving.items()}
        images = 0
        model.eval()
        with survey.progress.task("importance of the weights", None, "images") as task:
            for x, labels in survey.passes():
                for image, label in zip(x.float().split(1), labels.split(1), strict=True):
                    loss = torch.stack(list(self.terms(model(image), label, None).values())).sum()
                    found = torch.autograd.grad(loss, list(moving.values()), allow_unused=True)
                    for square, g in zip(total.values(), found, strict=True):
                        if g is not None:
                            square.addcmul_(g, g)
                    images += 1
                    task.advance()
        return {n: square / max(images, 1) for n, square in total.items()}
