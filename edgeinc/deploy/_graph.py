"""From a trained network to an ONNX graph whose structure does not depend on the weights.

The exporter's optimiser looks at weight values (an all-zero bias disappears), so it stays off:
BatchNorm is folded in torch before, and of the graph only small shape arithmetic is folded. That
keeps the same nodes and the same initializer names, which are the network's own, whatever was
learnt.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgeinc.models import Model
from edgeinc.models._fold import folded
from edgeinc.schema import Size

if TYPE_CHECKING:
    import onnx

OPSET = 18
IR_VERSION = 10
SHAPE_ELEMENTS = 64
"""Constants up to this many elements are folded: axes and shapes, never a layer's weights."""


class Segmenter(nn.Module):
    """What is exported: uint8 images (1, H, W, 3) in, uint8 class ids (1, H, W) out."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, run the network, decide by its rule."""
        ids = self.model.decide(self.model(self.model.normalise(images))).argmax(1)
        return ids.to(torch.float32).to(torch.uint8)  # TensorRT casts to uint8 from floats only


def to_onnx(model: Model, size: Size) -> onnx.ModelProto:
    """The network as an ONNX graph with preprocessing and decision inside.

    Args:
        model: A trained network; it is not changed.
        size: (height, width) of the images.
    """
    from onnxscript import ir, optimizer
    from onnxscript.ir.passes import common

    fused = folded(model)
    images = torch.zeros(1, *size, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            Segmenter(fused).eval(),
            (images,),
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["classes"],
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
