"""Incremental-learning methods: one file per method, file name = public name.

A method is a class with a frozen `Config`, a statement of what it needs, and one hook: the named
terms of its loss. The training loop knows no method; a method knows neither files nor devices.

    method = load_method("cil", {"entropy_weights": False}, context)
    terms = method.terms(output, labels, teacher_logits)      # {"ce": ..., "kd": ...}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.models import Output
from edgeinc.schema import Background

__all__ = ["Method", "StepContext", "check_background"]

Init = Literal["previous", "fresh"]


@dataclass(frozen=True)
class StepContext:
    """What a method may know about the step it trains.

    Attributes:
        first_new: Id of the step's first new class; 0 at step 0.
        classes: Number of classes after the step.
        background: The run's background mode.
        class_weights: (classes,) cross-entropy weights, or None.
    """

    first_new: int
    classes: int
    background: Background
    class_weights: Tensor | None


class Method(ABC):
    """Base of every method.

    Attributes:
        Config: Frozen dataclass of its options, each with its source.
        backgrounds: Background modes it works in.
        labels: `new`: images of the step, labelled for its new classes only. `all`: every image
            so far with every label so far (an upper bound that breaks the rules on purpose).
        teacher: Whether it asks the network of the previous step about every batch.
        prepares: What it trains at step 0 for the steps to come, and what it does instead where
            step 0 was imported; "" where it needs nothing. Shown when an imported run is extended.
    """

    Config: ClassVar[type[Any]]
    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real")
    labels: ClassVar[Literal["new", "all"]] = "new"
    teacher: ClassVar[bool] = False
    prepares: ClassVar[str] = ""

    def __init__(self, config: Any, context: StepContext) -> None:
        self.config = config
        self.context = context

    @classmethod
    def init(cls, config: Any) -> Init:
        """Where an extension starts: from the previous step's weights or from fresh ones."""
        return "previous"

    @abstractmethod
    def terms(self, output: Output, labels: Tensor, teacher: Tensor | None) -> dict[str, Tensor]:
        """The terms of the loss; their sum is minimised.

        Args:
            output: What the network says; logits (B, C, H, W) in any float type.
            labels: (B, H, W) int64, `VOID` where nothing may be learned from a label.
            teacher: (B, C_old, H, W) logits of the previous step's network, when the method asks
                for them and there is a previous step.

        Returns:
            Scalars in float32, finite for any labels (no labelled pixel at all included).
        """


def check_background(name: str, background: Background) -> None:
    """Refuse a method in a background mode it is not defined for.

    Raises:
        UsageError: With the modes it works in, and the methods that work in this one.
    """
    modes = registry.load("methods", name).backgrounds
    if background in modes:
        return
    fitting = [
        other
        for other in registry.names("methods")
        if background in registry.load("methods", other).backgrounds
    ]
    raise UsageError(
        f"method '{name}' works with background {' or '.join(modes)}, not {background}",
        hint=f"use one of: {', '.join(fitting)}",
    )
