"""ONNX Runtime: runs exported .onnx files on the CPU, or on CUDA with onnxruntime-gpu."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from edgeinc import host
from edgeinc.errors import EdgeincError, MissingError
from edgeinc.runtimes import Availability, Runtime, Session
from edgeinc.runtimes._card import card_path, read_card, verified
from edgeinc.runtimes._graph_session import Feeds, GraphSession

ERRORS_ONLY = 3
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
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
        card = verified(path, read_card(path)) if card_path(path).exists() else None
        self.threads = threads or host.cores()
        self._session = _create(path, device, self.threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.provider = self._session.get_providers()[0]
        self._describe(
            path,
            card,
            self._session.get_modelmeta().custom_metadata_map,
            answers=[output.name for output in outputs],
            as_float=inputs[0].type == "tensor(float)",
        )

    def _infer(self, answer: str, feeds: Feeds) -> npt.NDArray[Any]:
        return self._session.run([answer], feeds)[0]  # type: ignore[no-any-return]


def _create(path: Path, device: str, threads: int) -> Any:
    """An InferenceSession on exactly the device that was asked for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
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
