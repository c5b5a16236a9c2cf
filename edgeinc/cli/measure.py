"""Commands that measure: bench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from edgeinc.cli._command import MACHINE, RESULT, SHIP, WHAT, app, command, flag
from edgeinc.cli._options import (
    DataOption,
    DataRootOption,
    DeviceOption,
    LimitOption,
    ThreadsOption,
    names,
)
from edgeinc.cli._ui import Ui
from edgeinc.errors import UsageError
from edgeinc.schema import BenchComparison, BenchResult, BenchRow, Size

Names = Mapping[str, str]
"""What an artifact is called in a table."""


def _option(name: str, metavar: str, text: str, panel: str, **more: Any) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=panel, **more)


@command(
    app,
    "bench",
    panel=SHIP,
    examples=[
        "edgeinc bench",
        "edgeinc bench a.onnx b.onnx --data camvid --limit 50 -o bench.md",
        "edgeinc bench --compare bench/base.json --min-fps 25 --max-p99 60",
        "edgeinc bench --matrix runs/erfnet runs/bisenet --data camvid",
    ],
)
def bench(
    ui: Ui,
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|ARTIFACT",
            help="Runs and exported files; left out: the last run.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        _option(
            "--runtime", "a,b", "Runtimes to compare; else every one that opens the files.", WHAT
        ),
    ] = None,
    precision: Annotated[
        str | None, _option("--precision", "a,b", "Only files of these precisions.", WHAT)
    ] = None,
    size: Annotated[
        str | None, _option("--size", "HxW,HxW", "Only files of these sizes.", WHAT)
    ] = None,
    scope: Annotated[
        str | None, _option("--scope", "a,b", "Of infer, io and e2e; else all three.", WHAT)
    ] = None,
    matrix: Annotated[
        bool,
        flag("--matrix", help="Score as well, and draw mIoU against FPS (.svg).", panel=WHAT),
    ] = False,
    data: DataOption = None,
    data_root: DataRootOption = None,
    limit: LimitOption = None,
    duration: Annotated[
        float,
        _option("--duration", "S", "Seconds to time each variant for.", MACHINE, min=0.01),
    ] = 5.0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    compare: Annotated[
        str | None,
        _option("--compare", "FILE.json", "Earlier bench; a regression ends with 3.", RESULT),
    ] = None,
    tolerance: Annotated[
        float,
        _option("--tolerance", "PERCENT", "Slower by more is a regression.", RESULT, min=0),
    ] = 5.0,
    min_fps: Annotated[
        float | None,
        _option("--min-fps", "X", "Gate: a variant below it ends with 3.", RESULT, min=0),
    ] = None,
    max_p99: Annotated[
        float | None,
        _option("--max-p99", "MS", "Gate: a variant with a p99 above it ends with 3.", RESULT),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File.json; a .csv or .md is written beside its .json.",
            rich_help_panel=RESULT,
        ),
    ] = None,
) -> None:
    """Time runs and exported files, score the same files, and name the best.

    Best is the fastest that decides as torch, as far as its precision must. Gates hold for e2e, or
    for the widest scope that is timed.
    """
    paths = targets or [ui.run(None)]
    from edgeinc.deploy._tables import conditions, findings, short_names
    from edgeinc.deploy.bench import bench as run_bench

    chart = None
    if matrix:
        out = out or _matrix_file(paths)
        chart = Path(out).with_suffix(".svg")
    result = run_bench(
        *paths,
        runtimes=names(runtime, "--runtime"),
        precisions=names(precision, "--precision"),
        sizes=_sizes(size),
        scopes=names(scope, "--scope"),
        data=data,
        data_root=data_root,
        limit=limit,
        duration=duration,
        threads=threads,
        device=device,
        compare_with=compare,
        tolerance=tolerance,
        min_fps=min_fps,
        max_p99=max_p99,
        out=out,
        chart=chart,
        progress=ui.progress,
    )
    ui.remember(paths[0])
    called = short_names(result.rows)
    files = [file for file in (result.path, result.table, result.chart) if file]
    ui.result(
        result,
        *_spaced(
            _times(ui, result, called),
            _quality(ui, result, called),
            _power(ui, result, called),
            _updates(ui, result, called),
            _comparison(ui, result.comparison, called),
        ),
        "p50, p90 and p99 in ms; FPS is 1000 / p50; CoV: how far the times scatter, in percent",
        *findings(result),
        *conditions(result),
        *(f"saved {file}" for file in files),
        essential=files,
        hint=[
            "edgeinc",
            "report",
            *([paths[0]] if (Path(paths[0]) / "run.json").is_file() else []),
        ],
    )
    ui.gate(result.gates, hint=f"the figures are in {result.path}")


def _matrix_file(targets: list[str]) -> str:
    """Where the matrix of one run, or of several things, goes."""
    run = Path(targets[0])
    alone = len(targets) == 1 and (run / "run.json").is_file()
    return str(run / "bench" / "matrix.json") if alone else "matrix.json"


def _sizes(text: str | None) -> list[Size] | None:
    """`512x1024,360x480` as (height, width).

    Raises:
        UsageError: A size is written otherwise.
    """
    found = []
    for word in names(text, "--size") or ():
        height, _, width = word.partition("x")
        if not (height.isdecimal() and width.isdecimal()):
            raise UsageError(f"'{word}' is not a size", hint="write HEIGHTxWIDTH, as 512x1024")
        found.append((int(height), int(width)))
    return found or None


def _spaced(*blocks: Table | None) -> Iterable[Table | str]:
    """Those that are there, each with an empty line after it."""
    for block in blocks:
        if block is not None:
            yield block
            yield ""


def _times(ui: Ui, result: BenchResult, called: Names) -> Table:
    """One line per measurement; what is skipped for one reason in every scope is one line."""
    lines: list[tuple[Any, ...]] = []
    for row in result.rows:
        if row.fps is None and _same_reason(row, result):
            if _of(row, result)[0] is row:
                lines.append((called[row.artifact], _runtime(row), "all", *[None] * 5, row.status))
            continue
        if row.note and row.scope == "io" and _twin(row, result):
            continue
        scope = "infer=io" if row.note else row.scope
        speed = (row.p50_ms, row.p90_ms, row.p99_ms, row.fps, row.cov_percent)
        lines.append((called[row.artifact], _runtime(row), scope, *speed, row.status))
    headers = ("artifact", "runtime", "scope", "p50", "p90", "p99", "FPS", "CoV", "status")
    return ui.table(headers, lines)


def _of(row: BenchRow, result: BenchResult) -> list[BenchRow]:
    return [r for r in result.rows if (r.artifact, r.runtime) == (row.artifact, row.runtime)]


def _same_reason(row: BenchRow, result: BenchResult) -> bool:
    return len({r.status for r in _of(row, result)}) == 1


def _twin(row: BenchRow, result: BenchResult) -> bool:
    return any(r.scope == "infer" and r.note for r in _of(row, result))


def _variants(result: BenchResult) -> list[BenchRow]:
    """One measured row of every variant: of the widest scope."""
    found = {(r.artifact, r.runtime): r for r in result.rows if r.fps is not None}
    return list(found.values())


def _quality(ui: Ui, result: BenchResult, called: Names) -> Table | None:
    """What does not depend on the scope, without the columns nobody has a figure for."""
    rows = _variants(result)
    columns: dict[str, list[Any]] = {
        "artifact": [called[r.artifact] for r in rows],
        "runtime": [_runtime(r) for r in rows],
        "mIoU": [r.miou for r in rows],
        "old": [r.miou_old for r in rows],
        "new": [r.miou_new for r in rows],
        "agree %": [None if r.agreement is None else f"{r.agreement:.3f}" for r in rows],
        "gate": [r.gate.partition(":")[0] or None for r in rows],
        "threads": [r.threads for r in rows],
        "MB": [None if r.file_bytes is None else r.file_bytes / 1e6 for r in rows],
        "peak MB": [None if r.peak_mb is None else round(r.peak_mb) for r in rows],
        "GPU MB": [r.gpu_mb for r in rows],
    }
    return _filled(ui, columns) if rows else None


def _updates(ui: Ui, result: BenchResult, called: Names) -> Table | None:
    """What it takes to come from the step before, where there is one."""
    lines = [
        (
            called[r.artifact],
            _runtime(r),
            r.update_way,
            None if r.update_bytes is None else f"{r.update_bytes:,}",
            None if r.update_s is None else f"{r.update_s:.3f}",
            r.update_lost,
        )
        for r in _variants(result)
        if r.update_from
    ]
    headers = ("artifact", "runtime", "update", "bytes", "s", "frames lost")
    return ui.table(headers, lines, title="from the step before") if lines else None


def _power(ui: Ui, result: BenchResult, called: Names) -> Table | None:
    """Watts, clocks and heat of every measurement, where anything tells."""
    rows = [r for r in result.rows if r.fps is not None]
    columns: dict[str, list[Any]] = {
        "artifact": [called[r.artifact] for r in rows],
        "runtime": [_runtime(r) for r in rows],
        "scope": [r.scope for r in rows],
        "W": [r.watts for r in rows],
        "J/frame": [None if r.joules is None else f"{r.joules:.3f}" for r in rows],
        "GPU MHz": [None if r.gpu_mhz is None else round(r.gpu_mhz) for r in rows],
        "CPU MHz": [None if r.cpu_mhz is None else round(r.cpu_mhz) for r in rows],
        "°C": [r.celsius for r in rows],
        "throttled": [r.throttled for r in rows],
    }
    told = any(value is not None for name in list(columns)[3:] for value in columns[name])
    if not told:
        return None
    columns["throttled"] = ["unknown" if v is None else v for v in columns["throttled"]]
    return _filled(ui, columns)


def _filled(ui: Ui, columns: dict[str, list[Any]]) -> Table:
    kept = {n: c for n, c in columns.items() if any(value is not None for value in c)}
    return ui.table(list(kept), zip(*kept.values(), strict=True))


def _comparison(ui: Ui, found: BenchComparison | None, called: Names) -> Table | None:
    """What changed since the earlier benchmark."""
    if found is None:
        return None
    if found.note:
        ui.note(f"warning: {found.note}")
    rows = [
        (
            called.get(d.artifact, d.artifact),
            d.runtime,
            d.scope,
            d.base_p50_ms,
            d.p50_ms,
            None if d.slower_percent is None else f"{d.slower_percent:+.1f}%",
            None if d.miou_points is None else f"{d.miou_points:+.1f}",
            "worse" if d.regression else "ok",
        )
        for d in found.rows
    ]
    headers = ("artifact", "runtime", "scope", "p50 then", "now", "change", "mIoU", "verdict")
    return ui.table(headers, rows, title=f"against {found.path} of {found.created[:10]}")


def _runtime(row: BenchRow) -> str:
    """What executes a variant; fp32 goes without saying, so that a line fits a terminal."""
    provider = row.provider.removesuffix("ExecutionProvider")
    precision = "" if row.precision in ("", "fp32") else row.precision
    return " ".join(filter(None, ["/".join(filter(None, [row.runtime, provider])), precision]))
