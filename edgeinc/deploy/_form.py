"""What an exported file looks like from outside; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from edgeinc.errors import UsageError
from edgeinc.runtimes._card import CLASSES, IMAGES, LOGITS
from edgeinc.runtimes._head import HEAD_BIAS, HEAD_WEIGHT
from edgeinc.schema import Answer, HeadMode, Precision, Size

GATES: Mapping[str, float] = {"fp32": 99.9, "fp16": 99.5, "bf16": 99.5, "int8": 0.0}
"""Percent of pixels that must agree with torch, by precision; 0: it is only reported.

No file is in bf16: a runtime computes an fp32 file so.
"""
MIOU_LOSS = 0.5
"""Points of mIoU that a precision may lose, unless told otherwise."""
Target = Literal["onnxruntime", "openvino", "tensorrt"]
CAPACITY = 32
"""Rows of the classifier in head mode `capacity`, where no number was asked for."""
MAX_ROWS = 255
"""Ids are uint8, and 255 is void."""


@dataclass(frozen=True)
class Form:
    """What is wanted of a graph.

    Attributes:
        head: How the classifier is held, see `_heads`.
        capacity: Rows in head mode `capacity`.
        answer: Class ids, scores of every class, or both.
        images: `uint8` or `float` (float32, 0 to 255), either way (N, H, W, 3) RGB.
        precision: Types of weights and computation.
        batch: Fewest, usual and most images of a call; all equal for a fixed number.
        target: The runtime that int8 is made for; files of other precisions suit every one.
    """

    head: HeadMode = "static"
    capacity: int = 0
    answer: Answer = "classes"
    images: Literal["uint8", "float"] = "uint8"
    precision: Precision = "fp32"
    batch: tuple[int, int, int] = (1, 1, 1)
    target: Target = "onnxruntime"

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return (CLASSES, LOGITS) if self.answer == "both" else (self.answer,)

    @property
    def count(self) -> str:
        """How many images a call may have, in words."""
        low, _, high = self.batch
        return str(low) if low == high else f"{low} to {high}"


PLAIN = Form()
"""fp32, with the classes there are, uint8 in and out, one image a call."""


def form_of(
    precision: str,
    head: str,
    capacity: int,
    output: str,
    images: str,
    batch: tuple[int, int, int] | None,
    target: str = "onnxruntime",
) -> Form:
    """What is wanted of the graph, every word of it known."""
    for what, value, known in (
        ("precision", precision, get_args(Precision)),
        ("head mode", head, get_args(HeadMode)),
        ("output", output, get_args(Answer)),
        ("input", images, ("uint8", "float")),
        ("runtime to quantise for", target, get_args(Target)),
    ):
        if value not in known:
            raise UsageError(
                f"{what} {value} is not supported", hint=f"supported: {', '.join(known)}"
            )
    if precision != "int8" and target != "onnxruntime":
        raise UsageError(
            f"a file in {precision} is the same for every runtime, so there is none for {target}",
            hint="leave out --for, or add --precision int8",
        )
    low, usual, high = batch or (1, 1, 1)
    if not 1 <= low <= usual <= high:
        raise UsageError(
            f"batch sizes {low}:{usual}:{high} are not in order",
            hint="give fewest, usual and most images, for example --dynamic-batch 1:4:8",
        )
    if head == "capacity" and not 1 <= capacity <= MAX_ROWS:
        raise UsageError(
            f"a capacity of {capacity} is not between 1 and {MAX_ROWS}",
            hint=f"give --capacity {CAPACITY}",
        )
    return Form(
        head=cast("HeadMode", head),
        capacity=capacity if head == "capacity" else 0,
        answer=cast("Answer", output),
        images=cast('Literal["uint8", "float"]', images),
        precision=cast("Precision", precision),
        batch=(low, usual, high),
        target=cast("Target", target),
    )


def suffix(form: Form) -> str:
    """What tells a file from the others of its step: precision, then what is not the default."""
    low, _, high = form.batch
    parts = [
        form.precision if form.target == "onnxruntime" else f"{form.precision}-{form.target}",
        {"static": "", "capacity": f"capacity{form.capacity}", "dynamic": "dynamic"}[form.head],
        "" if form.answer == "classes" else form.answer,
        "" if form.images == "uint8" else "float",
        "" if low == high == 1 else f"batch{low}-{high}",
    ]
    return ".".join(filter(None, parts))


def inputs(form: Form, size: Size, head_shape: tuple[int, int, int]) -> str:
    """The graph's inputs in words."""
    kind = "uint8" if form.images == "uint8" else "float32 0 to 255"
    given = [f"{IMAGES}: {kind} ({form.count}, {size[0]}, {size[1]}, 3), RGB"]
    if form.head == "dynamic":
        _, positions, channels = head_shape
        given += [f"{HEAD_WEIGHT}: float32 (rows, {positions}, {channels})"]
        given += [f"{HEAD_BIAS}: float32 (rows)"]
    return "; ".join(given)


def outputs(form: Form, size: Size, rows: int) -> str:
    """The graph's outputs in words."""
    said = "rows" if form.head == "dynamic" else str(rows)
    height, width = size
    words = {
        CLASSES: f"{CLASSES}: uint8 ({form.count}, {height}, {width}), class ids",
        LOGITS: f"{LOGITS}: float32 ({form.count}, {said}, {height}, {width}), class scores",
    }
    return "; ".join(words[name] for name in form.answers)
