"""How fast the very files are that are shipped, and, with data, how right.

Rules: a scope is named with every figure; variants take turns, so that they share the machine's
moods; mIoU comes from the session that was timed; power and throttling are those of a variant's own
turns; what cannot run is a row `skipped: reason`; a variant is recommended only if it decides as
the network; the result is on disk after every row.

    result = bench("runs/camvid-erfnet")
    [(r.runtime, r.scope, r.p50_ms) for r in result.rows]
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import sleep

from edgeinc import host
from edgeinc.clock import written_now
from edgeinc.data import Dataset, open_dataset
from edgeinc.deploy._chart import draw
from edgeinc.deploy._choice import Live, agreements, judge, networks
from edgeinc.deploy._compare import check, compare, read_base
from edgeinc.deploy._probe import Probe, probe, probe_split, run_probe
from edgeinc.deploy._scopes import SCOPES, computes, time_scopes
from edgeinc.deploy._sensors import Tegrastats
from edgeinc.deploy._tables import Report, check_suffix
from edgeinc.deploy._thermal import board
from edgeinc.deploy._update_path import update_path
from edgeinc.deploy._variants import Variant, open_all, run_of, select, variants
from edgeinc.deploy.monitor import Monitor, find_sensors, gpu_index, gpu_name
from edgeinc.errors import Interrupted, UsageError
from edgeinc.evaluation import score_session
from edgeinc.progress import SILENT, Progress
from edgeinc.runtimes import Session
from edgeinc.schema import BenchResult, BenchRow, Scope, Size

__all__ = ["bench"]

CYCLED = 16
"""Images that are kept in memory and cycled through."""
IDLE_S = 1.0


def bench(
    *targets: str | os.PathLike[str],
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    sizes: Sequence[Size] | None = None,
    scopes: Sequence[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    duration: float = 5.0,
    threads: int = 0,
    device: str = "auto",
    compare_with: str | os.PathLike[str] | None = None,
    tolerance: float = 5.0,
    min_fps: float | None = None,
    max_p99: float | None = None,
    out: str | os.PathLike[str] | None = None,
    chart: str | os.PathLike[str] | None = None,
    system: str | os.PathLike[str] = "/",
    progress: Progress = SILENT,
) -> BenchResult:
    """Time artifacts on runtimes, batch 1, one frame at a time.

    Args:
        targets: Runs (their newest step) and exported files.
        runtimes: Names; None takes, for a run, every runtime, and for a file the one that opens it.
        precisions: Measure these only; one a run is not exported in is a skipped row.
        sizes: Measure these (height, width) only; as `precisions`.
        scopes: Of `infer`, `io` and `e2e`; None takes all.
        data: Dataset to score mIoU on, and to take the timed images from; None scores nothing and
            times with images of the first target's run where they can be read, else with noise.
        data_root: Where named datasets lie.
        limit: Score the first N images only.
        duration: Seconds to measure each variant in each scope, after warming up.
        threads: Threads to compute with; 0 takes every core.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        compare_with: JSON file of an earlier benchmark: what became worse is among `gates`.
        tolerance: Percent by which p50 may be longer than it was.
        min_fps: Gate: least frames per second of every variant, in the widest scope timed.
        max_p99: Gate: longest p99 in ms, likewise.
        out: JSON file to write; None takes RUN/bench/bench.json, or NAME.bench.json beside a file.
            A .csv or .md is written beside the JSON of the same name.
        chart: SVG file to draw mIoU against frames per second into; without `data`, the first
            run's own images are scored.
        system: Root of the file system in which sensors are looked for.
        progress: Told about every variant.

    Returns:
        A row for every variant and scope; the same document is in the file `path`. The status of a
        row is `ok`, `unstable` (times scatter by more than 10 percent) or `skipped: reason`.
        `gate` of a row is whether it decides as the network, as far as its precision must, and
        `best` names the fastest of those that do. `gates` names every threshold that was not met.

    Raises:
        UsageError: No target, an unknown runtime or scope, a duration or tolerance that is not
            positive, no file to compare with, or a file that no table is written to.
        DataError: The data asked for cannot be read.
        EdgeincError: An artifact or a run is damaged.
        Interrupted: Ctrl-C; finished rows are in the file.
    """
    if not (math.isfinite(duration) and duration > 0):
        raise UsageError(f"cannot measure for {duration} seconds", hint="give a positive duration")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"cannot tolerate {tolerance} percent", hint="give 0 or more")
    timed = _scopes(scopes)
    paths = [Path(t) for t in targets]
    found = variants(paths, runtimes)
    place = _place(paths[0], out)
    check_suffix(place)
    base = None if compare_with is None else read_base(Path(compare_with))
    dataset = _scored(paths[0], data, data_root, chart is not None)
    with ExitStack() as stack:
        opened = open_all(found, device=device, threads=threads, stack=stack)
        opened = select(opened, precisions=precisions, sizes=sizes)
        live = [(v, s) for v, s in opened if s is not None]
        images = _images(paths[0], dataset, opened)
        monitor = stack.enter_context(_monitor(Path(system), live, device))
        monitor.idle(_rested(monitor, duration))
        started = replace(
            _begin(timed, live, images, dataset, monitor, Path(system)),
            rows=tuple(_skipped(opened, timed, threads)),
        )
        report = Report(
            started,
            place.with_suffix(".json"),
            table=None if place.suffix == ".json" else place,
            order=[(str(v.artifact), v.runtime) for v, _ in opened],
        )
        try:
            for row in time_scopes(
                timed, live, images.images, duration=duration, monitor=monitor, progress=progress
            ):
                report.add(row)
            compared = agreements(live, images, device=device, threads=threads, progress=progress)
            for variant, figures in compared:
                report.update(variant.artifact, variant.runtime, figures)
            if dataset is not None:
                _score(report, live, dataset, limit, progress)
            for variant, _ in live:
                path = update_path(
                    variant, device=device, threads=threads, duration=duration, progress=progress
                )
                report.update(variant.artifact, variant.runtime, path)
        except KeyboardInterrupt as err:
            raise _interrupted(report) from err
        if chart is not None and draw(report.result, timed[-1], Path(chart)):
            report.change(replace(report.result, chart=str(chart)))
        result = judge(report.result, networks(live), timed[-1], noise=not images.real)
        result = check(result, timed, min_fps=min_fps, max_p99=max_p99)
        if base is not None:
            result = compare(result, base, path=Path(compare_with or ""), tolerance=tolerance)
        report.change(result)
        return report.finish()


def _scored(
    first: Path,
    data: str | os.PathLike[str] | None,
    data_root: str | os.PathLike[str] | None,
    needed: bool,
) -> Dataset | None:
    """The data to score on; where it is needed and not given, that of the first run."""
    if data is not None:
        return open_dataset(data, data_root=data_root)
    if not needed:
        return None
    run = run_of(first)
    if run is None or not run.step().data.name:
        raise UsageError(f"no labelled images are known for {first}", hint="name them with --data")
    return open_dataset(run.step().data)


def _scopes(asked: Sequence[str] | None) -> list[Scope]:
    """The scopes asked for, in their own order, narrowest first."""
    for name in asked or ():
        if name not in SCOPES:
            raise UsageError(f"unknown scope '{name}'", hint=f"one of {', '.join(SCOPES)}")
    return [scope for scope in SCOPES if asked is None or scope in asked]


def _monitor(system: Path, live: Live, device: str) -> Monitor:
    on_gpu = any(computes(session) == "gpu" for _, session in live)
    return Monitor(find_sensors(system, gpu=gpu_index(device) if on_gpu else None))


def _rested(monitor: Monitor, duration: float) -> tuple[float, float]:
    """A time in which nothing was computed, as long as there is power to measure."""
    monitor.sample()
    begin = monitor.clock()
    if monitor.measures_power:
        sleep(min(IDLE_S, duration))
    return begin, monitor.clock()


def _begin(
    scopes: Sequence[Scope],
    live: Live,
    images: Probe,
    dataset: Dataset | None,
    monitor: Monitor,
    system: Path,
) -> BenchResult:
    """The result before any timing."""
    words: dict[str, str] = {
        **{scope: SCOPES[scope] for scope in scopes},
        "images": images.source,
        "peak_mb": "most memory of the whole process so far, shared by all variants in it",
    }
    lines = [s.line for s in monitor.sensors if isinstance(s, Tegrastats)]
    on_gpu = any(computes(session) == "gpu" for _, session in live)
    if on_gpu:
        words["gpu_mb"] = (
            "memory of the GPU that was gone after the session was opened and had computed its "
            "first image; what other programs took in these moments counts too"
        )
    return BenchResult(
        rows=(),
        host=host.host(gpu=gpu_name(system) if on_gpu else ""),
        scopes=words,
        created=written_now(),
        data=dataset.ref if dataset else None,
        images=len(images.images),
        board=board(system, tegrastats=lines[0] if lines else ""),
        meters=monitor.meters(),
    )


def _skipped(
    opened: Iterable[tuple[Variant, Session | None]], scopes: Sequence[Scope], threads: int
) -> Iterator[BenchRow]:
    """The rows of what cannot be opened."""
    for variant, session in opened:
        if session is None:
            run = run_of(variant.artifact)
            for scope in scopes:
                yield BenchRow(
                    artifact=str(variant.artifact),
                    runtime=variant.runtime,
                    provider="",
                    precision=variant.precision,
                    scope=scope,
                    size=variant.size or (run.info.size if run else (0, 0)),
                    threads=threads or host.cores(),
                    status=f"skipped: {variant.skipped}",
                )


def _score(
    report: Report, live: Live, dataset: Dataset, limit: int | None, progress: Progress
) -> None:
    """Score the sessions that were timed."""
    split = probe_split(dataset)
    for variant, session in live:
        score = score_session(session, dataset, split=split, limit=limit, progress=progress)
        miou = score.miou
        report.change(replace(report.result, images=score.images))
        figures = {"miou": miou.all, "miou_old": miou.old, "miou_new": miou.new}
        report.update(variant.artifact, variant.runtime, figures)


def _interrupted(report: Report) -> Interrupted:
    done = report.measured
    if not done:
        return Interrupted("interrupted before the first row was finished; no file was written")
    rows = "row is" if done == 1 else "rows are"
    return Interrupted(
        f"interrupted; {done} finished {rows} in {report.result.path}",
        hint="the same command again measures everything anew and replaces the file",
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


def _place(first: Path, out: str | os.PathLike[str] | None) -> Path:
    if out is not None:
        return Path(out)
    if first.is_dir():
        return first / "bench" / "bench.json"
    return first.with_suffix(".bench.json")
