"""Commands that measure: bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edgeinc.cli._command import MACHINE, RESULT, SHIP, WHAT, app, command
from edgeinc.cli._options import (
    DataOption,
    DataRootOption,
    DeviceOption,
    LimitOption,
    ThreadsOption,
    names,
)
from edgeinc.cli._ui import Ui
from edgeinc.schema import BenchResult, BenchRow


@command(
    app,
    "bench",
    panel=SHIP,
    examples=[
        "edgeinc bench",
        "edgeinc bench runs/full --runtime torch,onnxruntime --threads 2",
        "edgeinc bench a.onnx b.onnx --data camvid --limit 50 -o bench.json",
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
        typer.Option(
            "--runtime",
            metavar="a,b",
            help="Runtimes to compare; else every one that opens the files.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    data: DataOption = None,
    data_root: DataRootOption = None,
    limit: LimitOption = None,
    duration: Annotated[
        float,
        typer.Option(
            "--duration",
            metavar="S",
            min=0.01,
            help="Seconds to time each variant for.",
            rich_help_panel=MACHINE,
        ),
    ] = 5.0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="JSON file to write.", rich_help_panel=RESULT
        ),
    ] = None,
) -> None:
    """Time runs and exported files, and score the same files."""
    paths = targets or [ui.run(None)]
    from edgeinc.deploy.bench import bench as run_bench

    result = run_bench(
        *paths,
        runtimes=names(runtime, "--runtime"),
        data=data,
        data_root=data_root,
        limit=limit,
        duration=duration,
        threads=threads,
        device=device,
        out=out,
        progress=ui.progress,
    )
    ui.remember(paths[0])
    scored = f", mIoU on {result.images} images of {result.data.name}" if result.data else ""
    saved = [f"saved {result.path}"] if result.path else []
    ui.result(
        result,
        _bench_table(ui, result),
        "",
        *(f"{scope}: {meaning}" for scope, meaning in result.scopes.items()),
        f"on {result.host.gpu or result.host.cpu}, {result.host.cores} cores{scored}",
        *saved,
        essential=[result.path] if result.path else [],
        hint=[
            "edgeinc",
            "report",
            *([paths[0]] if (Path(paths[0]) / "run.json").is_file() else []),
        ],
    )


def _bench_table(ui: Ui, result: BenchResult) -> Table:
    """One line per variant and scope; a file goes by its name while that is not ambiguous."""
    paths = {row.artifact for row in result.rows}
    unique = len({Path(path).name for path in paths}) == len(paths)
    rows = [
        (
            Path(row.artifact).name if unique else row.artifact,
            _runtime(row),
            row.scope,
            row.p50_ms,
            row.p99_ms,
            row.fps,
            row.miou,
            row.file_bytes / 1e6 if row.file_bytes else None,
            row.status,
        )
        for row in result.rows
    ]
    headers = ("artifact", "runtime", "scope", "p50 ms", "p99 ms", "FPS", "mIoU", "MB", "status")
    return ui.table(headers, rows)


def _runtime(row: BenchRow) -> str:
    """What executes a variant; fp32 goes without saying, so that a line fits a terminal."""
    provider = row.provider.removesuffix("ExecutionProvider")
    precision = "" if row.precision in ("", "fp32") else row.precision
    return " ".join(filter(None, ["/".join(filter(None, [row.runtime, provider])), precision]))
