"""The command that starts from a network you have: import."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from edgeinc.cli._command import LEARN, RUN, WHAT, app, command
from edgeinc.cli._options import DataOption, DataRootOption, OverwriteOption, completion
from edgeinc.cli._ui import Ui
from edgeinc.config import parse_size
from edgeinc.errors import UsageError
from edgeinc.schema import ImportResult


@command(
    app,
    "import",
    panel=LEARN,
    examples=[
        "edgeinc import erfnet_pretrained.pth --model erfnet --classes cityscapes",
        "edgeinc import bisenet.pth --model bisenet --classes names.txt --run runs/b",
        "edgeinc import n.pth --model erfnet --classes a,b --mean 0,0,0 --std 1,1,1",
    ],
)
def import_(
    ui: Ui,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Published weights: .pth, .pth.tar or .safetensors; never run."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Network (`edgeinc ls models`).",
            rich_help_panel=WHAT,
            autocompletion=completion("models"),
        ),
    ],
    classes: Annotated[
        str,
        typer.Option(
            "--classes",
            metavar="a,b,c|FILE|NAME",
            help="What the outputs mean, in order: names, a file with one per line, a "
            "classes.toml, or a dataset (voc, cityscapes, ade20k, camvid).",
            rich_help_panel=WHAT,
        ),
    ],
    background: Annotated[
        str | None,
        typer.Option(
            "--background",
            metavar="none|real",
            help="real: the first output is a background; else the dataset's, or none.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="R,G,B",
            help="Mean it was trained with, pixels from 0 to 1; else the release's.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            "--std",
            metavar="R,G,B",
            help="Standard deviation it was trained with, pixels from 0 to 1.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Height x width of the input; else the dataset's, else 512x1024.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    data: DataOption = None,
    data_root: DataRootOption = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="DIR",
            help="Folder of the run; else runs/FILE-MODEL.",
            rich_help_panel=RUN,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="K=V",
            help="How the network was built, where the file does not tell: model.KEY=VALUE.",
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make step 0 of a run from published weights, to extend, score and export it.

    Reads the names of the ERFNet PyTorch release, of CoinCheung's BiSeNet v1 and edgeinc's own.
    Every tensor is accounted for; the logits are those of the source.
    """
    height_width = parse_size(size) if size else None
    means, stds = _triple(mean, "--mean"), _triple(std, "--std")
    from edgeinc.training.importing import import_weights

    result = import_weights(
        file,
        model=model,
        classes=classes,
        background=background,
        mean=means,
        std=stds,
        size=height_width,
        data=data,
        data_root=data_root,
        sets=sets or (),
        run=run,
        overwrite=overwrite,
    )
    ui.remember(result.run)
    known = [] if result.step.data.name else ["--data", "NAME"]
    ui.result(
        result,
        *_account(ui, result),
        essential=[result.run],
        hint=["edgeinc", "eval", result.run, *known],
    )


def _account(ui: Ui, result: ImportResult) -> list[str | Table]:
    """What became of every tensor, and what the run now takes for granted."""
    step = result.step
    tensors = f"{result.matched} matched"
    for what, names in (("dropped", result.dropped), ("filled", result.filled)):
        tensors += f", {len(names)} {what}" if names else ""
    blocks: list[str | Table] = [
        ui.facts(
            ("file", f"{result.file}, {result.format}"),
            ("tensors", tensors),
            ("normalised", f"mean {_values(result.mean)}, std {_values(result.std)}"),
            ("", result.normalisation),
            ("classes", f"{len(step.classes)}, background {step.background}"),
            ("", step.new_classes),
            ("size", f"{result.size[0]}x{result.size[1]}"),
            ("data", step.data.name or "unknown: give --data to what needs images"),
        )
    ]
    left = [(name, "dropped", reason) for name, reason in result.dropped.items()]
    left += [(name, "filled", reason) for name, reason in result.filled.items()]
    if left:
        blocks += ["", ui.table(("tensor", "", "why"), left)]
    return [*blocks, *result.notes, "", f"run {result.run}"]


def _values(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _triple(text: str | None, flag: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as err:
        raise UsageError(f"cannot read {flag} {text}", hint=f"write {flag} R,G,B") from err
