"""Incremental-learning methods: one file per method, file name = public name.

A method is a class with a frozen `Config`, a statement of what it needs, and hooks that the loop
calls: the named terms of its loss are the one that every method has. The training loop knows no
method; a method knows neither files nor devices.

    method = CIL(CIL.Config(entropy_weights=False), context)
    method.begin(model, old)                                   # new rows, what is frozen
    terms = method.terms(output, labels, teacher)              # {"ce": ..., "kd": ...}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from edgeinc import registry
from edgeinc.config import Weighting
from edgeinc.errors import UsageError
from edgeinc.models import Model, Output
from edgeinc.progress import SILENT, Progress
from edgeinc.schema import Background

__all__ = ["NOTHING_KEPT", "Method", "StepContext", "Store", "Survey", "check_background"]

Init = Literal["previous", "fresh"]


@dataclass(frozen=True)
class StepContext:
    """What a method may know about the step it trains.

    Attributes:
        first_new: Id of the step's first new class; 0 at step 0.
        classes: Number of classes after the step.
        background: The run's background mode.
        class_weights: (classes,) cross-entropy weights from the step's labels, or None.
        weighting: What they are made by, for a method that counts pixels in its own way.
        sigmoids: Whether the method that trained the step before has `Method.sigmoids`.
        memory: What the method kept at the step before; empty at step 0 or after another method.
        seed: The run's, for what a method draws by itself.
    """

    first_new: int
    classes: int
    background: Background
    class_weights: Tensor | None
    memory: dict[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    weighting: Weighting = "none"
    sigmoids: bool = False


class Store(Protocol):
    """Named sets of tensors that outlive the step, in the run and under its previous network."""

    def load(self, name: str) -> dict[str, Tensor] | None:
        """What was saved under a name, on the CPU; None where there is nothing."""

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors, durably and all at once."""

    def drop(self, name: str) -> None:
        """Forget a name, whether it is known or not."""


class _NothingKept:
    def load(self, name: str) -> dict[str, Tensor] | None:
        return None

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        pass

    def drop(self, name: str) -> None:
        pass


NOTHING_KEPT: Store = _NothingKept()
"""Where nothing is to be kept: everything is computed again."""


@dataclass(frozen=True)
class Survey:
    """A look at the step's images before or after training, without augmentation of the order.

    Attributes:
        passes: Yields (x, labels) of every batch once: x (B, 3, H, W) normalised, labels
            (B, H, W) int64.
        infer: The network's or teacher's answer to x, as it computes in training.
        progress: Told about long work.
        store: Keeps costly work for later steps from the same network.
    """

    passes: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    infer: Callable[[nn.Module, Tensor], Output]
    progress: Progress = SILENT
    store: Store = NOTHING_KEPT


class Method(ABC):
    """Base of every method.

    Attributes:
        Config: Frozen dataclass of its options, each with its source.
        backgrounds: Background modes it works in.
        labels: `new`: images of the step, labelled for its new classes only. `new-and-old`: they
            must be labelled for the older classes too. `all`: every image so far with every label
            so far (an upper bound that breaks the rules on purpose).
        teacher: Whether it asks the network of the previous step about every batch.
        sigmoids: Whether each of its logits is that of a sigmoid and means something by itself;
            those of a softmax mean nothing but their differences.
        prepares: What it trains at step 0 for the steps to come, and what it does instead where
            the step before was imported or trained by another method; "" where it needs nothing.
            Said when such a run is extended.
    """

    Config: ClassVar[type[Any]]
    backgrounds: ClassVar[tuple[Background, ...]] = ("none", "real")
    labels: ClassVar[Literal["new", "new-and-old", "all"]] = "new"
    teacher: ClassVar[bool] = False
    sigmoids: ClassVar[bool] = False
    prepares: ClassVar[str] = ""

    def __init__(self, config: Any, context: StepContext) -> None:
        self.config = config
        self.context = context

    @classmethod
    def init(cls, config: Any) -> Init:
        """Where an extension starts: from the previous step's weights or from fresh ones."""
        return "previous"

    def grow(self, model: Model, classes: int) -> None:
        """Give the previous step's network what its new classes need; not called for a fresh one.

        Raises:
            UsageError: The network cannot grow like this.
        """
        model.grow(classes)

    def begin(self, model: Model, old: Model | None) -> None:
        """Set what the step starts with: new rows of the classifiers, what does not move.

        Called whenever the step's network is built, also before a resume puts its saved weights
        over what is set here; so the same calls must give the same.

        Args:
            model: The network of the step, grown, its old weights restored.
            old: The previous step's network in eval mode, unchanged; None at step 0.
        """

    def prepare(self, survey: Survey, teacher: Model | None) -> dict[str, Tensor]:
        """Compute once before training what the terms need, such as thresholds.

        What is returned is kept with the running step and handed to `ready`, so an interrupted
        step does not compute it twice.
        """
        return {}

    def ready(self, prepared: dict[str, Tensor]) -> None:
        """Take what `prepare` returned, on the device of the training."""

    def blend(self, x: Tensor, labels: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Join images of the method's own to a batch, before any network sees it.

        Args:
            x: (B, 3, H, W) normalised.
            labels: (B, H, W) int64.
            batch: How many batches the step has seen before; what is joined depends on it and
                on the seed alone, so that an interrupted step sees the same again.
        """
        return x, labels

    @abstractmethod
    def terms(self, output: Output, labels: Tensor, teacher: Output | None) -> dict[str, Tensor]:
        """The terms of the loss; their sum is minimised.

        Args:
            output: What the network says; logits (B, C, H, W) in any float type.
            labels: (B, H, W) int64, `VOID` where nothing may be learned from a label.
            teacher: What the previous step's network says, logits (B, C_old, H, W), when the
                method asks for it and there is a previous step.

        Returns:
            Scalars in float32, finite for any labels (no labelled pixel at all included).
        """

    def groups(self, model: Model) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser: `params`, and optionally `lr_scale`, `weight_decay`.

        `lr_scale` multiplies the learning rate of the schedule.
        """
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]

    def after_backward(self, model: Model) -> dict[str, Tensor]:
        """Look at the gradients of the terms, and add to them what is no term of a batch.

        Returns:
            Values that are logged, such as a penalty whose gradient was added.
        """
        return {}

    def after_update(self, model: Model) -> None:
        """Look at the weights after the optimiser moved them."""

    def state(self) -> dict[str, Tensor]:
        """What an exact continuation needs of the method itself, by name."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""

    def finish(self, model: Model, old: Model | None, survey: Survey) -> dict[str, Tensor]:
        """Close the step: change the trained weights if the method says so, and keep a memory.

        Returns:
            What the next step finds in `StepContext.memory`; never an image.
        """
        return {}


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
