"""What does it take to serve another file? Planned from the files, or measured while one serves.

plan_update("step-1.fp32.dynamic.onnx", "step-2.fp32.dynamic.onnx").way      # "head"
plan_update("step-1.fp32.engine", "step-2.fp32.onnx").way                    # "weights"
measure_update("step-1.fp32.dynamic.onnx", "step-2.fp32.dynamic.onnx").lost  # 0
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.runtimes import Session, _golden, _update, open_artifact
from edgeinc.runtimes._engine import read_engine_card
from edgeinc.runtimes._refit import engine_candidate, plan_engine_update
from edgeinc.schema import UpdateMeasure, UpdatePlan

ENGINE = ".engine"
AROUND_S = 1.0
"""How long frames are counted before and after the exchange."""


def plan_update(
    old: str | os.PathLike[str], new: str | os.PathLike[str], *, runtime: str | None = None
) -> UpdatePlan:
    """The cheapest way from one exported file, or engine, to another file on a runtime.

    Args:
        old: The file that is served. Of an engine its sidecar is read and its hash compared; it is
            not loaded, so that this needs no TensorRT.
        new: The exported file that shall be served.
        runtime: Name of the runtime that serves; None is `tensorrt` for an engine, else
            `onnxruntime`.

    Raises:
        UsageError: No such file or runtime, or an engine on another runtime than TensorRT.
        UpdateError: The new file cannot take the place of the old one.
        EdgeincError: A file was changed, or is not an edgeinc export.
    """
    old, new, runtime = Path(old), Path(new), _runtime(Path(old), runtime)
    if old.suffix != ENGINE:
        before, after = _update.read_candidate(old), _update.read_candidate(new)
        ways = registry.load("runtimes", runtime).ways
        return _update.plan_update(before, after, runtime=runtime, ways=ways())
    if not old.is_file():
        raise UsageError(f"no such engine: {old}", hint="check the path")
    card = read_engine_card(old)
    return plan_engine_update(engine_candidate(old, card), card, _update.read_candidate(new))


def _runtime(old: Path, asked: str | None) -> str:
    known = registry.names("runtimes")
    if asked is not None and asked not in known:
        raise UsageError(f"unknown runtime '{asked}'", hint=registry.suggest(asked, known))
    if old.suffix == ENGINE and asked not in (None, "tensorrt"):
        raise UsageError(f"{asked} does not serve {old}", hint="leave out --runtime")
    return asked or ("tensorrt" if old.suffix == ENGINE else "onnxruntime")


def measure_update(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    runtime: str | None = None,
    device: str = "auto",
    threads: int = 0,
    around_s: float = AROUND_S,
    progress: Progress = SILENT,
) -> UpdateMeasure:
    """Serve the old file in a thread without pause, bring in the new one, and count frames.

    Args:
        old: The exported file, or engine, that is served.
        new: The exported file that shall be.
        runtime: As `plan_update`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads to compute with; 0 takes every core.
        around_s: Seconds for which frames are counted before and after the exchange.
        progress: Told about the parts.

    Raises:
        UpdateError: The new file was refused.
        MissingError: The runtime is not here, or cannot exchange what it serves.
        UsageError: No such file or runtime.
    """
    plan_update(old, new, runtime=runtime)  # refuses before anything is loaded
    runtime = _runtime(Path(old), runtime)
    with (
        progress.task("measure update", 3, "part") as task,
        open_artifact(old, runtime=runtime, device=device, threads=threads) as session,
    ):
        frames = _Frames(session)
        with frames:
            sleep(around_s)
            task.advance(note="serving")
            start = perf_counter()
            result = session.update(new)
            end = perf_counter()
            task.advance(note=result.plan.way)
            sleep(around_s)
        task.advance()
    usual, longest = frames.milliseconds(start, end)
    return UpdateMeasure(
        result, frames=len(frames.ends), lost=frames.lost, usual_ms=usual, longest_ms=longest
    )


class _Frames:
    """A thread that calls a session again and again while the block runs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._image = _golden.image(session.size, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.lost = 0

    def _serve(self) -> None:
        while not self._stop.is_set():
            begin = perf_counter()
            try:
                self._session.run(self._image)
            except Exception:
                # Whatever the reason, a caller would have had no answer: that is what is counted.
                self.lost += 1
                continue
            self.starts.append(begin)
            self.ends.append(perf_counter())

    def __enter__(self) -> _Frames:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def milliseconds(self, start: float, end: float) -> tuple[float, float]:
        """Median time of a frame before the update, and the longest of those that saw it."""
        times = 1000 * (np.array(self.ends) - np.array(self.starts))
        before = times[np.array(self.ends) < start]
        during = times[(np.array(self.starts) < end) & (np.array(self.ends) > start)]
        usual = float(np.median(before if len(before) else times))
        return usual, float(during.max(initial=0.0))
