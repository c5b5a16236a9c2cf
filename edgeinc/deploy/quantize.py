"""int8 from a float graph: calibrated on real images, layer by layer, as far as a gate allows.

What is int8 is in the graph as QuantizeLinear and DequantizeLinear (QDQ): weights per channel,
activations per tensor. Preprocessing, first convolution and head stay float (`_qdq`). Each runtime
is served by the quantizer whose graph it executes best:

- `onnxruntime`: ONNX Runtime's; activations uint8, additions and poolings int8 too, so that values
  stay int8 from layer to layer.
- `openvino`: NNCF, which also corrects biases.
- `tensorrt`: ONNX Runtime's, symmetric as TensorRT requires, only inputs of convolutions; weights
  stay float with a pair of QDQ nodes, under their own names, so that they can be refitted.

    quantised = quantise(graph, images, target="onnxruntime")
    graph = quantised.graph(excluded=quantised.ranking(SILENT)[:2])
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.child import run_child
from edgeinc.data import Image
from edgeinc.data._augment import resize_image
from edgeinc.deploy._form import Target
from edgeinc.deploy._qdq import CONVOLUTIONS, Parts, mixed, parts
from edgeinc.errors import EdgeincError, MissingError
from edgeinc.progress import SILENT, Progress, Task
from edgeinc.runtimes._card import IMAGES

if TYPE_CHECKING:
    import onnx

__all__ = ["Quantised", "check_quantizer", "first_that_passes", "quantise"]

T = TypeVar("T")
Batches = npt.NDArray[Any]

PROBES = 2
"""Batches on which the harm of single layers is measured."""
FLOWING = ("Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Resize")
"""What ONNX Runtime computes in int8 between convolutions; it fuses a Relu that is followed by a
QuantizeLinear. To have it removed here would leave the clipping to that node, and whoever reads the
float value (a layer that is excluded) would read what was never clipped."""
INPUTS_ONLY = {"OpTypesToExcludeOutputQuantization": [*CONVOLUTIONS, *FLOWING]}
"""Otherwise what comes out of a convolution is quantised before its Relu, half the range unused."""
TENSORRT = {
    **INPUTS_ONLY,
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
}


def check_quantizer(target: Target) -> str:
    """The quantizer for a runtime and its version, such as `nncf 3.4.0`.

    Raises:
        MissingError: It is not installed.
    """
    package, extra = ("nncf", "quant") if target == "openvino" else ("onnxruntime", "cpu")
    if find_spec(package) is None:
        raise MissingError(
            f"int8 for {target} is made by {package}, which is not installed",
            hint=f'pip install "edgeinc[{extra}]"',
        )
    found = host.installed(package) or host.installed(f"{package}-gpu")
    return f"{package} {found}".strip()


class Quantised:
    """A float graph and its int8 counterpart, from which any mixture of layers can be made.

    Attributes:
        layers: Names of the layers that may be int8, in the order of the graph.
    """

    def __init__(
        self, base: onnx.ModelProto, found: Parts, quantised: onnx.ModelProto, batches: Batches
    ) -> None:
        self._base, self._parts, self._quantised = base, found, quantised
        self._batches = batches
        self.layers = tuple(found.layers)

    def graph(self, excluded: Collection[str] = ()) -> onnx.ModelProto:
        """The whole graph with every layer int8 but those that are excluded."""
        return mixed(self._base, self._quantised, self._parts.nodes(excluded))

    def ranking(self, progress: Progress = SILENT) -> tuple[str, ...]:
        """The layers, the one that hurts most first.

        Each layer alone is made int8 and its noise is measured where it matters: in the features
        that the head reads, as mean square of the difference to the float network's. Errors of
        single layers add up nearly linearly, so this ranks them as well as quantising all but one
        would, and needs neither labels nor a second calibration: one run of `PROBES` batches for
        each layer. (Comparing activations of the two networks layer by layer would be one run for
        all, but shows each layer the errors of all before it.)
        """
        harm: dict[str, float] = {}
        with progress.task("find the layers that hurt", len(self.layers), "layer") as task:
            expected = self._features(frozenset())
            for name in self.layers:
                found = self._features(self._parts.layers[name])
                harm[name] = float(np.mean((found - expected) ** 2))
                task.advance(note=name)
        return tuple(sorted(self.layers, key=lambda name: -harm[name]))

    def _features(self, nodes: frozenset[str]) -> npt.NDArray[np.float64]:
        """What the head reads when some nodes are int8, as one vector."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = host.cores()
        session = onnxruntime.InferenceSession(
            mixed(self._parts.body, self._quantised, nodes).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        found = [
            np.ravel(output)
            for batch in self._batches[:PROBES]
            for output in session.run(None, {IMAGES: batch})
        ]
        return np.concatenate(found).astype(np.float64)

    @cached_property
    def half(self) -> int:
        """Most layers that may be excluded: with more, little of int8 would be left."""
        return len(self.layers) // 2


def quantise(
    graph: onnx.ModelProto,
    images: Sequence[Image],
    *,
    target: Target,
    progress: Progress = SILENT,
) -> Quantised:
    """Quantise a float graph.

    Args:
        graph: Of `_graph.to_onnx` in fp32, in any head mode; it is not changed.
        images: Real ones, of any size.
        target: The runtime to make it for.
        progress: Told that it goes on.

    Raises:
        EdgeincError: The graph has no classifier or nothing to quantise, or the quantizer failed.
        MissingError: The quantizer is not installed.
    """
    check_quantizer(target)
    found = parts(graph)
    batches = _batches(graph, images)
    with TemporaryDirectory() as folder, progress.task("calibrate", None, "s") as task:
        quantizer = _nncf if target == "openvino" else _onnxruntime
        quantised = quantizer(found, batches, Path(folder), target, task)
    return Quantised(graph, found, quantised, batches)


def _batches(graph: onnx.ModelProto, images: Sequence[Image]) -> Batches:
    """(B, N, H, W, 3) in the type the graph takes; N is the smallest batch it takes."""
    (taken,) = (i for i in graph.graph.input if i.name == IMAGES)
    first, height, width, _ = (d.dim_value for d in taken.type.tensor_type.shape.dim)
    count = first or 2  # a free batch size may not be 1: see `Segmenter.example`
    kind = np.uint8 if taken.type.tensor_type.elem_type == 2 else np.float32
    resized = [resize_image(image, (height, width)) for image in images]
    resized += resized[: -len(resized) % count] or resized[-1:] * (-len(resized) % count)
    return np.stack(resized).reshape(-1, count, height, width, 3).astype(kind)


def _onnxruntime(
    found: Parts, batches: Batches, folder: Path, target: Target, task: Task
) -> onnx.ModelProto:
    import onnx

    with _quiet():
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._left = iter(batches)

            def get_next(self) -> dict[str, Batches] | None:
                task.advance(note="calibrate")
                batch = next(self._left, None)
                return None if batch is None else {IMAGES: batch}

        symmetric = target == "tensorrt"
        body = onnx.ModelProto()
        body.CopyFrom(found.body)  # it moves the weights of what it is given into a file
        quantize_static(
            body,
            folder / "out.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            op_types_to_quantize=[*CONVOLUTIONS, *(() if symmetric else FLOWING)],
            nodes_to_exclude=sorted(found.outside),
            extra_options=dict(TENSORRT if symmetric else INPUTS_ONLY),
        )
    return onnx.load(folder / "out.onnx")


def _nncf(
    found: Parts, batches: Batches, folder: Path, target: Target, task: Task
) -> onnx.ModelProto:
    import onnx

    job = {
        "body": str(folder / "body.onnx"),
        "feeds": str(folder / "feeds.npy"),
        "out": str(folder / "out.onnx"),
        "input": IMAGES,
        "outside": sorted(found.outside),
    }
    onnx.save(found.body, folder / "body.onnx")
    np.save(folder / "feeds.npy", batches)
    try:
        run_child("edgeinc.deploy._nncf_child", job, task=task, memory_bytes=0)
    except EdgeincError as err:
        raise EdgeincError(
            f"{check_quantizer(target)} cannot quantise this graph: {err.message}",
            hint="export with --for onnxruntime",
        ) from err
    return onnx.load(folder / "out.onnx")


def first_that_passes(
    quantised: Quantised,
    measured: Callable[[onnx.ModelProto, tuple[str, ...]], T],
    passed: Callable[[T], bool],
    progress: Progress = SILENT,
) -> T:
    """Exclude the layers that hurt most, 1, 2, 4, 8, … up to half of them, until a gate is met.

    Args:
        quantised: Of `quantise`.
        measured: Called with a graph and the layers excluded from it.
        passed: Whether what it returned meets the gate.
        progress: Told what is excluded.

    Returns:
        What `measured` returned for the first graph that passes, else for the last.
    """
    outcome = measured(quantised.graph(), ())
    if passed(outcome):
        return outcome
    ranking = quantised.ranking(progress)
    count = 1
    while True:
        count = min(count, quantised.half)
        if not count:
            return outcome
        excluded = tuple(name for name in quantised.layers if name in ranking[:count])
        progress.message(f"int8 misses the gate: {count} of {len(ranking)} layers stay float")
        outcome = measured(quantised.graph(excluded), excluded)
        if passed(outcome) or count == quantised.half:
            return outcome
        count *= 2


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice off the root logger, to which it would add a handler."""
    root, silent = logging.getLogger(), logging.NullHandler()
    level: int | Literal["NOTSET"] = root.level
    root.addHandler(silent)
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)
