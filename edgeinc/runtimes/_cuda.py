"""The few calls of the CUDA runtime that a session needs, through ctypes.

Rules: addresses are plain integers; every call that fails becomes one clear error; `libcudart` is
taken from where it is: the system (JetPack), NVIDIA's pip packages, or /usr/local/cuda. Of several,
the newest that the driver can run is used: a newer one would refuse to work.

    cuda = open_cuda()
    address = cuda.malloc(1024)
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeinc.errors import EdgeincError, MissingError

MAJORS = (13, 12, 11)
TO_DEVICE, TO_HOST = 1, 2
"""Directions of `copy`: `cudaMemcpyHostToDevice` and `cudaMemcpyDeviceToHost`."""

_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18
"""`cudaDevAttr...`: compute capability, and whether GPU and CPU share their memory."""
_PROPERTIES_BYTES = 8192
"""More than `cudaDeviceProp` of any version has; it begins with the name in each of them."""
_NAME_BYTES = 256
_OUT_OF_MEMORY = 2
_MISSING = {
    3: "CUDA cannot start",
    35: "the NVIDIA driver is missing, or older than this CUDA needs",
    100: "there is no CUDA GPU",
    101: "there is no GPU of this number",
    802: "the GPU is not ready",
    803: "driver and CUDA library do not fit each other",
    804: "this GPU needs a driver of the same release",
}
"""`cudaError` -> what it means for the user: the machine lacks something."""


def open_cuda(device: int = 0) -> Cuda:
    """The CUDA runtime of this machine, working on one GPU.

    Args:
        device: Number of the GPU.

    Raises:
        MissingError: No library, no driver, or no such GPU.
    """
    tried = []
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        tried.append(library)
        if _runs_here(Cuda(library)):
            return Cuda(library, device)
    if not tried:
        raise MissingError(
            "the CUDA runtime (libcudart) is not on this machine",
            hint="JetPack and CUDA bring it; else `pip install nvidia-cuda-runtime-cu12`",
        )
    return Cuda(tried[-1], device)  # its own error says what is wrong


def _runs_here(cuda: Cuda) -> bool:
    """Whether the driver runs this version of CUDA; minor versions are compatible."""
    try:
        return cuda.driver_version() // 1000 >= cuda.library_version() // 1000
    except MissingError:  # CUDA 11 does not even tell its version without a driver
        return False


def _candidates() -> Iterator[str]:
    """Names and paths of libcudart to try, the best first."""
    if sys.platform == "win32":
        yield from (f"cudart64_{major}.dll" for major in (13, 12, 110))
        return
    yield from (f"libcudart.so.{major}" for major in MAJORS[:2])
    yield "libcudart.so.11.0"
    spec = find_spec("nvidia")
    folders = [Path(f) for f in (spec.submodule_search_locations or ())] if spec else []
    for folder in [*folders, Path("/usr/local/cuda")]:
        found = [*folder.glob("*/lib/libcudart.so.*"), *folder.glob("lib64/libcudart.so.*")]
        yield from (str(path) for path in sorted(found, key=_newest_first))


def _newest_first(path: Path) -> tuple[int, ...]:
    numbers = path.name.partition(".so.")[2].split(".")
    return tuple(-int(n) for n in numbers if n.isdigit())


class Cuda:
    """One GPU through `libcudart`.

    Args:
        library: The loaded library.
        device: Number of the GPU; None asks only for versions, which needs no GPU.

    Raises:
        MissingError: No driver, or no such GPU.
    """

    def __init__(self, library: Any, device: int | None = None) -> None:
        self._library = library
        self.device = device or 0
        if device is not None:
            count = ctypes.c_int()
            self._call("cudaGetDeviceCount", ctypes.byref(count))
            if not 0 <= device < count.value:
                raise MissingError(
                    f"there is no GPU {device}", hint=f"GPUs on this machine: {count.value}"
                )
            self.use()

    def use(self) -> None:
        """Work on this GPU in the calling thread: CUDA keeps the choice for each thread."""
        self._call("cudaSetDevice", ctypes.c_int(self.device))

    # ------------------------------------------------------------------------------ facts

    def library_version(self) -> int:
        """Version of the library: 12060 is 12.6."""
        return self._version("cudaRuntimeGetVersion")

    def driver_version(self) -> int:
        """The newest CUDA that the driver can run: 12060 is 12.6, 0 is no driver."""
        return self._version("cudaDriverGetVersion")

    def name(self) -> str:
        """The GPU's name."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, ctypes.c_int(self.device))
        return properties.raw[:_NAME_BYTES].split(b"\0")[0].decode(errors="replace")

    def compute_capability(self) -> str:
        """The GPU's generation, such as `8.7`."""
        return f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}"

    def integrated(self) -> bool:
        """Whether the GPU works in the memory of the CPU, as on a Jetson."""
        return bool(self._attribute(_INTEGRATED))

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the GPU's memory."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    # ------------------------------------------------------------------------------ memory

    def malloc(self, size: int) -> int:
        """Address of `size` bytes on the GPU.

        Raises:
            EdgeincError: The GPU's memory is used up.
        """
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value or 0

    def free(self, address: int) -> None:
        """Give back what `malloc` gave."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def malloc_host(self, size: int) -> int:
        """Address of `size` bytes on the host that the GPU copies from and to directly.

        Raises:
            EdgeincError: The memory is used up.
        """
        address = ctypes.c_void_p()
        self._call("cudaMallocHost", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value or 0

    def free_host(self, address: int) -> None:
        """Give back what `malloc_host` gave."""
        self._call("cudaFreeHost", ctypes.c_void_p(address))

    def copy(self, target: int, source: int, size: int, direction: int, stream: int) -> None:
        """Queue a copy on a stream; both ends stay untouched until it is synchronised.

        Args:
            target: Address to write to.
            source: Address to read from.
            size: Bytes.
            direction: `TO_DEVICE` or `TO_HOST`.
            stream: Of `stream()`.
        """
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(direction),
            ctypes.c_void_p(stream),
        )

    # ------------------------------------------------------------------------------ order

    def stream(self) -> int:
        """A new queue of work."""
        handle = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(handle))
        return handle.value or 0

    def destroy_stream(self, stream: int) -> None:
        """Give back what `stream` gave."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def synchronise(self, stream: int) -> None:
        """Wait until everything in a stream is done; faults of queued work are raised here."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def event(self) -> int:
        """A new mark in time."""
        handle = ctypes.c_void_p()
        self._call("cudaEventCreate", ctypes.byref(handle))
        return handle.value or 0

    def destroy_event(self, event: int) -> None:
        """Give back what `event` gave."""
        self._call("cudaEventDestroy", ctypes.c_void_p(event))

    def record(self, event: int, stream: int) -> None:
        """Take the time when a stream gets here."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two marks that were passed."""
        value = ctypes.c_float()
        marks = ctypes.c_void_p(start), ctypes.c_void_p(end)
        self._call("cudaEventElapsedTime", ctypes.byref(value), *marks)
        return value.value

    # ------------------------------------------------------------------------------ calls

    def _version(self, function: str) -> int:
        value = ctypes.c_int()
        self._call(function, ctypes.byref(value))
        return value.value

    def _attribute(self, attribute: int) -> int:
        value = ctypes.c_int()
        which = ctypes.c_int(attribute), ctypes.c_int(self.device)
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), *which)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise self._error(function, code)

    def _error(self, function: str, code: int) -> EdgeincError:
        said = f"CUDA error {code} in {function}"
        if code == _OUT_OF_MEMORY:
            return EdgeincError(
                f"the memory of the GPU is used up ({said})",
                hint="end other programs that use it (`nvidia-smi`, on a Jetson `tegrastats`)",
            )
        if code in _MISSING:
            return MissingError(f"{_MISSING[code]} ({said})", hint="edgeinc doctor --for device")
        get_name = self._library.cudaGetErrorName
        get_name.restype = ctypes.c_char_p
        name = (get_name(ctypes.c_int(code)) or b"").decode(errors="replace")
        return EdgeincError(
            f"the GPU reports {name or 'an unknown fault'} ({said})",
            hint="repeat; if it stays, `dmesg | grep -i -e nvrm -e gpu` tells what the driver saw",
        )


class Taken:
    """Counts what work takes of a GPU's memory and keeps.

    CUDA tells how much of the whole GPU is free, so what other programs take or give back in the
    same moment counts too. On a Jetson that is all that runs.

    Args:
        cuda: The GPU.

    Attributes:
        bytes: What all work so far has kept.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self.bytes = cuda, 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count what the block takes."""
        before, _ = self._cuda.memory()
        yield
        self.bytes += max(0, before - self._cuda.memory()[0])


def version_text(version: int) -> str:
    """12060 as `12.6`; "" for 0."""
    return f"{version // 1000}.{version % 1000 // 10}" if version else ""
