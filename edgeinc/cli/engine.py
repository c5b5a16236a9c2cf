"""Commands on the device: build."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from edgeinc.cli._command import MACHINE, RESULT, SHIP, WHAT, app, command, flag
from edgeinc.cli._options import DeviceOption
from edgeinc.cli._ui import Ui
from edgeinc.schema import BuildResult, EngineCheck


@command(
    app,
    "build",
    panel=SHIP,
    examples=[
        "edgeinc build step-1.fp32.onnx",
        "edgeinc build step-1.fp32.onnx --refit head -o new.engine",
        "edgeinc build runs/full/export/step-1.fp32.onnx --trt-check",
    ],
)
def build(
    ui: Ui,
    artifact: Annotated[
        str,
        typer.Argument(metavar="FILE.onnx", help="An exported file.", show_default=False),
    ],
    refit: Annotated[
        Literal["none", "head", "all"],
        typer.Option(
            "--refit",
            help="Weights that can be replaced without a build; all may cost speed.",
            rich_help_panel=WHAT,
        ),
    ] = "none",
    max_rows: Annotated[
        int,
        typer.Option(
            "--max-rows",
            metavar="N",
            min=1,
            help="Classes a dynamic head may grow to.",
            rich_help_panel=WHAT,
        ),
    ] = 64,
    trt_check: Annotated[
        bool,
        flag(
            "--trt-check",
            help="Only try the file with tensorrt-rtx, which needs no GPU; exit 3 if it fails.",
            panel=WHAT,
        ),
    ] = False,
    device: DeviceOption = "auto",
    memory: Annotated[
        int | None,
        typer.Option(
            "--memory",
            metavar="MB",
            min=1,
            help="End the build when it needs more; else most of what is free.",
            rich_help_panel=MACHINE,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Engine to write; else beside the artifact.",
            rich_help_panel=RESULT,
        ),
    ] = None,
) -> None:
    """Build the TensorRT engine of an exported file, on this machine for this machine.

    Exit 4 when TensorRT, a driver or a GPU is missing.
    """
    from edgeinc.deploy import build as module

    if trt_check:
        show_check(ui, module.check(artifact, max_rows=max_rows, progress=ui.progress))
        return
    result = module.build(
        artifact,
        out=out,
        refit=refit,
        max_rows=max_rows,
        device=device,
        memory_mb=memory,
        progress=ui.progress,
    )
    ui.result(
        result,
        ui.facts(*_facts(result)),
        essential=[result.path],
        hint=["edgeinc", "bench", result.path],
    )


def _facts(result: BuildResult) -> list[tuple[str, str]]:
    card, machine = result.card, result.card.machine
    l4t = f", L4T {machine.l4t}" if machine.l4t else ""
    peak = f", at most {card.peak_mb:.0f} MB" if card.peak_mb else ""
    return [
        ("engine", f"{result.path}, {card.bytes / 1e6:.1f} MB"),
        ("for", f"{machine.gpu} ({machine.compute_capability}), TensorRT {machine.tensorrt}{l4t}"),
        ("from", f"{card.artifact.file}, {card.precision}, step {card.artifact.step}"),
        ("refit", card.refit),
        ("built in", f"{card.seconds:.1f} s{peak}, {card.timing_cache} timing cache"),
    ]


def show_check(ui: Ui, result: EngineCheck) -> None:
    """Print what NVIDIA's builder says about a file.

    Raises:
        GateError: It does not take the file.
    """
    rows = [
        (row.target, row.seconds, row.bytes / 1e6 if row.bytes else None, row.status)
        for row in result.builds
    ]
    ui.result(
        result,
        ui.facts(
            ("file", result.path), ("builder", result.builder), ("layers", result.layers or "")
        ),
        *([ui.table(("GPU", "s", "MB", "status"), rows)] if rows else []),
        essential=[f"{result.path}: {'ok' if result.ok else 'failed'}"],
    )
    failed = [result.error] if result.error else []
    failed += [f"{row.target}: {row.status}" for row in result.builds if row.status != "ok"]
    ui.gate(failed, hint="TensorRT is likely to refuse it, too: export it again, or report it")
