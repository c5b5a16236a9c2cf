"""PyTorch through `torch.compile`: the network as it was trained, in fp32, as generated code.

A runtime of its own, so that no figure of compiled code is called PyTorch's. The first images of
every batch size take a minute or more: then the code is made. On a CPU that needs a C++ compiler.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgeinc.errors import MissingError
from edgeinc.runtimes import Availability, Runtime, Session
from edgeinc.runtimes.torch import Torch, TorchSession

if TYPE_CHECKING:
    from torch import Tensor

COMPILERS = ("g++", "clang++", "c++", "cl")


class TorchCompiled(Runtime):
    """Opens `RUN/step-N`."""

    suffixes: ClassVar[tuple[str, ...]] = ("",)
    unasked: ClassVar[bool] = False

    @classmethod
    def availability(cls) -> Availability:
        """Whether torch and a C++ compiler are here; torch is not imported for the answer."""
        state = Torch.availability()
        named = os.environ.get("CXX", "")
        if state.ok and not any(shutil.which(name) for name in (named, *COMPILERS) if name):
            return Availability(
                False, reason="torch.compile needs a C++ compiler", fix="apt install g++"
            )
        return state

    @classmethod
    def open(cls, path: Path, *, device: str = "auto", threads: int = 0) -> Session:
        """Open a step folder; nothing is compiled before the first images.

        Raises:
            MissingError: CUDA was asked for and is not here.
            RunError: The weights were changed.
        """
        return CompiledSession(path, device=device, threads=threads)


class CompiledSession(TorchSession):
    """A trained step whose scores come from compiled code."""

    runtime = "torch_compiled"

    def __init__(self, path: Path, *, device: str, threads: int) -> None:
        import torch

        super().__init__(path, device=device, threads=threads)
        # On a GPU whole graphs are replayed, on a CPU weights are laid out once for the kernels.
        how = "triton.cudagraphs" if self.device.type == "cuda" else "freezing"
        self._compiled = torch.compile(super()._scores, dynamic=False, options={how: True})

    def _scores(self, batch: Tensor) -> Tensor:
        try:
            scores: Tensor = self._compiled(batch)
        except RuntimeError as err:
            reason = str(err).strip().splitlines()[0]
            raise MissingError(
                f"torch.compile cannot make code for {self.path} here: {reason}",
                hint="use --runtime torch; TORCH_LOGS=inductor shows what its compiler says",
            ) from err
        return scores
