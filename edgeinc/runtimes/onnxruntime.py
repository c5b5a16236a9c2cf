"""ONNX Runtime: runs exported .onnx files on the CPU, or on CUDA with onnxruntime-gpu."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.errors import EdgeincError, MissingError, UpdateError
from edgeinc.runtimes import Availability, Runtime, Session
from edgeinc.runtimes._card import CLASSES, LOGITS, verified
from edgeinc.runtimes._graph_session import Feeds, Graph, GraphSession, Live, batches
from edgeinc.runtimes._update import Candidate
from edgeinc.schema import Way

ERRORS_ONLY = 3
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FLOATS = (1, 10, 11)
"""`TensorProto.DataType` of weights: float, half and double."""
INSTALL = 'pip install "edgeinc[cpu]"'
REINSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu, then "


class OnnxRuntime(Runtime):
    """Opens `FILE.onnx`."""

    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    providers: ClassVar[tuple[str, ...]] = (CPU, CUDA)

    @classmethod
    def availability(cls) -> Availability:
        """Whether exactly one of the two packages is installed, whole; nothing is imported."""
        cpu, gpu = host.installed("onnxruntime"), host.installed("onnxruntime-gpu")
        spec = find_spec("onnxruntime")
        if spec is None:
            return Availability(False, reason="onnxruntime is not installed", fix=INSTALL)
        if cpu and gpu:
            return Availability(
                False,
                reason="onnxruntime and onnxruntime-gpu are both installed, over each other",
                fix=f'{REINSTALL}pip install "edgeinc[gpu]" or {INSTALL}',
            )
        # What is left after one of both was uninstalled: a folder that imports and does nothing.
        native = Path(spec.origin).parent / "capi" if spec.origin else None
        if native is None or not any(native.glob("onnxruntime_pybind11_state*")):
            return Availability(
                False,
                reason="onnxruntime is an empty shell, left over by an uninstall",
                fix=f"{REINSTALL}{INSTALL}",
            )
        return Availability(True, version=cpu or gpu)

    @classmethod
    def ways(cls) -> tuple[Way, ...]:
        """Weights are exchanged with onnx, where that is installed."""
        return ("head", "weights", "reload") if find_spec("onnx") else ("head", "reload")

    @classmethod
    def open(cls, path: Path, *, device: str = "auto", threads: int = 0) -> Session:
        """Open an exported file; its hash is verified where the card lies beside it.

        Raises:
            MissingError: The device is not here, or ONNX Runtime fell back to another.
            EdgeincError: The file is damaged, was changed, or is not an edgeinc export.
        """
        return OnnxSession(path, device=device, threads=threads)


class OnnxSession(GraphSession):
    """An exported file, opened."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, *, device: str, threads: int) -> None:
        self.threads, self._device = threads or host.cores(), device
        self._open(path, OnnxRuntime.ways())

    def _graph(self, new: Candidate, way: Way) -> Graph:
        if way == "weights":
            session = _exchanged(self._candidate, new, self._device, self.threads)
        else:
            session = _create(new.path, new.path, self._device, self.threads)
        self.provider = session.get_providers()[0]
        on_gpu = self.provider == CUDA
        inputs, outputs = session.get_inputs(), session.get_outputs()
        index = int(self._device.partition(":")[2] or 0)
        return Graph(
            infer=lambda answer, feeds: session.run([answer], feeds)[0],
            answers=tuple(output.name for output in outputs),
            as_float=inputs[0].type == "tensor(float)",
            bind=partial(_bound, session, index) if on_gpu else None,
        )

    def prepared(self, images: npt.NDArray[np.uint8]) -> Callable[[], object]:
        """`run` without the copies: on CUDA the batch lies on the GPU, and the answer stays there.

        Of a file that gives only logits the answer is the logits, not decided yet.
        """
        live: Live = self._live
        if live.graph.bind is None:
            return super().prepared(images)
        self.check(images)
        answer = CLASSES if CLASSES in live.graph.answers else LOGITS
        calls = [live.graph.bind(answer, feeds) for feeds, _ in batches(live, images)]

        def compute() -> None:
            for call in calls:
                call()

        return compute


def _bound(session: Any, index: int, answer: str, feeds: Feeds) -> Callable[[], object]:
    """A call of a session whose inputs lie on a GPU, and whose output stays there."""
    import onnxruntime

    binding = session.io_binding()
    for name, array in feeds.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", index)
        binding.bind_ortvalue_input(name, value)
    binding.bind_output(answer, "cuda", index)

    def compute() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()  # a launch returns before the work is done

    return compute


def _exchanged(old: Candidate, new: Candidate, device: str, threads: int) -> Any:
    """A session of the old file's graph with the new file's weights."""
    import onnx
    import onnxruntime

    verified(old.path, old.card)
    graph = onnx.load_model(old.path)
    weights = {t.name: t for t in onnx.load_model_from_string(new.content).graph.initializer}
    values, names = [], []
    for tensor in graph.graph.initializer:
        if tensor.data_type not in FLOATS:
            continue  # shapes and axes belong to the graph
        given = weights.get(tensor.name)
        if given is None or (given.data_type, given.dims) != (tensor.data_type, tensor.dims):
            raise UpdateError(
                f"{new.path} has no {tensor.name} of the shape of {old.path}",
                hint="export both files from the same run",
            )
        names.append(tensor.name)
        values.append(onnxruntime.OrtValue.ortvalue_from_numpy(onnx.numpy_helper.to_array(given)))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        # A place that is never read: the values are given to the session.
        tensor.external_data.add(key="location", value="given")
    return _create(graph.SerializeToString(), new.path, device, threads, (names, values))


def _create(
    source: Path | bytes,
    path: Path,
    device: str,
    threads: int,
    weights: tuple[list[str], list[Any]] | None = None,
) -> Any:
    """An InferenceSession on exactly the device that was asked for; `path` is for messages."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        if weights is not None:
            options.add_external_initializers(*weights)
        content = source if isinstance(source, bytes) else str(source)
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as err:
        # Its exceptions have no common base of their own; what it cannot load is a bad file.
        if not type(err).__module__.startswith("onnxruntime"):
            raise
        raise EdgeincError(
            f"ONNX Runtime cannot load {path}: {str(err).splitlines()[0]}",
            hint="restore the file from a copy, or export it again",
        ) from err
    if device.startswith("cuda") and session.get_providers()[0] != CUDA:
        raise MissingError(
            f"device {device} was asked for and ONNX Runtime fell back to "
            f"{session.get_providers()[0]}",
            hint="see `edgeinc doctor --for device`: CUDA and cuDNN of its version must be here",
        )
    return session


def _providers(device: str, known: list[str]) -> list[Any]:
    asked = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if asked is None:
        raise MissingError(f"unknown device '{device}'", hint="auto, cpu, cuda or cuda:N")
    if device == "cpu" or (device == "auto" and CUDA not in known):
        return [CPU]
    if CUDA not in known:
        raise MissingError(
            f"device {device} was asked for and this ONNX Runtime has no {CUDA}",
            hint='pip uninstall -y onnxruntime, then pip install "edgeinc[gpu]"',
        )
    return [(CUDA, {"device_id": int(asked[1] or 0)}), CPU]
