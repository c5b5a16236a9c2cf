"""Commands that bring a run to a device: export."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from edgeinc.cli._command import RESULT, SHIP, WHAT, app, command, flag
from edgeinc.cli._options import (
    DataOption,
    DataRootOption,
    RunArgument,
)
from edgeinc.cli._ui import Ui
from edgeinc.config import parse_size
from edgeinc.errors import UsageError
from edgeinc.schema import ArtifactCard, ClassLoss, EngineCheck, Parity


@command(
    app,
    "export",
    panel=SHIP,
    examples=[
        "edgeinc export",
        "edgeinc export runs/full --step 1 --data-root /data",
        "edgeinc export runs/full --head dynamic --precision fp16 --trt",
        "edgeinc export runs/full --precision int8 --for openvino",
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
            help="Types in the file: fp32, fp16 or int8.",
            rich_help_panel=RESULT,
        ),
    ] = "fp32",
    target: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="RUNTIME",
            help="What int8 is made for: onnxruntime, openvino or tensorrt.",
            rich_help_panel=RESULT,
        ),
    ] = "onnxruntime",
    calibration: Annotated[
        int,
        typer.Option(
            "--calibration",
            metavar="N",
            min=1,
            help="Training images that int8 takes its ranges from.",
            rich_help_panel=WHAT,
        ),
    ] = 64,
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            metavar="N",
            min=0,
            help="Labelled images to score file and network on; 0 scores neither.",
            rich_help_panel=WHAT,
        ),
    ] = 100,
    max_miou_loss: Annotated[
        float,
        typer.Option(
            "--max-miou-loss",
            metavar="POINTS",
            min=0,
            help="Gate: mIoU the file may lose against torch. int8 leaves layers float to meet it.",
            rich_help_panel=RESULT,
        ),
    ] = 0.5,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Size of the images it takes; else that of the training.",
            rich_help_panel=RESULT,
        ),
    ] = None,
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
    triton: Annotated[
        str | None,
        typer.Option(
            "--triton",
            metavar="DIR",
            help="Also put the file into this Triton model repository, as version STEP + 1.",
            rich_help_panel=RESULT,
        ),
    ] = None,
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
        target=target,
        size=None if size is None else parse_size(size),
        head=head,
        capacity=capacity,
        output=output,
        input=images,
        dynamic_batch=_batch(dynamic_batch),
        trt=trt,
        trt_check=trt_check,
        require_trt=require_trt,
        triton=triton,
        out=out,
        data=data,
        data_root=data_root,
        limit=limit,
        calibration=calibration,
        max_miou_loss=max_miou_loss,
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
            ("triton", result.triton),
            ("note", result.note),
        ),
        *_losses(ui, result.card),
        *(check_lines(ui, result.check) if result.check else ()),
        essential=[p for p in (result.path, result.engine) if p],
        hint=[] if rejected else ["edgeinc", "bench", path],
    )
    if parity and rejected:
        worst = _worst(parity)
        hint = f"most different: '{worst.name if worst else parity.worst_class}'"
        ui.gate(parity.unmet, hint=f"kept for inspection: {result.path}; {hint}")
    if result.check:
        check_gate(ui, result.check)


def _losses(ui: Ui, card: ArtifactCard) -> list[Table]:
    """What each class loses against torch; in fp32, where nothing is lost, only if it does."""
    parity = card.parity
    if parity is None or not parity.losses or (card.precision == "fp32" and parity.passed):
        return []
    worst = _worst(parity)
    rows = [
        (
            loss.name,
            loss.reference_iou,
            loss.iou,
            None if loss.points is None else f"{loss.points:+.2f}",
            "worst" if loss is worst else "",
        )
        for loss in parity.losses
    ]
    title = f"IoU on {parity.scored} labelled images"
    return [ui.table(("class", "torch", "file", "loss", ""), rows, title=title)]


def _worst(parity: Parity) -> ClassLoss | None:
    """The class that loses most, if one does."""
    lost = [loss for loss in parity.losses if (loss.points or 0) > 0]
    return max(lost, key=lambda loss: loss.points or 0, default=None)


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
    parity = miou = "not checked"
    if card.parity:
        p = card.parity
        verdict = "passed" if p.agreement >= p.gate else "not met"
        gate = f"gate {p.gate} %: {verdict}" if p.gate else "no gate"
        parity = (
            f"{p.agreement:.3f} % of pixels agree with torch on {p.images} images, worst class "
            f"{p.worst_class} IoU {p.worst_class_iou:.1f} ({gate})"
        )
    if card.parity and card.parity.miou_loss is not None:
        p = card.parity
        verdict = "passed" if card.parity.miou_loss <= (p.miou_gate or 0) else "not met"
        miou = (
            f"{p.miou:.2f}, torch {p.reference_miou:.2f} on {p.scored} images "
            f"(may lose {p.miou_gate}: {verdict})"
        )
    int8 = f"{card.quantizer}, for {card.target}, ranges from {card.calibration} images"
    return [
        ("network", f"{card.model}, step {card.step} ({card.method})"),
        ("classes", [c.name for c in card.classes]),
        ("input", card.input),
        ("output", f"{card.output} ({card.decision})"),
        ("format", f"{card.precision}, opset {card.opset}, {card.head} head"),
        ("size", f"{card.bytes / 1e6:.1f} MB"),
        ("topology", card.topology_sha256[:16]),
        ("parity", parity),
        ("mIoU", miou),
        ("int8 by", int8 if card.target else ""),
        ("float layers", card.excluded),
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
