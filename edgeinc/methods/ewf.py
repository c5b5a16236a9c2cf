"""EWF: learn with distillation, then blend the old and the new weights (Xiao et al., CVPR 2023).

"Endpoints Weight Fusion for Class Incremental Semantic Segmentation". Needs what MiB needs where
there is a background, and what CIL needs where there is none. Keeps nothing and costs nothing at
inference.

    L     = the loss of MiB (background real or virtual) or of CIL (background none)
    theta = (1 - beta) theta_old + beta theta_new    once after the step,
    beta  = sqrt(n_new / (n_new + n_old))

over all weights and BatchNorm statistics that both networks have; n_old counts the background.

- The loss holds both ends close enough together for a blend to work: start from the old weights.
- The paper blends on top of MiB and PLOP. CIL in place of them, where no background is, is this
  project's choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from torch import Tensor

from edgeinc.methods import Method, StepContext, Survey
from edgeinc.methods._ewf import blend
from edgeinc.methods.cil import CIL
from edgeinc.methods.mib import MiB
from edgeinc.models import Model, Output
from edgeinc.schema import Background


class EWF(Method):
    """MiB's or CIL's training, and a blend at its end."""

    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real", "virtual")
    teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of EWF.

        Attributes:
            lambda_kd: Factor of MiB's distillation; without a background CIL has no factor and
                this is not used. 10 is MiB's, 100 its authors' for VOC 15-1.
        """

        lambda_kd: Annotated[float, Ge(0)] = 10.0

    def __init__(self, config: Any, context: StepContext) -> None:
        super().__init__(config, context)
        self.base: Method
        if context.background == "none":
            self.base = CIL(CIL.Config(), context)
        else:
            self.base = MiB(MiB.Config(lambda_kd=config.lambda_kd), context)

    def begin(self, model: Model, old: Model | None) -> None:
        """As the method it trains with."""
        self.base.begin(model, old)

    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """As the method it trains with."""
        return self.base.terms(output, labels, teacher)

    def finish(self, model: Model, old: Model | None, survey: Survey) -> dict[str, Tensor]:
        """Blend with the previous step's network."""
        if old is not None:
            first_new, classes = self.context.first_new, self.context.classes
            blend(model, old, classes - first_new, first_new)
        return {}
