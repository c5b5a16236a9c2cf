"""PyTorch: runs a step folder of a run as it was trained, in fp32."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgeinc import host
from edgeinc.errors import MissingError
from edgeinc.runs import open_run
from edgeinc.runtimes import Availability, Runtime, Session
from edgeinc.schema import Size

if TYPE_CHECKING:
    from torch import Tensor


class Torch(Runtime):
    """Opens `RUN/step-N`."""

    suffixes: ClassVar[tuple[str, ...]] = ("",)

    @classmethod
    def availability(cls) -> Availability:
        """Whether torch is installed; it is not imported for the answer."""
        if find_spec("torch") is None:
            return Availability(
                False, reason="torch is not installed", fix='pip install "edgeinc[train]"'
            )
        try:
            return Availability(True, version=version("torch"))
        except PackageNotFoundError:  # a torch without metadata, as some Jetson builds are
            return Availability(True)

    @classmethod
    def open(cls, path: Path, *, device: str = "auto", threads: int = 0) -> Session:
        """Open a step folder; the weights' hash is verified first.

        Raises:
            MissingError: CUDA was asked for and is not here.
            RunError: The weights were changed.
        """
        return TorchSession(path, device=device, threads=threads)


class TorchSession(Session):
    """A trained step in eval mode.

    Args:
        path: The step's folder.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads to compute with; 0 takes every core.
        size: (height, width) of the images it takes; None takes the size it was trained with.
    """

    runtime = "torch"
    precision = "fp32"

    def __init__(self, path: Path, *, device: str, threads: int, size: Size | None = None) -> None:
        import torch
        from safetensors.torch import load_file

        from edgeinc.models import restored

        run = open_run(path.parent)
        step = run.step(int(path.name.removeprefix("step-")))
        counts = [len(step.table.of_step(i)) for i in range(step.index + 1)]
        options, normalisation = run.info.model_options, run.info.normalisation
        state = load_file(run.weights(step.index))
        model = restored(run.info.model, counts, state, options, normalisation=normalisation)
        self.device = torch.device(pick_device(device))
        self.model = model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.threads = threads or host.cores()
        self.provider = str(self.device)
        self.size, self.table, self.step = size or run.info.size, step.table, step.index
        self.path, self.sha256 = path, step.weights_sha256

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment (N, H, W, 3) uint8 images into (N, H, W) uint8 ids by its rule."""
        import torch

        return self._computed(images, lambda scores: scores.argmax(1).to(torch.uint8))

    def prepared(self, images: npt.NDArray[np.uint8]) -> Callable[[], object]:
        """`run` without the copies: the batch lies on the device, the ids stay there."""
        import torch

        if self.device.type != "cuda":
            return super().prepared(images)
        self.check(images)
        batch = torch.from_numpy(images).to(self.device)

        def compute() -> None:
            with torch.inference_mode():
                self._scores(batch).argmax(1).to(torch.uint8)
            torch.cuda.synchronize(self.device)  # a launch returns before the work is done

        return compute

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scores of every class, (N, C, H, W) float32, at the size of the images."""
        return self._computed(images, lambda scores: scores.float())

    def _computed(
        self, images: npt.NDArray[np.uint8], made: Callable[[Tensor], Tensor]
    ) -> npt.NDArray[Any]:
        """What is made of the scores by which the network decides, for a batch."""
        import torch

        self.check(images)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                batch = torch.from_numpy(images).to(self.device)
                return made(self._scores(batch)).cpu().numpy()
        finally:
            torch.set_num_threads(before)

    def _scores(self, batch: Tensor) -> Tensor:
        return self.model.decide(self.model(self.model.normalise(batch)))


def pick_device(asked: str) -> str:
    """The device to compute on: `auto` takes CUDA where there is one; others are taken at word.

    Raises:
        MissingError: The device asked for is not here.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise MissingError(
            f"device {asked} was asked for and torch {torch.__version__} finds no CUDA GPU",
            hint="leave out --device, or see `edgeinc doctor --for train`",
        )
    try:
        return str(torch.device(asked))
    except RuntimeError as err:
        raise MissingError(f"unknown device '{asked}'", hint="auto, cpu, cuda or cuda:N") from err
