"""What a timed frame consists of, and the rows that timing gives."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Literal

from edgeinc.data import Image
from edgeinc.data._augment import resize_image
from edgeinc.deploy._timing import Clock, Frame, Timed, interleave, statistics, warm_up
from edgeinc.deploy._variants import Variant
from edgeinc.deploy.monitor import Monitor
from edgeinc.evaluation import predict_native
from edgeinc.progress import SILENT, Progress
from edgeinc.runtimes import Session
from edgeinc.schema import BenchRow, Scope

SCOPES: dict[Scope, str] = {
    "infer": "the network on an image that lies where it reads it, to class ids that lie where it "
    "leaves them: no copies; preprocessing and decision are in the graph, so they are included",
    "io": "from a uint8 RGB image of the network's size in the host's memory to class ids in the "
    "host's memory; on a CPU nothing is copied, so infer and io are one measurement",
    "e2e": "from a decoded RGB image of its own size to class ids of that size: resize, session, "
    "resize of the ids by nearest neighbour; reading and decoding the file are not included",
}
SAME = "one measurement for infer and io: nothing is copied on a CPU"
LAGS = 4
"""A turn lasts this many times the memory of a power sensor, so that most of it is its own."""


def computes(session: Session) -> Literal["gpu", "cpu"]:
    """What a session computes on."""
    return "cpu" if "cpu" in session.provider.lower() else "gpu"


def no_call(scope: Scope, session: Session) -> str:
    """Why a session cannot be timed in a scope, or ""."""
    overrides = type(session).prepared is not Session.prepared
    if scope == "infer" and computes(session) == "gpu" and not overrides:
        return f"{session.runtime} has no call without copies on {session.provider}"
    return ""


def time_scopes(
    scopes: Sequence[Scope],
    live: Sequence[tuple[Variant, Session]],
    images: Sequence[Image],
    *,
    duration: float,
    monitor: Monitor | None = None,
    progress: Progress = SILENT,
    clock: Clock = perf_counter,
) -> Iterator[BenchRow]:
    """Rows of every variant in every scope, each as soon as it is measured.

    Args:
        scopes: What is timed, one scope after the other.
        live: Variants and their opened sessions.
        images: At least one, cycled through.
        duration: Seconds of measured time per variant and scope.
        monitor: Watches the machine on the same clock; None watches nothing.
        progress: Told about every variant that is warm, and that is done.
        clock: Seconds from any origin.
    """
    both = "infer" in scopes and "io" in scopes
    for scope in scopes:
        for variant, session in live:
            if reason := no_call(scope, session):
                yield skipped_row(variant, session, scope, reason)
        # On a CPU infer is io: one measurement gives both rows.
        timed = [
            (variant, session)
            for variant, session in live
            if not no_call(scope, session)
            and not (both and scope == "infer" and computes(session) == "cpu")
        ]
        found = time_scope(
            scope,
            timed,
            images,
            duration=duration,
            monitor=monitor,
            progress=progress,
            clock=clock,
        )
        for session, row in found:
            if scope == "io" and both and computes(session) == "cpu":
                yield replace(row, scope="infer", note=SAME)
                yield replace(row, note=SAME)
            else:
                yield row


def time_scope(
    scope: Scope,
    live: Sequence[tuple[Variant, Session]],
    images: Sequence[Image],
    *,
    duration: float,
    monitor: Monitor | None = None,
    progress: Progress = SILENT,
    clock: Clock = perf_counter,
) -> Iterator[tuple[Session, BenchRow]]:
    """Warm every variant up, then time all of them in turns; arguments as `time_scopes`."""
    frames = [_frame(scope, session, images) for _, session in live]
    if not frames:
        return
    watch = monitor or Monitor((), clock=clock)
    turn = min(LAGS * watch.lag_s, duration) if watch.lag_s else None
    with progress.task(f"time {scope}", 2 * len(live), "part") as task:
        for (variant, _), frame in zip(live, frames, strict=True):
            warm_up(frame, duration=duration, clock=clock)
            task.advance(note=f"{variant.runtime} is warm")
        for index, timed in interleave(frames, duration=duration, turn=turn, clock=clock):
            variant, session = live[index]
            yield session, _row(variant, session, scope, timed, watch)
            task.advance()


def _row(
    variant: Variant, session: Session, scope: Scope, timed: Timed, watch: Monitor
) -> BenchRow:
    s = statistics(timed.seconds)
    seen = watch.seen(timed.turns, computes(session))
    wall = sum(end - begin for begin, end in timed.turns)
    return BenchRow(
        artifact=str(variant.artifact),
        runtime=variant.runtime,
        provider=session.provider,
        precision=session.precision,
        scope=scope,
        size=session.size,
        threads=session.threads,
        status=s.status,
        p50_ms=s.p50_ms,
        p90_ms=s.p90_ms,
        p99_ms=s.p99_ms,
        fps=s.fps,
        cov_percent=s.cov_percent,
        frames=s.frames,
        file_bytes=variant.file.stat().st_size,
        peak_mb=peak_mb(),
        watts=seen.watts,
        joules=None if seen.watts is None else seen.watts * wall / s.frames,
        throttled=seen.throttled,
        gpu_mhz=seen.gpu_mhz,
        cpu_mhz=seen.cpu_mhz,
        celsius=seen.celsius,
        gpu_mb=session.gpu_mb(),
    )


def skipped_row(variant: Variant, session: Session, scope: Scope, reason: str) -> BenchRow:
    """The row of an opened session that cannot be timed in a scope."""
    return BenchRow(
        artifact=str(variant.artifact),
        runtime=variant.runtime,
        provider=session.provider,
        precision=session.precision,
        scope=scope,
        size=session.size,
        threads=session.threads,
        status=f"skipped: {reason}",
    )


def peak_mb() -> float | None:
    """Most memory this process ever held, in MB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024), 1)


def _frame(scope: Scope, session: Session, images: Sequence[Image]) -> Frame:
    if scope == "e2e":
        return lambda i: predict_native(session, images[i % len(images)])
    ready = [resize_image(image, session.size)[None] for image in images]
    if scope == "io":
        return lambda i: session.run(ready[i % len(ready)])
    calls = [session.prepared(batch) for batch in ready]
    return lambda i: calls[i % len(calls)]()
