"""How fast the very files are that are shipped, and, with data, how right.

Rules: a scope is named with every figure; variants take turns, so that they share the machine's
moods; mIoU comes from the session that was timed; what cannot run is a row `skipped: reason`; the
result is on disk after every row.

    result = bench("runs/camvid-erfnet")
    [(r.runtime, r.scope, r.p50_ms) for r in result.rows]
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Literal

from edgeinc import host
from edgeinc.data import Dataset, Image, open_dataset
from edgeinc.data._augment import resize_image
from edgeinc.deploy._probe import Probe, probe, probe_split, run_probe
from edgeinc.deploy._timing import Clock, Frame, interleave, statistics, warm_up
from edgeinc.deploy._variants import Variant, open_all, run_of, variants
from edgeinc.errors import UsageError
from edgeinc.evaluation import predict_native, score_session
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import write_atomic
from edgeinc.runtimes import Session
from edgeinc.schema import BenchResult, BenchRow, EvalResult, Size, to_json

__all__ = ["bench"]

Scope = Literal["infer", "e2e"]
SCOPES: dict[Scope, str] = {
    "infer": "one call of the session on a uint8 RGB image of its size that lies ready in memory, "
    "copies in and out included, to class ids in memory",
    "e2e": "from a decoded RGB image of its own size to class ids of that size: resize, session, "
    "resize of the ids by nearest neighbour; reading and decoding the file are not included",
}
CYCLED = 16
"""Images that are kept in memory and cycled through."""


def bench(
    *targets: str | os.PathLike[str],
    runtimes: Sequence[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    duration: float = 5.0,
    threads: int = 0,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> BenchResult:
    """Time artifacts on runtimes, batch 1, one frame at a time.

    Args:
        targets: Runs (their newest step) and exported files.
        runtimes: Names; None takes, for a run, every runtime, and for a file the one that opens it.
        data: Dataset to score mIoU on, and to take the timed images from; None scores nothing and
            times with images of the first target's run where they can be read, else with noise.
        data_root: Where named datasets lie.
        limit: Score the first N images only.
        duration: Seconds to measure each variant in each scope, after warming up.
        threads: Threads to compute with; 0 takes every core.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        out: JSON file to write; None takes RUN/bench/bench.json, or NAME.bench.json beside a file.
        progress: Told about every variant.

    Returns:
        Two rows for every variant, one per scope; the same document is in the file `path`. The
        status of a row is `ok`, `unstable` (times scatter by more than 10 percent) or
        `skipped: reason`.

    Raises:
        UsageError: No target, an unknown runtime, or a duration that is not positive.
        DataError: The data asked for cannot be read.
        EdgeincError: An artifact or a run is damaged.
    """
    if not (math.isfinite(duration) and duration > 0):
        raise UsageError(f"cannot measure for {duration} seconds", hint="give a positive duration")
    paths = [Path(t) for t in targets]
    found = variants(paths, runtimes)
    dataset = None if data is None else open_dataset(data, data_root=data_root)
    with ExitStack() as stack:
        opened = open_all(found, device=device, threads=threads, stack=stack)
        images = _images(paths[0], dataset, opened)
        report = _Report(_begin(opened, images, dataset, threads), _place(paths[0], out))
        live = [(v, s) for v, s in opened if s is not None]
        for scope in SCOPES:
            for row in time_scope(scope, live, images.images, duration=duration, progress=progress):
                report.add(row)
        if dataset is not None:
            split = probe_split(dataset)
            for variant, session in live:
                score = score_session(session, dataset, split=split, limit=limit, progress=progress)
                report.score(variant, score)
    return report.result


def time_scope(
    scope: Scope,
    live: Sequence[tuple[Variant, Session]],
    images: Sequence[Image],
    *,
    duration: float,
    progress: Progress = SILENT,
    clock: Clock = perf_counter,
) -> list[BenchRow]:
    """Warm every variant up, then time all of them in turns: one row each.

    Args:
        scope: What a frame consists of, see `SCOPES`.
        live: Variants and their opened sessions.
        images: At least one, cycled through.
        duration: Seconds of measured time per variant.
        progress: Told about every variant that is warm, and that is done.
        clock: Seconds from any origin.
    """
    frames = [_frame(scope, session, images) for _, session in live]
    with progress.task(f"time {scope}", 2 * len(live), "part") as task:
        for (variant, _), frame in zip(live, frames, strict=True):
            warm_up(frame, duration=duration, clock=clock)
            task.advance(note=f"{variant.runtime} is warm")
        times = interleave(frames, duration=duration, task=task, clock=clock)
    rows = []
    for (variant, session), seconds in zip(live, times, strict=True):
        s = statistics(seconds)
        rows.append(
            BenchRow(
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
            )
        )
    return rows


def peak_mb() -> float | None:
    """Most memory this process ever held, in MB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024), 1)


class _Report:
    """The result so far, on disk after every change."""

    def __init__(self, result: BenchResult, path: Path) -> None:
        self.result = replace(result, path=str(path))
        self._file = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, row: BenchRow) -> None:
        self.result = replace(self.result, rows=(*self.result.rows, row))
        self._write()

    def score(self, variant: Variant, score: EvalResult) -> None:
        key = (str(variant.artifact), variant.runtime)
        rows = tuple(
            replace(row, miou=score.miou.all)
            if (row.artifact, row.runtime) == key and row.frames
            else row
            for row in self.result.rows
        )
        self.result = replace(self.result, rows=rows, images=score.images)
        self._write()

    def _write(self) -> None:
        write_atomic(self._file, to_json(self.result).encode())


def _begin(
    opened: Sequence[tuple[Variant, Session | None]],
    images: Probe,
    dataset: Dataset | None,
    threads: int,
) -> BenchResult:
    """The result before any timing: the rows of what cannot run."""
    skipped = tuple(
        _skipped(variant, scope, threads)
        for variant, session in opened
        if session is None
        for scope in SCOPES
    )
    words: dict[str, str] = {
        "infer": SCOPES["infer"],
        "e2e": SCOPES["e2e"],
        "images": images.source,
        "peak_mb": "most memory of the whole process so far, shared by all variants in it",
    }
    return BenchResult(
        rows=skipped,
        host=host.host(),
        scopes=words,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        data=dataset.ref if dataset else None,
        images=len(images.images),
    )


def _skipped(variant: Variant, scope: Scope, threads: int) -> BenchRow:
    run = run_of(variant.artifact)
    size: Size = run.info.size if run else (0, 0)
    return BenchRow(
        artifact=str(variant.artifact),
        runtime=variant.runtime,
        provider="",
        precision="",
        scope=scope,
        size=size,
        threads=threads or host.cores(),
        status=f"skipped: {variant.skipped}",
    )


def _images(
    first: Path, dataset: Dataset | None, opened: Iterable[tuple[Variant, Session | None]]
) -> Probe:
    """What is timed with: the data asked for, the first target's own, or noise."""
    size = next((session.size for _, session in opened if session is not None), (32, 32))
    if dataset is not None:
        return probe(dataset, count=CYCLED, size=size)
    run = run_of(first)
    if run is None:
        return probe(None, count=CYCLED, size=size)
    return run_probe(run.step().data, data=None, data_root=None, count=CYCLED, size=size)


def _frame(scope: Scope, session: Session, images: Sequence[Image]) -> Frame:
    if scope == "e2e":
        return lambda i: predict_native(session, images[i % len(images)])
    ready = [resize_image(image, session.size)[None] for image in images]
    return lambda i: session.run(ready[i % len(ready)])


def _place(first: Path, out: str | os.PathLike[str] | None) -> Path:
    if out is not None:
        return Path(out)
    if first.is_dir():
        return first / "bench" / "bench.json"
    return first.with_suffix(".bench.json")
