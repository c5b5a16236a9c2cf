"""Commands that bring a run to a device: export."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgeinc.cli._command import RESULT, SHIP, WHAT, app, command, flag
from edgeinc.cli._options import (
    DataOption,
    DataRootOption,
    RunArgument,
)
from edgeinc.cli._ui import Ui
from edgeinc.errors import UsageError
from edgeinc.schema import ArtifactCard, EngineCheck


@command(
    app,
    "export",
    panel=SHIP,
    examples=[
        "edgeinc export",
        "edgeinc export runs/full --step 1 --data-root /data",
        "edgeinc export runs/full --head dynamic --precision fp16 --trt",
    ],
)
def export(
    ui: Ui,
    run: RunArgument = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            metavar="N",
            min=0,
            help="Step to export; else the newest.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    data: DataOption = None,
    data_root: DataRootOption = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="NAME",
            help="Types in the file: fp32 or fp16.",
            rich_help_panel=RESULT,
        ),
    ] = "fp32",
    head: Annotated[
        str,
        typer.Option(
            "--head",
            metavar="MODE",
            help="static; capacity: room for later classes; dynamic: the classifier is an input. "
            "The last two keep the graph from step to step.",
            rich_help_panel=RESULT,
        ),
    ] = "static",
    capacity: Annotated[
        int,
        typer.Option(
            "--capacity",
            metavar="N",
            help="Classes there is room for with --head capacity.",
            rich_help_panel=RESULT,
        ),
    ] = 32,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="WHAT",
            help="classes, logits or both.",
            rich_help_panel=RESULT,
        ),
    ] = "classes",
    images: Annotated[
        str,
        typer.Option(
            "--input",
            metavar="TYPE",
            help="uint8, or float (0 to 255) for runtimes that take no other.",
            rich_help_panel=RESULT,
        ),
    ] = "uint8",
    dynamic_batch: Annotated[
        str | None,
        typer.Option(
            "--dynamic-batch",
            metavar="MIN:OPT:MAX",
            help="Images of a call: fewest, usual, most; else one.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    trt: Annotated[
        bool,
        flag(
            "--trt",
            help="Also build the TensorRT engine; without TensorRT, write how the device does.",
            panel=RESULT,
        ),
    ] = False,
    trt_check: Annotated[
        bool,
        flag(
            "--trt-check",
            help="Also try the file with tensorrt-rtx, which needs no GPU; exit 3 if it fails.",
            panel=RESULT,
        ),
    ] = False,
    require_trt: Annotated[
        bool,
        flag(
            "--require-trt", help="As --trt, and exit 4 where TensorRT is not here.", panel=RESULT
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write; else in RUN/export.",
            rich_help_panel=RESULT,
        ),
    ] = None,
) -> None:
    """Write a step as ONNX and check it against torch.

    Preprocessing and decision are inside: uint8 images in, class ids out. Exit 3 when the file
    does not agree with torch.
    """
    path = ui.run(run)
    from edgeinc.deploy.export import export as write_artifact

    result = write_artifact(
        path,
        step=step,
        precision=precision,
        head=head,
        capacity=capacity,
        output=output,
        input=images,
        dynamic_batch=_batch(dynamic_batch),
        trt=trt,
        trt_check=trt_check,
        require_trt=require_trt,
        out=out,
        data=data,
        data_root=data_root,
        progress=ui.progress,
    )
    ui.remember(path)
    parity = result.card.parity
    rejected = parity is not None and not parity.passed
    ui.result(
        result,
        ui.facts(
            ("file", result.path),
            *card_facts(result.card),
            ("engine", result.engine),
            ("recipe", result.recipe),
            ("note", result.note),
        ),
        *(check_lines(ui, result.check) if result.check else ()),
        essential=[p for p in (result.path, result.engine) if p],
        hint=[] if rejected else ["edgeinc", "bench", path],
    )
    if parity and rejected:
        ui.gate(
            [f"{parity.agreement:.3f} % of pixels agree with torch, the gate is {parity.gate} %"],
            hint=f"kept for inspection: {result.path}; most different: '{parity.worst_class}'",
        )
    if result.check:
        check_gate(ui, result.check)


def _batch(text: str | None) -> tuple[int, int, int] | None:
    """`1:4:8` as numbers."""
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise UsageError(
            f"--dynamic-batch '{text}' is not MIN:OPT:MAX", hint="for example --dynamic-batch 1:4:8"
        )
    low, usual, high = map(int, parts)
    return low, usual, high


def card_facts(card: ArtifactCard) -> list[tuple[str, Any]]:
    """What a card says, as names and values."""
    parity = "not checked"
    if card.parity:
        p = card.parity
        verdict = "passed" if p.passed else "not met"
        parity = (
            f"{p.agreement:.3f} % of pixels agree with torch on {p.images} images, worst class "
            f"{p.worst_class} IoU {p.worst_class_iou:.1f} (gate {p.gate} %: {verdict})"
        )
    return [
        ("network", f"{card.model}, step {card.step} ({card.method})"),
        ("classes", [c.name for c in card.classes]),
        ("input", card.input),
        ("output", f"{card.output} ({card.decision})"),
        ("format", f"{card.precision}, opset {card.opset}, {card.head} head"),
        ("size", f"{card.bytes / 1e6:.1f} MB"),
        ("topology", card.topology_sha256[:16]),
        ("parity", parity),
    ]


def check_lines(ui: Ui, result: EngineCheck) -> list[Any]:
    """What NVIDIA's builder says, to be printed."""
    rows = [
        (row.target, row.seconds, row.bytes / 1e6 if row.bytes else None, row.status)
        for row in result.builds
    ]
    table = [ui.table(("GPU", "s", "MB", "status"), rows)] if rows else []
    return [ui.facts(("builder", result.builder), ("layers", result.layers or "")), *table]


def check_gate(ui: Ui, result: EngineCheck) -> None:
    """End with what NVIDIA's builder did not take.

    Raises:
        GateError: There is something.
    """
    failed = [result.error] if result.error else []
    failed += [f"{row.target}: {row.status}" for row in result.builds if row.status != "ok"]
    ui.gate(failed, hint="TensorRT is likely to refuse it, too: export it again, or report it")
