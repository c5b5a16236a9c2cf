"""TensorRT: runs engines that were built on this device, versions 8.6, 10 and 11.

An engine is bound to the machine it was built on; its sidecar says which. Make one with
`edgeinc build FILE.onnx`, on the device.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.errors import MissingError, UpdateError, UsageError
from edgeinc.runtimes import Availability, Runtime, Session
from edgeinc.runtimes._cuda import TO_DEVICE, TO_HOST, open_cuda
from edgeinc.runtimes._engine import check_fits, read_engine_card, this_machine
from edgeinc.runtimes._head import decode
from edgeinc.runtimes._tensorrt import Bindings
from edgeinc.runtimes._update import Candidate, Updatable
from edgeinc.schema import Way

Arrays = Mapping[str, npt.NDArray[Any]]
IMAGES, CLASSES = "images", "classes"
_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-bindings")


class TensorRT(Runtime):
    """Opens `FILE.engine`."""

    suffixes: ClassVar[tuple[str, ...]] = (".engine",)

    @classmethod
    def availability(cls) -> Availability:
        """Whether the package is installed; nothing is imported and no GPU is asked for."""
        spec = find_spec("tensorrt")
        if spec is None:
            fix = 'pip install "edgeinc[trt]"'
            if host.l4t():  # JetPack brings it as a system package
                fix = "python3 -m venv --system-site-packages .venv, then pip install edgeinc"
            return Availability(False, reason="tensorrt is not installed", fix=fix)
        version = next((v for name in _PACKAGES if (v := host.installed(name))), "")
        return Availability(True, version=version or _written_version(spec.origin))

    @classmethod
    def ways(cls) -> tuple[Way, ...]:
        """Rows are an input of the engine; all else needs another engine."""
        return ("head", "rebuild")

    @classmethod
    def open(cls, path: Path, *, device: str = "auto", threads: int = 0) -> Session:
        """Open an engine; its hash and its machine are checked before it is deserialised.

        Raises:
            MissingError: There is no GPU, no driver or no TensorRT, or `device` is not CUDA.
            EdgeincError: The engine was changed, or was built for another machine or file.
        """
        return TensorRTSession(path, device=device, threads=threads)


class TensorRTSession(Updatable):
    """An engine, opened. Rows of a dynamic head are exchanged between two images.

    Args:
        path: The engine; its sidecar lies beside it.
        device: `auto`, `cuda` or `cuda:N`.
        threads: Recorded as it is; a GPU needs none.
        constants: Values of the inputs beside `images`, by name. They stay on the GPU and can be
            replaced with `set_constants`.

    Attributes:
        device_ms: Milliseconds the GPU computed for the newest image, copies left out.

    Raises:
        MissingError: There is no GPU, no driver or no TensorRT, or `device` is not CUDA.
        EdgeincError: The engine was changed, or was built for another machine or file.
        UsageError: A constant is missing, unknown, or of another type or shape.
    """

    runtime = "tensorrt"
    _on_gpu: Arrays | None = None

    def __init__(
        self, path: Path, *, device: str, threads: int, constants: Arrays | None = None
    ) -> None:
        index = device_index(device)
        card = read_engine_card(path)
        trt = load_tensorrt()
        cuda = open_cuda(index)
        check_fits(path, card, this_machine(cuda, trt.version))
        self._trt, self._cuda = trt, cuda
        self.provider = f"cuda:{index}" if index else "cuda"
        self.threads = threads or host.cores()
        self.path, self.size, self.device_ms = path, card.artifact.size, 0.0
        self.ways = TensorRT.ways()
        self._exchange, self._busy = Lock(), Lock()
        rows = decode(path, card.rows, card.artifact.head_shape) if card.rows else {}
        live = {**rows, **(constants or {})}
        with ExitStack() as release:
            self._open(path.read_bytes(), release)
            self._put(live)
            self._release = release.pop_all()
        self._serve(live, Candidate(path, replace(card.artifact, sha256=card.sha256), b"", {}))

    def _open(self, content: bytes, release: ExitStack) -> None:
        """Everything that lives on the GPU, given back in the reverse order."""
        cuda, trt = self._cuda, self._trt
        self._runtime, self._engine = trt.deserialise(content)
        self._context = trt.context(self._engine)
        # The context goes before the engine and the engine before its runtime.
        for part in ("_runtime", "_engine", "_context"):
            release.callback(self.__dict__.pop, part, None)
        self._stream = cuda.stream()
        release.callback(cuda.destroy_stream, self._stream)
        self._events = cuda.event(), cuda.event()
        for event in self._events:
            release.callback(cuda.destroy_event, event)
        self._tensors = {t.name: t for t in trt.tensors(self._engine)}
        self._addresses: dict[str, int] = {}
        self._limits = {
            t.name: trt.limits(self._engine, t.name) if -1 in t.shape else (t.shape, t.shape)
            for t in self._tensors.values()
            if t.input
        }
        self._constants = {n for n, t in self._tensors.items() if t.input and n != IMAGES}
        shapes = {IMAGES: (1, *self.size, 3), CLASSES: (1, *self.size)}
        for tensor in self._tensors.values():
            shape = shapes.get(tensor.name) or self._limits[tensor.name][1]
            address = cuda.malloc(prod(shape) * tensor.dtype.itemsize)
            release.callback(cuda.free, address)
            self._addresses[tensor.name] = address
            self._context.set_tensor_address(tensor.name, address)
        if -1 in self._tensors[IMAGES].shape:
            self._context.set_input_shape(IMAGES, shapes[IMAGES])
        self._image = self._pinned(shapes[IMAGES], release)
        self._ids = self._pinned(shapes[CLASSES], release)
        for part in ("_image", "_ids"):  # views of memory that is gone after this
            release.callback(self.__dict__.pop, part, None)

    def _pinned(self, shape: tuple[int, ...], release: ExitStack) -> npt.NDArray[np.uint8]:
        """An array in memory that the GPU copies from and to directly."""
        address = self._cuda.malloc_host(prod(shape))
        release.callback(self._cuda.free_host, address)
        memory = (ctypes.c_uint8 * prod(shape)).from_address(address)
        return np.ctypeslib.as_array(memory).reshape(shape)

    def set_constants(self, constants: Arrays) -> None:
        """Replace inputs beside `images`; the next image is computed with them.

        Args:
            constants: Name -> array; inputs that are left out keep what they have.

        Raises:
            UsageError: An input never got a value, or one is unknown or of another type or shape.
        """
        with self._busy:
            self._put(live := {**self._live, **constants})
            self._live = live

    def _put(self, constants: Arrays) -> None:
        """Copy every input beside `images` to the GPU, or nothing."""
        if constants.keys() != self._constants:
            missing, unknown = (
                self._constants - constants.keys(),
                constants.keys() - self._constants,
            )
            said = [f"{n} has no value" for n in sorted(missing)]
            said += [f"it has no input {n}" for n in sorted(unknown)]
            raise UsageError(
                f"{self.path}: {'; '.join(said)}",
                hint=f"inputs beside {IMAGES}: {', '.join(sorted(self._constants)) or 'none'}",
            )
        arrays = {name: self._fitting(name, array) for name, array in constants.items()}
        for name, array in arrays.items():
            target, source = self._addresses[name], array.ctypes.data
            self._cuda.copy(target, source, array.nbytes, TO_DEVICE, self._stream)
            if -1 in self._tensors[name].shape:
                self._context.set_input_shape(name, array.shape)
        self._cuda.synchronise(self._stream)  # the arrays may go as soon as this returns
        self._on_gpu = constants

    def _fitting(self, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        tensor, (smallest, largest) = self._tensors[name], self._limits[name]
        within = len(array.shape) == len(largest) and all(
            low <= n <= high for low, n, high in zip(smallest, array.shape, largest, strict=True)
        )
        if array.dtype != tensor.dtype or not within:
            raise UsageError(
                f"{self.path}: input {name} takes {tensor.dtype} of {_range(smallest, largest)}, "
                f"not {array.dtype} {array.shape}",
                hint="an engine for more classes: edgeinc build FILE.onnx --max-rows N",
            )
        return np.ascontiguousarray(array)

    def _loaded(self, new: Candidate, way: Way) -> Arrays:
        if way != "head":
            raise UpdateError(
                f"{new.path} needs an engine of its own",
                hint=f"edgeinc build {new.path}, then open that engine",
            )
        return decode(new.path, new.entries, new.card.head_shape)

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment (N, H, W, 3) uint8 images one by one into (N, H, W) uint8 ids."""
        self.check(images)
        return self._answered(self._live, images)

    def _answered(self, live: Arrays, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        ids = np.empty(images.shape[:3], np.uint8)
        with self._busy:  # one engine, one set of buffers
            if live is not self._on_gpu:
                self._put(live)
            for i in range(len(images)):
                self._image[0] = images[i]
                self._execute()
                ids[i] = self._ids[0]
        return ids

    def _execute(self) -> None:
        cuda, stream, (start, end) = self._cuda, self._stream, self._events
        at = self._addresses
        cuda.copy(at[IMAGES], self._image.ctypes.data, self._image.nbytes, TO_DEVICE, stream)
        cuda.record(start, stream)
        self._trt.execute(self._context, stream)
        cuda.record(end, stream)
        cuda.copy(self._ids.ctypes.data, at[CLASSES], self._ids.nbytes, TO_HOST, stream)
        cuda.synchronise(stream)
        self.device_ms = cuda.elapsed_ms(start, end)

    def close(self) -> None:
        """Give the GPU's memory back. The session cannot be used after."""
        self._release.close()


def load_tensorrt() -> Bindings:
    """TensorRT as it is installed here.

    Raises:
        MissingError: It is not, or it cannot be imported.
    """
    try:
        return Bindings(import_module("tensorrt"))
    except (ImportError, OSError) as err:  # OSError: the bindings are here, a library is not
        state = TensorRT.availability()
        reason = f"TensorRT cannot be imported: {err}" if state.ok else state.reason
        raise MissingError(reason, hint=state.fix or "edgeinc doctor --for device") from err


def device_index(device: str) -> int:
    """The number of the GPU that `auto`, `cuda` or `cuda:N` names.

    Raises:
        MissingError: Another device; TensorRT has no CPU to fall back to.
    """
    asked = re.fullmatch(r"(?:auto|cuda)(?::(\d+))?", device)
    if asked is None or (asked[1] and device.startswith("auto")):
        said = "computes on CUDA only" if device == "cpu" else "knows auto, cuda and cuda:N"
        raise MissingError(
            f"device {device or '(empty)'} was asked for and TensorRT {said}",
            hint="leave out --device, or open the .onnx file",
        )
    return int(asked[1] or 0)


def _range(smallest: tuple[int, ...], largest: tuple[int, ...]) -> str:
    pairs = zip(smallest, largest, strict=True)
    return f"({', '.join(str(low) if low == high else f'{low} to {high}' for low, high in pairs)})"


def _written_version(origin: str | None) -> str:
    """The version as the package's source states it: JetPack installs no metadata for it."""
    text = Path(origin).read_text(encoding="utf-8", errors="replace") if origin else ""
    found = re.search(r"^__version__ = [\"']([\w.]+)", text, re.MULTILINE)
    return found[1] if found else "unknown"
