"""Commands about labelled images: data ls, info, check, preview, convert, synth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edgeinc import catalogue
from edgeinc.cli._command import RESULT, WHAT, command, data_app, flag
from edgeinc.cli._options import (
    DataRootOption,
    LimitOption,
    completion,
)
from edgeinc.cli._ui import Ui
from edgeinc.config import parse_size
from edgeinc.schema import DataCheck

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH",
        help="Dataset: a name, a folder, or a file (.zip, .json).",
        autocompletion=completion("datasets"),
    ),
]


@command(data_app, "ls", examples=["edgeinc data ls", "edgeinc data ls --json"])
def ls(ui: Ui) -> None:
    """List the datasets and label formats."""
    result = catalogue.listing("datasets")
    ui.result(
        result,
        ui.table(("", ""), [(item.name, item.summary) for item in result.items]),
        essential=[item.name for item in result.items],
        hint=["edgeinc", "data", "info", result.items[0].name],
    )


@command(
    data_app,
    "info",
    examples=["edgeinc data info streets", "edgeinc data info camvid --data-root /data"],
)
def info(ui: Ui, data: DataArgument, data_root: DataRootOption = None) -> None:
    """Name the classes of a dataset and count the images of its splits."""
    from edgeinc.data._check import info as describe

    result = describe(data, data_root=data_root)
    ui.result(
        result,
        ui.facts(
            ("dataset", result.name),
            ("folder", result.root),
            ("images", [f"{split} {n}" for split, n in result.splits.items()]),
            ("size", f"{result.size[0]}x{result.size[1]}" if result.size else None),
            ("classes", result.classes),
            ("background", result.background),
        ),
        essential=result.classes,
        hint=["edgeinc", "data", "check", data],
    )


@command(
    data_app,
    "check",
    examples=[
        "edgeinc data check ./my-data",
        "edgeinc data check camvid --data-root /data --limit 50",
    ],
)
def check(
    ui: Ui, data: DataArgument, data_root: DataRootOption = None, limit: LimitOption = None
) -> None:
    """Read every image and mask and name every problem; exit 3 when there is one."""
    from edgeinc.data._check import check as check_all

    result = check_all(data, data_root=data_root, limit=limit, progress=ui.progress)
    images = ", ".join(f"{split} {n}" for split, n in result.images.items())
    ui.result(
        result,
        f"{result.data.name} in {result.data.root}: {images} images",
        _histogram(ui, result),
        *(f"warning: {text}" for text in result.warnings),
        *(f"problem: {text}" for text in result.problems),
        essential=result.problems,
        hint=["edgeinc", "data", "preview", data, "-o", "preview.png"] if result.ok else [],
    )
    if not result.ok:
        n = len(result.problems)
        ui.gate(
            [f"{n} problem{'' if n == 1 else 's'} in {data}"],
            hint="mend the files named above, then check again",
        )


def _histogram(ui: Ui, result: DataCheck) -> Table:
    """One line per class: in how many images it is, how many pixels and what share of them."""
    rows = []
    for split, counts in result.counts.items():
        total = sum(c.pixels for c in counts) or 1
        rows += [(split, c.id, c.name, c.images, c.pixels, 100 * c.pixels / total) for c in counts]
    return ui.table(("split", "id", "class", "images", "pixels", "% of pixels"), rows)


@command(
    data_app,
    "preview",
    examples=[
        "edgeinc data preview streets -o streets.png",
        "edgeinc data preview ./my-data -o sheet.png --n 16",
    ],
)
def preview(
    ui: Ui,
    data: DataArgument,
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="FILE", help="Picture.", rich_help_panel=RESULT),
    ],
    n: Annotated[
        int,
        typer.Option("--n", metavar="N", min=1, help="Number of images.", rich_help_panel=WHAT),
    ] = 9,
    data_root: DataRootOption = None,
) -> None:
    """Draw images with their masks and a legend into one picture."""
    from edgeinc.data._preview import preview as draw_preview

    result = draw_preview(data, data_root=data_root, out=Path(out), n=n, progress=ui.progress)
    ui.result(
        result,
        f"wrote {result.path}: {result.images} images",
        essential=[result.path],
        hint=["edgeinc", "train", "--data", data],
    )


@command(
    data_app,
    "convert",
    examples=[
        "edgeinc data convert export.zip --to folder -o ./my-data",
        "edgeinc data convert voc --data-root /data -o ./voc --limit 100",
    ],
)
def convert(
    ui: Ui,
    data: DataArgument,
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write.", rich_help_panel=RESULT),
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="What to write.", rich_help_panel=RESULT),
    ] = "folder",
    data_root: DataRootOption = None,
    limit: LimitOption = None,
    overwrite: Annotated[
        bool, flag("--overwrite", help="Replace what an earlier call wrote.", panel=RESULT)
    ] = False,
) -> None:
    """Write any dataset as a folder of images, masks and classes.toml."""
    from edgeinc.data._convert import convert as convert_all

    result = convert_all(
        data,
        to=to,
        out=Path(out),
        data_root=data_root,
        limit=limit,
        overwrite=overwrite,
        progress=ui.progress,
    )
    ui.result(
        result,
        f"wrote {result.path}: {result.images} images, {result.note}",
        essential=[result.path],
        hint=["edgeinc", "data", "check", out],
    )


@command(
    data_app,
    "synth",
    examples=[
        "edgeinc data synth ./streets",
        "edgeinc data synth ./streets --n 50 --size 96x128 --seed 1",
    ],
)
def synth(
    ui: Ui,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder to write.")],
    n: Annotated[
        int,
        typer.Option("--n", metavar="N", min=1, help="Number of images.", rich_help_panel=WHAT),
    ] = 200,
    size: Annotated[
        str,
        typer.Option("--size", metavar="HxW", help="Height x width.", rich_help_panel=WHAT),
    ] = "128x160",
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="S", min=0, help="Another set.", rich_help_panel=WHAT),
    ] = 0,
    overwrite: Annotated[
        bool, flag("--overwrite", help="Replace what an earlier call wrote.", panel=RESULT)
    ] = False,
) -> None:
    """Write generated street scenes as a folder dataset."""
    height_width = parse_size(size)
    from edgeinc.data._synth import synth as write_scenes

    result = write_scenes(
        Path(folder), n=n, size=height_width, seed=seed, overwrite=overwrite, progress=ui.progress
    )
    ui.result(
        result,
        f"wrote {result.path}: {result.images} images",
        essential=[result.path],
        hint=["edgeinc", "data", "check", folder],
    )
