"""A benchmark against an earlier one, and against the thresholds it was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeinc.errors import UsageError
from edgeinc.schema import (
    BenchComparison,
    BenchDelta,
    BenchResult,
    BenchRow,
    Host,
    Scope,
    from_json,
)

MIOU_POINTS = 0.5
"""Points of mIoU a row may lose."""
Key = tuple[object, ...]


def read_base(path: Path) -> BenchResult:
    """The benchmark to compare with.

    Raises:
        UsageError: There is no such file.
        EdgeincError: It is not a benchmark.
    """
    if not path.is_file():
        raise UsageError(
            f"no benchmark to compare with: {path}", hint="give the JSON file of `edgeinc bench`"
        )
    return from_json(BenchResult, path.read_bytes(), source=str(path))


def compare(result: BenchResult, base: BenchResult, *, path: Path, tolerance: float) -> BenchResult:
    """The result with the comparison in it, and its regressions among the gates.

    Rows belong together that have the same file name, runtime, provider, precision, scope, size
    and threads; where several do, the same path as well. A row is worse that has a p50 longer by
    more than `tolerance` percent, lost more than 0.5 points of mIoU, or can no longer run.

    Args:
        result: What was measured.
        base: What it is compared with.
        path: The file of `base`.
        tolerance: Percent.
    """
    twice = _ambiguous(result.rows) | _ambiguous(base.rows)
    before = {_key(row, twice): row for row in base.rows if row.p50_ms}
    deltas = []
    for row in result.rows:
        if row.p50_ms is None:
            deltas += _lost(row, base.rows)
        elif (old := before.get(_key(row, twice))) is not None:
            deltas.append(_delta(row, old, tolerance))
    gates = [f"{name_of(d)}: {d.regression}" for d in deltas if d.regression]
    if not deltas:
        gates = [f"{path} has no row of the same file, runtime, provider, size and threads"]
    compared = BenchComparison(
        path=str(path),
        created=base.created,
        tolerance=tolerance,
        rows=tuple(deltas),
        note=_other(base.host, result.host),
    )
    return with_gates(result, gates, comparison=compared)


def check(
    result: BenchResult,
    scopes: Sequence[Scope],
    *,
    min_fps: float | None,
    max_p99: float | None,
) -> BenchResult:
    """The result with the thresholds that were not met among its gates.

    Every variant that was measured must meet them, in the widest scope that was timed.
    """
    if min_fps is None and max_p99 is None:
        return result
    rows = [row for row in result.rows if row.scope == scopes[-1] and row.fps and row.p99_ms]
    gates = [] if rows else ["nothing was measured that could meet the threshold"]
    for row in rows:
        if min_fps is not None and row.fps is not None and row.fps < min_fps:
            gates.append(f"{name_of(row)}: {row.fps:.1f} FPS, below {min_fps:g}")
        if max_p99 is not None and row.p99_ms is not None and row.p99_ms > max_p99:
            gates.append(f"{name_of(row)}: p99 is {row.p99_ms:.1f} ms, above {max_p99:g}")
    return with_gates(result, gates)


def with_gates(
    result: BenchResult, gates: Sequence[str], comparison: BenchComparison | None = None
) -> BenchResult:
    """The result with further gates that were not met."""
    kept = comparison or result.comparison
    return replace(result, gates=(*result.gates, *gates), comparison=kept)


def name_of(row: BenchRow | BenchDelta) -> str:
    """A row in words."""
    return f"{Path(row.artifact).name} on {row.runtime}, {row.scope}"


def _key(row: BenchRow, ambiguous: set[Key]) -> Key:
    key = _short(row)
    return (*key, row.artifact) if key in ambiguous else key


def _short(row: BenchRow) -> Key:
    return (
        *(Path(row.artifact).name, row.runtime, row.provider, row.precision),
        *(row.scope, row.size, row.threads),
    )


def _ambiguous(rows: Sequence[BenchRow]) -> set[Key]:
    counts = Counter(_short(row) for row in rows)
    return {key for key, count in counts.items() if count > 1}


def _delta(row: BenchRow, old: BenchRow, tolerance: float) -> BenchDelta:
    now, then = row.p50_ms or 0.0, old.p50_ms or 0.0  # both are known where this is called
    slower = 100 * (now / then - 1)
    points = None if row.miou is None or old.miou is None else row.miou - old.miou
    worse = []
    if slower > tolerance:
        worse.append(f"{slower:.1f} % slower ({then:.2f} to {now:.2f} ms)")
    if points is not None and points < -MIOU_POINTS:
        worse.append(f"{-points:.1f} points of mIoU lower")
    return BenchDelta(
        artifact=row.artifact,
        runtime=row.runtime,
        scope=row.scope,
        p50_ms=now,
        base_p50_ms=then,
        slower_percent=slower,
        miou_points=points,
        regression=" and ".join(worse),
    )


def _lost(row: BenchRow, before: Sequence[BenchRow]) -> list[BenchDelta]:
    """A row that ran before and is skipped now: of the same file, or, unopened, of its run."""
    for old in before:
        same = Path(old.artifact).name == Path(row.artifact).name
        inside = Path(row.artifact).name in Path(old.artifact).parts
        if old.p50_ms and (old.runtime, old.scope) == (row.runtime, row.scope) and (same or inside):
            reason = f"ran before, now {row.status}"
            return [
                BenchDelta(
                    old.artifact, row.runtime, row.scope, None, old.p50_ms, None, None, reason
                )
            ]
    return []


def _other(base: Host, now: Host) -> str:
    before, after = (f"{h.gpu or h.cpu}, {h.cores} cores" for h in (base, now))
    if before == after and base.platform == now.platform:
        return ""
    return f"other machines: {before} then, {after} now"
