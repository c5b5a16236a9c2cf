"""OpenVINO: runs exported .onnx files on Intel and other CPUs, in f32 unless told otherwise.

Left alone, OpenVINO computes an fp32 file in bf16 where the processor has it, and does not say so.
Here the precision is always named: `openvino` computes float layers in f32, `openvino_bf16` in
bf16. Layers of an int8 file are int8 in both.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.errors import EdgeincError, MissingError
from edgeinc.runtimes import Availability, Runtime, Session
from edgeinc.runtimes._card import CLASSES, LOGITS
from edgeinc.runtimes._first_load import survive
from edgeinc.runtimes._graph_session import Feeds, Graph, GraphSession
from edgeinc.runtimes._update import Candidate
from edgeinc.schema import Way

INSTALL = 'pip install "edgeinc[openvino]"'
HINTS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names for the precision of float layers."""

CHILD = """\
import sys, numpy, openvino
core = openvino.Core()
compiled = core.compile_model(core.read_model(sys.argv[2]), "CPU", {
    "INFERENCE_PRECISION_HINT": sys.argv[1], "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1})
feeds = {}
for port in compiled.inputs:
    shape = [d.get_min_length() or 2 if d.is_dynamic else d.get_length()
             for d in port.get_partial_shape()]
    feeds[port] = numpy.zeros(shape, port.get_element_type().to_dtype())
compiled.create_infer_request().infer(feeds)
"""
"""What the first load does in a child: arguments are the hint and the file."""


class OpenVino(Runtime):
    """Opens `FILE.onnx`."""

    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    providers: ClassVar[tuple[str, ...]] = ("CPU",)

    @classmethod
    def availability(cls) -> Availability:
        """Whether openvino is installed; it is not imported for the answer."""
        if find_spec("openvino") is None:
            return Availability(False, reason="openvino is not installed", fix=INSTALL)
        return Availability(True, version=host.installed("openvino") or "unknown")

    @classmethod
    def ways(cls) -> tuple[Way, ...]:
        """OpenVINO has no call that exchanges weights."""
        return ("head", "reload")

    @classmethod
    def open(cls, path: Path, *, device: str = "auto", threads: int = 0) -> Session:
        """Open an exported file, the first time in a child process; its hash is verified.

        Raises:
            MissingError: The device is not the CPU.
            EdgeincError: OpenVINO crashes on the file or cannot load it, or the file is damaged,
                was changed, or is not an edgeinc export.
        """
        return OpenVinoSession(path, device=device, threads=threads)


class OpenVinoSession(GraphSession):
    """An exported file, opened.

    Args:
        path: The file.
        device: `auto` or `cpu`.
        threads: Threads to compute with; 0 takes every core.
        runtime: Name of the runtime it is opened by.
        floats: What layers that are not int8 are computed in: `fp32` or `bf16`.
    """

    provider = "CPU"

    def __init__(
        self,
        path: Path,
        *,
        device: str,
        threads: int,
        runtime: str = "openvino",
        floats: str = "fp32",
    ) -> None:
        _check_device(device)
        self.runtime, self.threads, self._floats = runtime, threads or host.cores(), floats
        self._open(path, OpenVino.ways())

    def _graph(self, new: Candidate, way: Way) -> Graph:
        hint = HINTS[self._floats]
        survive(
            new.path,
            new.card.sha256,
            who=f"OpenVINO {OpenVino.availability().version}",
            command=[sys.executable, "-c", CHILD, hint, str(new.path)],
        )
        model, compiled = _compiled(new.path, hint, self.threads)
        request, busy = compiled.create_infer_request(), Lock()

        def infer(answer: str, feeds: Feeds) -> npt.NDArray[Any]:
            with busy:  # a request computes for one thread at a time
                request.infer({k: np.ascontiguousarray(v) for k, v in feeds.items()})
                found: npt.NDArray[Any] = request.get_tensor(answer).data.copy()
            return found

        names = [output.any_name for output in compiled.outputs]
        return Graph(
            infer,
            answers=tuple(name for name in names if name in (CLASSES, LOGITS)),
            as_float=model.inputs[0].get_element_type().get_type_name() == "f32",
        )

    def _serve(self, live: Any, candidate: Candidate) -> None:
        super()._serve(live, candidate)
        if self._floats != "fp32" and self.precision != "int8":
            self.precision = self._floats

    def close(self) -> None:
        """Release the compiled network. The session cannot be used after."""
        self._live = self._before = None


def _compiled(path: Path, hint: str, threads: int) -> tuple[Any, Any]:
    """The network as it was read and as it was compiled, in exactly the precision asked for."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    try:
        model = core.read_model(path)
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as err:
        raise EdgeincError(
            f"OpenVINO cannot load {path}: {str(err).strip().splitlines()[-1]}",
            hint="restore the file from a copy, or export it again",
        ) from err
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if taken != hint:
        raise MissingError(
            f"OpenVINO was asked for {hint} and computes in {taken} on {host.cpu_name()}",
            hint="use --runtime openvino",
        )
    return model, compiled


def _check_device(device: str) -> None:
    if re.fullmatch(r"auto|cpu|cuda(?::\d+)?", device) is None:
        raise MissingError(f"unknown device '{device}'", hint="auto or cpu")
    if device.startswith("cuda"):
        raise MissingError(
            f"device {device} was asked for and OpenVINO computes on the CPU only",
            hint="leave out --device, or use --runtime onnxruntime",
        )
