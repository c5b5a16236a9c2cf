"""OpenVINO in bf16: faster than f32 where the processor has it, and not the same numbers.

A runtime of its own, so that what was measured in bf16 is called so in every table.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edgeinc import host
from edgeinc.runtimes import Availability, Runtime, Session
from edgeinc.runtimes.openvino import OpenVino, OpenVinoSession
from edgeinc.schema import Way


class OpenVinoBf16(Runtime):
    """Opens `FILE.onnx`."""

    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    providers: ClassVar[tuple[str, ...]] = OpenVino.providers

    @classmethod
    def availability(cls) -> Availability:
        """Whether openvino is installed and the processor multiplies bf16."""
        state = OpenVino.availability()
        if state.ok and not host.computes_bf16():
            return Availability(
                False,
                reason=f"{host.cpu_name()} has no bf16 arithmetic",
                fix="use f32: `edgeinc bench --runtime openvino`",
            )
        return state

    @classmethod
    def ways(cls) -> tuple[Way, ...]:
        """Those of `openvino`."""
        return OpenVino.ways()

    @classmethod
    def open(cls, path: Path, *, device: str = "auto", threads: int = 0) -> Session:
        """Open an exported file, as `openvino` does.

        Raises:
            MissingError: The device is not the CPU, or it computes in another precision.
            EdgeincError: As for `openvino`.
        """
        return OpenVinoSession(
            path, device=device, threads=threads, runtime="openvino_bf16", floats="bf16"
        )
