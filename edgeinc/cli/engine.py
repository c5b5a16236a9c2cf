"""Commands on the device: build, plan-update."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from edgeinc.cli._command import MACHINE, RESULT, SHIP, WHAT, app, command, flag
from edgeinc.cli._options import DeviceOption, ThreadsOption
from edgeinc.cli._ui import Ui
from edgeinc.cli.ship import check_gate, check_lines
from edgeinc.schema import BuildResult, UpdatePlan


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
            help="Weights that can be replaced without a build; may cost speed.",
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
        found = module.check(artifact, max_rows=max_rows, progress=ui.progress)
        ui.result(
            found,
            ui.facts(("file", found.path)),
            *check_lines(ui, found),
            essential=[f"{found.path}: {'ok' if found.ok else 'failed'}"],
        )
        check_gate(ui, found)
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
        ("refit", card.refit + (f", {len(card.replaceable)} weights" if card.replaceable else "")),
        ("built in", f"{card.seconds:.1f} s{peak}, {card.timing_cache} timing cache"),
    ]


@command(
    app,
    "plan-update",
    panel=SHIP,
    examples=[
        "edgeinc plan-update step-1.fp32.dynamic.onnx step-2.fp32.dynamic.onnx",
        "edgeinc plan-update step-1.fp32.engine step-2.fp32.onnx",
        "edgeinc plan-update old.onnx new.onnx --measure --threads 2",
    ],
)
def plan_update(
    ui: Ui,
    old: Annotated[
        str,
        typer.Argument(
            metavar="OLD", help="The .onnx file or engine that is served.", show_default=False
        ),
    ],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="The .onnx file that shall be.", show_default=False)
    ],
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            metavar="NAME",
            help="Runtime that serves; else tensorrt for an engine, onnxruntime for a file.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        bool,
        flag("--measure", help="Do it here, while a thread keeps asking.", panel=WHAT),
    ] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
) -> None:
    """Say how a device comes from one exported file, or engine, to another file, at what cost.

    Exit 5 when the new file cannot take the old one's place.
    """
    from edgeinc.deploy import plan_update as library

    if not measure:
        plan = library.plan_update(old, new, runtime=runtime)
        ui.result(plan, ui.facts(*_plan_facts(plan)), essential=[plan.way])
        return
    found = library.measure_update(
        old, new, runtime=runtime, device=device, threads=threads, progress=ui.progress
    )
    golden = found.result.golden_percent
    ui.result(
        found,
        ui.facts(
            *_plan_facts(found.result.plan),
            ("ready after", f"{found.result.ready_ms:.1f} ms"),
            ("golden", "the file has none" if golden is None else f"{golden:.1f} % of ids agree"),
            ("exchanged in", f"{found.result.switch_ms:.3f} ms"),
            ("frames", f"{found.frames} answered, {found.lost} lost"),
            ("a frame", f"{found.usual_ms:.1f} ms, at most {found.longest_ms:.1f} meanwhile"),
        ),
        essential=[found.result.plan.way],
    )


def _plan_facts(plan: UpdatePlan) -> list[tuple[str, object]]:
    return [
        ("way", plan.way),
        ("because", plan.reason),
        ("bytes", f"{plan.bytes:,}"),
        ("new classes", list(plan.added)),
        ("gone", list(plan.removed)),
    ]
