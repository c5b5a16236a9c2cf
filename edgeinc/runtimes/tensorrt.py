"""TensorRT: runs engines that were built on this device, versions 8.6, 10 and 11.

An engine is bound to the machine it was built on; its sidecar says which. Make one with
`edgeinc build FILE.onnx`, on the device.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.errors import EdgeincError, MissingError, UpdateError, as_typed
from edgeinc.runtimes import Availability, Runtime, Session
from edgeinc.runtimes._cuda import open_cuda
from edgeinc.runtimes._engine import check_fits, read_engine_card, this_machine
from edgeinc.runtimes._head import decode
from edgeinc.runtimes._on_gpu import OnGpu
from edgeinc.runtimes._refit import WAYS, engine_candidate, plan_engine_update, weights_for
from edgeinc.runtimes._tensorrt import Bindings
from edgeinc.runtimes._update import Candidate, Updatable
from edgeinc.schema import UpdatePlan, Way

Arrays = Mapping[str, npt.NDArray[Any]]
_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-bindings")


class TensorRT(Runtime):
    """Opens `FILE.engine`."""

    suffixes: ClassVar[tuple[str, ...]] = (".engine",)
    providers: ClassVar[tuple[str, ...]] = ("cuda", "cuda:N")

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
        """What an engine of any kind can do; `plan_engine_update` knows what one of them can."""
        return ("head", "rebuild")

    @classmethod
    def open(cls, path: Path, *, device: str = "auto", threads: int = 0) -> Session:
        """Open an engine; its hash and its machine are checked before it is deserialised.

        Raises:
            MissingError: There is no GPU, no driver or no TensorRT, or `device` is not CUDA.
            EdgeincError: The engine was changed, or was built for another machine or file.
        """
        return TensorRTSession(path, device=device, threads=threads)


@dataclass(frozen=True)
class Live:
    """All that an answer depends on, exchanged as one: an engine, and its inputs beside images."""

    engine: OnGpu
    rows: Arrays


class TensorRTSession(Updatable):
    """An engine, opened.

    Rows of a dynamic head are exchanged between two images. Other weights go into a second engine
    beside the one that serves, which takes its place after it answered right.

    Args:
        path: The engine; its sidecar lies beside it.
        device: `auto`, `cuda` or `cuda:N`.
        threads: Recorded as it is; a GPU needs none.
        constants: Values of the inputs beside `images`, by name. They stay on the GPU and can be
            replaced with `set_constants`.

    Raises:
        MissingError: There is no GPU, no driver or no TensorRT, or `device` is not CUDA.
        EdgeincError: The engine was changed, or was built for another machine or file.
        UsageError: A constant is missing, unknown, or of another type or shape.
    """

    runtime = "tensorrt"
    ways = WAYS

    def __init__(
        self, path: Path, *, device: str, threads: int, constants: Arrays | None = None
    ) -> None:
        index = device_index(device)
        card = read_engine_card(path)
        trt = load_tensorrt()
        cuda = open_cuda(index)
        check_fits(path, card, this_machine(cuda, trt.version))
        self._trt, self._cuda, self._engine_path, self._card = trt, cuda, path, card
        self.provider = f"cuda:{index}" if index else "cuda"
        self.threads, self.size = threads or host.cores(), card.artifact.size
        self._exchange = Lock()
        rows = decode(path, card.rows, card.artifact.head_shape) if card.rows else {}
        live = self._made({**rows, **(constants or {})}, None)
        self._serve(live, engine_candidate(path, card))

    def _made(self, rows: Arrays, weights: Arrays | None) -> Live:
        """The engine of the file on the GPU once more, as it was built or with other weights."""
        content = self._engine_path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self._card.sha256:
            raise EdgeincError(
                f"{self._engine_path} was replaced since it was opened",
                hint="open the new one as a session of its own",
            )
        engine = OnGpu(
            self._trt, self._cuda, self._engine_path, content, self.size, weights=weights
        )
        try:
            engine.put(rows)
        except EdgeincError:
            engine.close()
            raise
        return Live(engine, rows)

    @property
    def device_ms(self) -> float:
        """Milliseconds the GPU computed for the newest image, copies left out."""
        live: Live = self._live
        return live.engine.device_ms

    def set_constants(self, constants: Arrays) -> None:
        """Replace inputs beside `images`; the next image is computed with them.

        Args:
            constants: Name -> array; inputs that are left out keep what they have.

        Raises:
            UsageError: An input never got a value, or one is unknown or of another type or shape.
        """
        with self._exchange:
            live: Live = self._live
            rows = {**live.rows, **constants}
            live.engine.put(rows)
            self._live = replace(live, rows=rows)

    def _plan(self, new: Candidate) -> UpdatePlan:
        return plan_engine_update(self._candidate, self._card, new)

    def _loaded(self, new: Candidate, way: Way) -> Live:
        live: Live = self._live
        dynamic = new.card.head == "dynamic"
        rows = decode(new.path, new.entries, new.card.head_shape) if dynamic else live.rows
        if way == "head":
            live.engine.check(rows)
            return replace(live, rows=rows)
        if way == "weights":
            try:
                return self._made(rows, weights_for(new, self._card))
            except OSError as err:
                raise UpdateError(
                    f"{self._engine_path} cannot be read for a second engine: {err.strerror}",
                    hint="the old weights still serve; restore the file from a copy",
                ) from err
        raise UpdateError(
            f"{new.path} needs an engine of its own",
            hint=f"{as_typed('build', new.path)}, then open that engine",
        )

    def _right(self, live: Live, new: Candidate) -> float | None:
        try:
            return super()._right(live, new)
        except UpdateError:
            served: Live = self._live
            if live.engine is not served.engine:
                live.engine.close()
            raise

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment (N, H, W, 3) uint8 images one by one into (N, H, W) uint8 ids."""
        self.check(images)
        return self._answered(self._live, images)

    def _answered(self, live: Live, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return live.engine.run(images, live.rows)

    def prepared(self, images: npt.NDArray[np.uint8]) -> Callable[[], object]:
        """`run` without the copies: the batch lies on the GPU, the ids stay there."""
        self.check(images)
        live: Live = self._live
        return live.engine.prepared(images, live.rows)

    def gpu_mb(self) -> float:
        """MB of the GPU's memory that the engine which serves took, its first image included."""
        live: Live = self._live
        return live.engine.taken.bytes / 1e6

    def close(self) -> None:
        """Give the GPU's memory back. The session cannot be used after."""
        before = () if self._before is None else self._before[:1]
        for live in (self._live, *before):
            live.engine.close()


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


def _written_version(origin: str | None) -> str:
    """The version as the package's source states it: JetPack installs no metadata for it."""
    text = Path(origin).read_text(encoding="utf-8", errors="replace") if origin else ""
    found = re.search(r"^__version__ = [\"']([\w.]+)", text, re.MULTILINE)
    return found[1] if found else "unknown"
