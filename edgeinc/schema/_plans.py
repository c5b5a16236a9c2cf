"""Classes, scenarios, conventions: what is planned before anything is trained."""

from __future__ import annotations

from typing import Literal

from edgeinc.schema._document import Background, Color, document


@document
class ClassInfo:
    """One class of a network. `id` is the value in predicted masks; `step` its step of birth."""

    id: int
    name: str
    color: Color
    step: int


@document
class ClassTable:
    """The classes of a network in id order. Ids and colours of older steps never change."""

    classes: tuple[ClassInfo, ...]
    background: Background = "none"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def last_step(self) -> int:
        return max((c.step for c in self.classes), default=-1)

    def of_step(self, step: int) -> tuple[ClassInfo, ...]:
        """The classes born at `step`."""
        return tuple(c for c in self.classes if c.step == step)

    def until(self, step: int) -> ClassTable:
        """The table as it was after `step`."""
        return ClassTable(tuple(c for c in self.classes if c.step <= step), self.background)


Selection = Literal["listed", "overlapped", "disjoint", "partitioned"]
"""Which images belong to a step. `listed`: those the plan lists, and where it lists none those of
`overlapped`: images that show a class of the step. `disjoint`: of these, the ones that show no
class of a later step. `partitioned`: every image belongs to one of the classes it shows, drawn at
random, and to the step of that class."""

Labels = Literal["new-only", "new-and-old"]
"""Which classes keep their label in the images of a step."""


@document
class ScenarioStep:
    """Classes and images of one step.

    `part` = (i, n): the i-th of n contiguous parts (from 1) of every sequence of the split.
    `sequences`: every image of these recordings or cities. `images`: explicit image ids.
    """

    classes: tuple[str, ...]
    part: tuple[int, int] | None = None
    images: tuple[str, ...] | None = None
    sequences: tuple[str, ...] | None = None


@document
class Scenario:
    """The plan of a benchmark: which classes and which images at each step, with which labels."""

    name: str
    steps: tuple[ScenarioStep, ...]
    selection: Selection = "listed"
    labels: Labels = "new-only"
    background: Background | None = None


@document
class Convention:
    """What a pixel or image without a learned class counts as, in training and in testing.

    `train_void`, `test_future` (classes not learned yet) and `test_other` (id 0 of ADE20K) say
    what becomes of such pixels; `test_images`: every image, or those that show a learned class;
    `absent`: what a class without a pixel adds to a mean; `eval_size`: `full`, `center512` or HxW;
    `mean`: the mean that the source prints as its mIoU of all classes.
    """

    name: str
    summary: str
    train_void: Literal["void", "background"] = "void"
    test_future: Literal["void", "background"] = "void"
    test_other: Literal["scored", "void"] = "scored"
    test_images: Literal["all", "learned"] = "all"
    absent: Literal["skip", "zero"] = "skip"
    eval_size: str = "full"
    mean: Literal["with-background", "without-background"] = "with-background"
