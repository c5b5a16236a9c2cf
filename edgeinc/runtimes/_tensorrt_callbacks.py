"""What TensorRT calls: a logger that keeps its errors, and a monitor of a build's progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Watch = Callable[[str, int, int], None]
"""Called with a phase of the build, how many of its steps are done, and how many it has."""

_KEPT_MESSAGES = 20


def logger(trt: Any, errors: list[str]) -> Any:
    """A logger that keeps errors instead of printing everything."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 refuses super().__init__ through other bases

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR):
                errors.append(" ".join(msg.split()))
                del errors[:-_KEPT_MESSAGES]

    return Logger()


def monitor(trt: Any, watch: Watch) -> Any:
    """A progress monitor that tells `watch`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            watch(phase_name, 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 0)
            watch(phase_name, steps, steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            watch(phase_name, step, self._steps.get(phase_name, 0))
            return True  # False would cancel the build

    return Monitor()
