"""What executes an artifact: one file per runtime, each opens a file as a `Session`.

Rules: a session takes uint8 RGB images in NHWC and returns uint8 class ids; preprocessing and the
decision rule are inside, so nobody can normalise twice; a runtime that is missing says why and
how to get it, and one that was asked for is never replaced by another. torch is imported only by
`torch.py`.

    with open_artifact("model.onnx") as session:
        ids = session.run(images)          # (N, H, W, 3) uint8 -> (N, H, W) uint8
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgeinc import registry
from edgeinc.errors import MissingError, UsageError
from edgeinc.runs import open_run
from edgeinc.schema import ClassTable, Size, UpdateResult, Way

__all__ = [
    "Availability",
    "Runtime",
    "Session",
    "is_provider",
    "open_artifact",
    "providers",
    "usable",
]


@dataclass(frozen=True)
class Availability:
    """Whether a runtime works on this machine; if not, why, and the command that mends it."""

    ok: bool
    version: str = ""
    reason: str = ""
    fix: str = ""


class Session(ABC):
    """An opened artifact, closed by `close()` or by leaving a `with` block.

    Attributes:
        runtime: Name of the runtime.
        provider: What really executes (`cpu`, `cuda`, an execution provider's name).
        precision: `fp32`, `bf16`, `fp16` or `int8`.
        size: (height, width) of the images it takes.
        table: The classes of the ids it returns.
        step: Step of the run it was made from.
        path: The file.
        sha256: Hash of the weights or file that is executed.
        threads: Threads it computes with.
    """

    runtime: str
    provider: str
    precision: str
    size: Size
    table: ClassTable
    step: int
    path: Path
    sha256: str
    threads: int

    @abstractmethod
    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment a batch.

        Args:
            images: (N, H, W, 3) uint8 RGB, H and W equal to `size`.

        Returns:
            (N, H, W) uint8 class ids.

        Raises:
            UsageError: The images have another shape or type.
        """

    def prepared(self, images: npt.NDArray[np.uint8]) -> Callable[[], object]:
        """A call that computes a batch which already lies where the network reads it.

        Each call computes once and returns when the ids are there, still on the device: it is
        `run` without the copies. On a CPU there are none, so there it is `run`, which is what a
        session has that does not override this.

        Args:
            images: (N, H, W, 3) uint8 RGB, H and W equal to `size`. A session with one buffer may
                put them over those of an earlier call.

        Raises:
            UsageError: The images have another shape or type.
        """
        self.check(images)
        return lambda: self.run(images)

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scores of every class for a batch: `run` answers with the highest.

        Args:
            images: (N, H, W, 3) uint8 RGB, H and W equal to `size`.

        Returns:
            (N, C, H, W) float32.

        Raises:
            MissingError: What was opened gives nothing but its decision.
            UsageError: The images have another shape or type.
        """
        raise MissingError(
            f"{self.path} decides inside its graph and gives no logits",
            hint="evaluate the run instead: edgeinc eval RUN --per-task",
        )

    def gpu_mb(self) -> float | None:
        """MB of a GPU's memory that the session took: when it was opened and by its first image.

        None where there is no GPU, or the runtime cannot tell.
        """
        return None

    def update(
        self,
        path: str | os.PathLike[str],
        *,
        at_most: Way = "reload",
        between: AbstractContextManager[object] | None = None,
    ) -> UpdateResult:
        """Serve another file from the next call on, by the cheapest way there is.

        Calls in other threads go on meanwhile; each is computed by the old file or by the new one.

        Args:
            path: The new file; sizes, batch and kind of answer are those of the old one.
            at_most: The dearest way that is allowed.
            between: Held during the exchange itself, for a caller who wants to know between which
                two of its calls that was; None waits for nobody.

        Raises:
            UpdateError: The file was refused; the old one still serves.
            UsageError: There is no such file.
            MissingError: This runtime cannot exchange what it serves.
        """
        raise MissingError(
            f"the {self.runtime} runtime cannot exchange what it serves",
            hint="open the new file as a session of its own",
        )

    def rollback(self) -> None:
        """Serve again what was served before the newest update; twice brings that back.

        Raises:
            UsageError: There was no update.
        """
        raise UsageError("there is nothing to go back to", hint="no update was made")

    def run_before(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """What was served before the newest update answers to a batch; see `run`.

        Raises:
            UsageError: There was no update, or the images have another shape or type.
        """
        raise UsageError("there is nothing to compare with", hint="no update was made")

    def close(self) -> None:
        """Release what the session holds."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def check(self, images: npt.NDArray[np.uint8]) -> None:
        """Refuse images this session cannot take; every `run` calls it first.

        Raises:
            UsageError: Wrong shape or type, with the expected ones.
        """
        shape = (*self.size, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise UsageError(
                f"a session takes uint8 images of shape (N, {shape[0]}, {shape[1]}, 3), "
                f"not {images.dtype} {images.shape}",
                hint="resize the images first, for example with cv2.resize",
            )


class Runtime(ABC):
    """A plug-in: what it can open and whether it is here."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    """File suffixes it opens; "" stands for a step folder of a run."""
    unasked: ClassVar[bool] = True
    """Whether a benchmark of a run takes it without its being named."""
    providers: ClassVar[tuple[str, ...]] = ()
    """What its sessions of exported files name as `provider`; `:N` stands for 1 and on. What no
    runtime names here cannot be demanded of devices."""

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Look for the runtime on this machine, cheaply and without side effects."""

    @classmethod
    def ways(cls) -> tuple[Way, ...]:
        """How a session of it can come to serve another file, the cheapest first."""
        return ("rebuild",)

    @classmethod
    @abstractmethod
    def open(cls, path: Path, *, device: str = "auto", threads: int = 0) -> Session:
        """Open an artifact.

        Args:
            path: The file or step folder.
            device: `auto`, `cpu`, `cuda` or `cuda:N`; an explicit device is never replaced.
            threads: Threads to compute with; 0 takes every core of this process.

        Raises:
            MissingError: The runtime or the device is not here.
            EdgeincError: The file or its card is missing or damaged.
        """


def providers() -> dict[str, tuple[str, ...]]:
    """What exported files can be computed on, by runtime; whether it is here is not asked."""
    found = {name: registry.load("runtimes", name).providers for name in registry.names("runtimes")}
    return {name: names for name, names in found.items() if names}


def is_provider(word: str) -> bool:
    """Whether a session of some runtime can name this as its provider."""
    names = {re.escape(name) for of in providers().values() for name in of}
    return any(re.fullmatch(name.replace(":N", ":[1-9][0-9]{0,2}"), word) for name in names)


def open_artifact(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    runtime: str | None = None,
    device: str = "auto",
    threads: int = 0,
) -> Session:
    """Open an exported file, or a step of a run, as a session.

    Args:
        path: `model.onnx`, `RUN/step-N`, or `RUN` for its newest step.
        step: Step of `RUN` to open instead of the newest.
        runtime: Name of the runtime; None takes the one that opens files of this suffix.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads to compute with; 0 takes every core of this process.

    Raises:
        UsageError: There is no such file, or no runtime opens it.
        MissingError: The runtime or the device is not on this machine.
        EdgeincError: The file, its card or the run is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"no such run or artifact: {path}", hint="check the path")
    if (path / "run.json").is_file():
        run = open_run(path)
        path = run.folder(run.step(step).index)
    elif step is not None:
        raise UsageError(f"{path} is not a run and has no step {step}", hint="leave out --step")
    suffix = "" if path.is_dir() else path.suffix
    fitting = [
        name
        for name in ([runtime] if runtime else registry.names("runtimes"))
        if suffix in registry.load("runtimes", name).suffixes
    ]
    if not fitting:
        asked = f"the {runtime} runtime" if runtime else "no runtime"
        verb = "does not open" if runtime else "opens"
        raise UsageError(f"{asked} {verb} {path}", hint="see `edgeinc ls runtimes`")
    return usable(fitting[0]).open(path, device=device, threads=threads)


def usable(name: str) -> type[Runtime]:
    """A runtime that is on this machine; nothing is opened.

    Raises:
        UsageError: There is no such runtime.
        MissingError: It is not on this machine.
    """
    plugin: type[Runtime] = registry.load("runtimes", name)
    state = plugin.availability()
    if not state.ok:
        raise MissingError(f"runtime {name} is missing: {state.reason}", hint=state.fix)
    return plugin
