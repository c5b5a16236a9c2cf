"""A TensorRT engine on the GPU, with a stream and buffers of its own.

Rules: it computes one image after the other, for one thread at a time; weights are replaced before
anything is executed, never after; what it holds is given back by `close`, or when nobody has it any
more, so that an engine which was replaced lives until the last frame that began with it is done.

    engine = OnGpu(trt, cuda, path, path.read_bytes(), size)
    ids = engine.run(images, rows)
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from threading import Lock
from traceback import clear_frames
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinc.errors import EdgeincError, UsageError
from edgeinc.runtimes._card import CLASSES, IMAGES
from edgeinc.runtimes._cuda import TO_DEVICE, TO_HOST, Cuda, Taken
from edgeinc.runtimes._tensorrt import Bindings
from edgeinc.schema import Size

Arrays = Mapping[str, npt.NDArray[Any]]


class OnGpu:
    """An engine that can be executed.

    Args:
        trt: TensorRT.
        cuda: The GPU.
        path: Its file, for messages.
        content: What is in it; to load it is to execute code in it.
        size: (height, width) of its images.
        weights: New values of weights, by name; None leaves it as it was built.

    Attributes:
        device_ms: Milliseconds the GPU computed for the newest image, copies left out.
        taken: What it holds of the GPU's memory, kernels loaded by the first image included.

    Raises:
        MissingError: TensorRT cannot start here.
        EdgeincError: It does not take the engine or the weights, or the memory is used up.
    """

    def __init__(
        self,
        trt: Bindings,
        cuda: Cuda,
        path: Path,
        content: bytes,
        size: Size,
        *,
        weights: Arrays | None = None,
    ) -> None:
        self._trt, self._cuda, self._path, self._busy = trt, cuda, path, Lock()
        self.device_ms, self.taken = 0.0, Taken(cuda)
        self._rows: Arrays | None = None
        self._warm = False
        # What must go in an order lies here, and not in attributes: what gives it back may not
        # know this object, or it would keep it alive.
        self._held: dict[str, Any] = {}
        try:
            with self._its_turn(), ExitStack() as release, self.taken.watch():
                self._open(content, size, weights, release)
                self._close = weakref.finalize(self, release.pop_all().close)
        except EdgeincError as err:
            # Else the engine would hold its memory for as long as somebody keeps the error.
            clear_frames(err.__traceback__)
            raise
        self._close.atexit = False  # the driver gives everything back then, and may be gone

    def _open(self, content: bytes, size: Size, weights: Arrays | None, release: ExitStack) -> None:
        """Everything that lives on the GPU, given back in the reverse order."""
        cuda, trt, held = self._cuda, self._trt, self._held
        # The context goes before the engine and the engine before its runtime.
        for part in ("runtime", "engine", "context"):
            release.callback(held.pop, part, None)
        held["runtime"], held["engine"] = trt.deserialise(content)
        if weights is not None:
            trt.refit(held["engine"], weights)
        held["context"] = trt.context(held["engine"])
        self._stream = cuda.stream()
        release.callback(cuda.destroy_stream, self._stream)
        self._events = cuda.event(), cuda.event()
        for event in self._events:
            release.callback(cuda.destroy_event, event)
        self._tensors = {t.name: t for t in trt.tensors(held["engine"])}
        self._addresses: dict[str, int] = {}
        self._limits = {
            t.name: trt.limits(held["engine"], t.name) if -1 in t.shape else (t.shape, t.shape)
            for t in self._tensors.values()
            if t.input
        }
        shapes = {IMAGES: (1, *size, 3), CLASSES: (1, *size)}
        for tensor in self._tensors.values():
            shape = shapes.get(tensor.name) or self._limits[tensor.name][1]
            address = cuda.malloc(prod(shape) * tensor.dtype.itemsize)
            release.callback(cuda.free, address)
            self._addresses[tensor.name] = address
            held["context"].set_tensor_address(tensor.name, address)
        if -1 in self._tensors[IMAGES].shape:
            held["context"].set_input_shape(IMAGES, shapes[IMAGES])
        for name in (IMAGES, CLASSES):
            # Memory that the GPU copies from and to directly; the view goes before it.
            address = cuda.malloc_host(prod(shapes[name]))
            release.callback(cuda.free_host, address)
            memory = (ctypes.c_uint8 * prod(shapes[name])).from_address(address)
            held[name] = np.ctypeslib.as_array(memory).reshape(shapes[name])
            release.callback(held.pop, name, None)

    def replaceable(self) -> tuple[str, ...]:
        """Names of its weights that can be replaced; see `Bindings.replaceable`."""
        return self._trt.replaceable(self._held["engine"])

    @contextmanager
    def _its_turn(self) -> Iterator[None]:
        with self._busy:  # one engine, one set of buffers
            self._cuda.use()
            yield

    # ------------------------------------------------------------------------------ rows

    def put(self, rows: Arrays) -> None:
        """Copy the inputs beside `images` to the GPU; the next image is computed with them.

        Raises:
            UsageError: As `check`.
        """
        with self._its_turn():
            self._put(rows)

    def check(self, rows: Arrays) -> dict[str, npt.NDArray[Any]]:
        """The inputs beside `images`, as they can be copied.

        Raises:
            UsageError: One is missing, unknown, or of another type or shape.
        """
        wanted = self._limits.keys() - {IMAGES}
        if rows.keys() != wanted:
            said = [f"{name} has no value" for name in sorted(wanted - rows.keys())]
            said += [f"it has no input {name}" for name in sorted(rows.keys() - wanted)]
            raise UsageError(
                f"{self._path}: {'; '.join(said)}",
                hint=f"inputs beside {IMAGES}: {', '.join(sorted(wanted)) or 'none'}",
            )
        return {name: self._fitting(name, array) for name, array in rows.items()}

    def _put(self, rows: Arrays) -> None:
        for name, array in self.check(rows).items():
            target, source = self._addresses[name], array.ctypes.data
            self._cuda.copy(target, source, array.nbytes, TO_DEVICE, self._stream)
            self._cuda.synchronise(self._stream)  # the array may be a copy that goes now
            if -1 in self._tensors[name].shape:
                self._held["context"].set_input_shape(name, array.shape)
        self._rows = rows

    def _fitting(self, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        tensor, (smallest, largest) = self._tensors[name], self._limits[name]
        within = len(array.shape) == len(largest) and all(
            low <= n <= high for low, n, high in zip(smallest, array.shape, largest, strict=True)
        )
        if array.dtype != tensor.dtype or not within:
            raise UsageError(
                f"{self._path}: input {name} takes {tensor.dtype} of {_range(smallest, largest)}, "
                f"not {array.dtype} {array.shape}",
                hint="an engine for more classes: edgeinc build FILE.onnx --max-rows N",
            )
        return np.ascontiguousarray(array)

    # ------------------------------------------------------------------------------ images

    def run(self, images: npt.NDArray[np.uint8], rows: Arrays) -> npt.NDArray[np.uint8]:
        """Ids of images, one by one: (N, H, W, 3) uint8 -> (N, H, W) uint8."""
        cuda, stream, at = self._cuda, self._stream, self._addresses
        ids = np.empty(images.shape[:3], np.uint8)
        with self._its_turn():
            image, answer = self._held[IMAGES], self._held[CLASSES]
            self._use(rows)
            for i in range(len(images)):
                image[0] = images[i]
                cuda.copy(at[IMAGES], image.ctypes.data, image.nbytes, TO_DEVICE, stream)
                self._execute(at[IMAGES])
                cuda.copy(answer.ctypes.data, at[CLASSES], answer.nbytes, TO_HOST, stream)
                self._wait()
                ids[i] = answer[0]
        return ids

    def prepared(self, images: npt.NDArray[np.uint8], rows: Arrays) -> Callable[[], object]:
        """A call that computes images which lie on the GPU already, and leaves the ids there.

        Their memory is given back with the call.
        """
        cuda, places, release = self._cuda, [], ExitStack()
        with self._its_turn():
            for image in np.ascontiguousarray(images):
                places.append(cuda.malloc(image.nbytes))
                release.callback(cuda.free, places[-1])
                cuda.copy(places[-1], image.ctypes.data, image.nbytes, TO_DEVICE, self._stream)
                cuda.synchronise(self._stream)

        def compute() -> None:
            with self._its_turn():
                self._use(rows)
                for place in places:
                    self._execute(place)
                    self._wait()

        weakref.finalize(compute, release.close).atexit = False
        return compute

    def _use(self, rows: Arrays) -> None:
        if rows is not self._rows:
            self._put(rows)

    def _execute(self, image: int) -> None:
        """Queue one image that lies at an address of the GPU."""
        if self._warm:
            self._queue(image)
            return
        with self.taken.watch():  # CUDA loads a kernel when it is first executed
            self._queue(image)
            self._cuda.synchronise(self._stream)
        self._warm = True

    def _queue(self, image: int) -> None:
        start, end = self._events
        self._held["context"].set_tensor_address(IMAGES, image)
        self._cuda.record(start, self._stream)
        self._trt.execute(self._held["context"], self._stream)
        self._cuda.record(end, self._stream)

    def _wait(self) -> None:
        """Until what is queued is done."""
        self._cuda.synchronise(self._stream)
        self.device_ms = self._cuda.elapsed_ms(*self._events)

    def close(self) -> None:
        """Give everything back. The engine cannot be used after."""
        self._close()


def _range(smallest: tuple[int, ...], largest: tuple[int, ...]) -> str:
    pairs = zip(smallest, largest, strict=True)
    return f"({', '.join(str(low) if low == high else f'{low} to {high}' for low, high in pairs)})"
