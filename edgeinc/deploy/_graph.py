"""From a trained network to an ONNX graph whose structure does not depend on the weights.

The exporter's optimiser looks at weight values (an all-zero bias disappears), so it stays off:
BatchNorm is folded in torch before, and of the graph only small shape arithmetic is folded. That
keeps the same nodes and the same initializer names, which are the network's own, whatever was
learnt. What the file looks like from outside is its `Form`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgeinc.deploy._form import MAX_ROWS, PLAIN, Form
from edgeinc.deploy._heads import assembled, assembled_scores, replace_heads, turned
from edgeinc.models import Model
from edgeinc.models._fold import folded
from edgeinc.runtimes._card import CLASSES, IMAGES, LOGITS
from edgeinc.runtimes._head import HEAD_BIAS, HEAD_WEIGHT
from edgeinc.schema import Size

if TYPE_CHECKING:
    import onnx

OPSET = 18
IR_VERSION = 10
SHAPE_ELEMENTS = 64
"""Constants up to this many elements are folded: axes and shapes, never a layer's weights."""


class Segmenter(nn.Module):
    """What is exported: images (N, H, W, 3) in, class ids (N, H, W) and scores (N, R, H, W) out."""

    def __init__(self, model: Model, form: Form) -> None:
        super().__init__()
        self.form = form
        self.model = folded(model)
        self.head = replace_heads(
            self.model, form.head, form.capacity, extra=model.decision != "argmax"
        )
        if form.precision == "fp16":
            self.model.half()
        self.names = [n for n, m in self.model.named_modules() if m is self.head]

    def forward(
        self, images: Tensor, head_weight: Tensor | None = None, head_bias: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Normalise, run the network, decide by its rule."""
        x = self.model.normalise(images)
        if head_weight is None or head_bias is None:
            output = self.model(x)
        else:
            (name,) = self.names
            weight, bias = turned(head_weight.to(x.dtype), head_bias.to(x.dtype))
            rows = {f"{name}.weight": weight, f"{name}.bias": bias}
            output = torch.func.functional_call(self.model, rows, (x,))
        scores = self.model.decide(output)
        positions, batch = self.head.weight.shape[0], images.shape[0]
        answers = []
        if CLASSES in self.form.answers:
            ids = assembled(scores.argmax(1), batch, positions)
            answers.append(ids.to(torch.float32).to(torch.uint8))  # TensorRT: from floats only
        if LOGITS in self.form.answers:
            answers.append(assembled_scores(scores, batch, positions).float())
        return tuple(answers)

    def rows(self) -> tuple[Tensor, Tensor]:
        """The deciding classifier: (R, P, C) and (R,), float32."""
        weight = self.head.weight.squeeze(1).permute(1, 0, 2)
        return weight.float().contiguous(), self.head.bias.squeeze(1).float()

    def example(self, size: Size) -> tuple[tuple[Tensor, ...], tuple[str, ...], Any]:
        """Inputs to export with, their names, and which of their dimensions are open."""
        low, usual, high = self.form.batch
        kind = torch.uint8 if self.form.images == "uint8" else torch.float32
        inputs = [torch.zeros(usual, *size, 3, dtype=kind)]
        names = [IMAGES]
        shapes: list[dict[int, Any]] = [{}]
        if low != high:
            shapes = [{0: torch.export.Dim("batch", min=low, max=high)}]
        if self.form.head == "dynamic":
            rows = torch.export.Dim("rows", min=2, max=MAX_ROWS)
            # Copies: a parameter of the network passed as its input would be taken for a constant.
            inputs += [t.clone() for t in self.rows()]
            names += [HEAD_WEIGHT, HEAD_BIAS]
            shapes += [{0: rows}, {0: rows}]
        return tuple(inputs), tuple(names), tuple(shapes) if any(shapes) else None


def head_of(model: Model, form: Form) -> tuple[Any, Any]:
    """The deciding classifier as it is exported: float32 arrays, (R, P, C) and (R,)."""
    weight, bias = Segmenter(model, form).rows()
    return weight.numpy(), bias.numpy()


def to_onnx(model: Model, size: Size, form: Form = PLAIN) -> onnx.ModelProto:
    """The network as an ONNX graph with preprocessing and decision inside.

    Args:
        model: A trained network; it is not changed.
        size: (height, width) of the images.
        form: What the graph looks like from outside.

    Raises:
        UsageError: The head does not fit the capacity, or its mode does not fit the network.
    """
    from onnxscript import ir, optimizer
    from onnxscript.ir.passes import common

    segmenter = Segmenter(model, form).eval()
    inputs, names, shapes = segmenter.example(size)
    with _quiet():
        program = torch.onnx.export(
            segmenter,
            inputs,
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=names,
            output_names=form.answers,
            dynamic_shapes=shapes,
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned nothing")
        graph = program.model
        optimizer.fold_constants(
            graph, input_size_limit=SHAPE_ELEMENTS, output_size_limit=SHAPE_ELEMENTS
        )
        common.RemoveUnusedNodesPass()(graph)
        common.ClearMetadataAndDocStringPass()(graph)
    for initializer in list(graph.graph.initializers.values()):
        if initializer.name is not None:
            initializer.name = initializer.name.removeprefix("model.")
    proto = ir.to_proto(graph)
    _strip(proto)
    return proto


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what the exporter notes about itself, such as source paths of this machine."""
    proto.producer_name, proto.producer_version = "edgeinc", ""
    proto.ir_version = IR_VERSION
    proto.graph.name = "segmenter"
    del proto.metadata_props[:], proto.graph.metadata_props[:], proto.graph.value_info[:]
    for value in [*proto.graph.input, *proto.graph.output]:
        del value.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter logs and warns about its own workings."""
    loggers = [
        logging.getLogger(n) for n in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
