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
from edgeinc.schema import ArtifactCard


@command(
    app,
    "export",
    panel=SHIP,
    examples=[
        "edgeinc export",
        "edgeinc export runs/full --step 1 --data-root /data",
        "edgeinc export runs/full --trt -o full.onnx",
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
            "--precision", metavar="NAME", help="Precision of the file.", rich_help_panel=RESULT
        ),
    ] = "fp32",
    trt: Annotated[
        bool,
        flag("--trt", help="Also write how a device builds its TensorRT engine.", panel=RESULT),
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
        trt=trt,
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
        essential=[p for p in (result.path, result.engine) if p],
        hint=[] if rejected else ["edgeinc", "bench", path],
    )
    if parity and rejected:
        ui.gate(
            [f"{parity.agreement:.3f} % of pixels agree with torch, the gate is {parity.gate} %"],
            hint=f"kept for inspection: {result.path}; most different: '{parity.worst_class}'",
        )


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
        ("input", f"{card.input}, {card.size[0]}x{card.size[1]}"),
        ("output", f"{card.output} ({card.decision})"),
        ("format", f"{card.precision}, opset {card.opset}, {card.head} head"),
        ("size", f"{card.bytes / 1e6:.1f} MB"),
        ("topology", card.topology_sha256[:16]),
        ("parity", parity),
    ]
