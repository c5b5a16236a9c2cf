"""ONNX Runtime: runs exported .onnx files on the CPU, or on CUDA with onnxruntime-gpu."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.errors import EdgeincError, MissingError, UpdateError
from edgeinc.runtimes import Availability, Runtime, Session
from edgeinc.runtimes._card import CLASSES, IMAGES, LOGITS, verified
from edgeinc.runtimes._head import Rows, decode
from edgeinc.runtimes._update import Candidate, Updatable, read_candidate
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


@dataclass(frozen=True)
class _Live:
    """All that an answer depends on, exchanged as one."""

    session: Any
    rows: Rows
    most: int
    fewest: int
    as_float: bool
    answers: tuple[str, ...]
    classes: int


class OnnxSession(Updatable):
    """An exported file, opened."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, *, device: str, threads: int) -> None:
        candidate = read_candidate(path)
        self.threads, self._device = threads or host.cores(), device
        self._exchange = Lock()
        self.ways = OnnxRuntime.ways()
        self.size = candidate.card.size
        self._serve(self._loaded(candidate, "reload"), candidate)
        self.provider = self._live.session.get_providers()[0]

    def _loaded(self, new: Candidate, way: Way) -> _Live:
        card = new.card
        rows = decode(new.path, new.entries, card.head_shape) if card.head == "dynamic" else {}
        if way == "head":
            live: _Live = self._live
            return replace(live, rows=rows, classes=len(card.classes))
        if way == "weights":
            session = _exchanged(self._candidate, new, self._device, self.threads)
        else:
            session = _create(new.path, new.path, self._device, self.threads)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        fewest, _, most = card.batch
        return _Live(
            session=session,
            rows=rows,
            most=most,
            fewest=fewest,
            as_float=inputs[0].type == "tensor(float)",
            answers=tuple(output.name for output in outputs),
            classes=len(card.classes),
        )

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment (N, H, W, 3) uint8 images into (N, H, W) uint8 ids, in batches that fit."""
        self.check(images)
        return self._answered(self._live, images)

    def _answered(self, live: _Live, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if not len(images):
            return np.empty((0, *self.size), np.uint8)
        if CLASSES in live.answers:
            return _computed(live, images, CLASSES)
        ids: npt.NDArray[np.uint8] = _computed(live, images, LOGITS).argmax(1).astype(np.uint8)
        return ids

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scores of every class, (N, C, H, W) float32, where the file was exported with them."""
        live = self._live
        if LOGITS not in live.answers:
            return super().logits(images)
        self.check(images)
        if not len(images):
            return np.empty((0, live.classes, *self.size), np.float32)
        return _computed(live, images, LOGITS)[:, : live.classes]


def _computed(live: _Live, images: npt.NDArray[np.uint8], answer: str) -> npt.NDArray[Any]:
    """One output of the graph for all images; the last batch is filled up where it must be."""
    fed: npt.NDArray[Any] = images.astype(np.float32) if live.as_float else images
    parts = []
    for start in range(0, len(fed), live.most):
        batch = fed[start : start + live.most]
        missing = max(0, live.fewest - len(batch))
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)])
        found = live.session.run([answer], {IMAGES: batch, **live.rows})[0]
        parts.append(found[: len(found) - missing])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


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
