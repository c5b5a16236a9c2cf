"""The command about protocols: data split."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from edgeinc.cli._command import RESULT, WHAT, command, data_app, flag
from edgeinc.cli._options import DataRootOption, completion
from edgeinc.cli._ui import Ui
from edgeinc.schema import Labels, Selection


@command(
    data_app,
    "split",
    examples=[
        "edgeinc data split voc --scenario 15-1 --data-root ./data",
        "edgeinc data split voc --scenario 15-1 --selection disjoint --json",
        "edgeinc data split voc --scenario 15-5 --index 0.npy --index 1.npy",
        "edgeinc data split ./my-data --scenario plan.toml --list --json",
    ],
)
def split(
    ui: Ui,
    data: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="Dataset: a name or a folder.",
            autocompletion=completion("datasets"),
        ),
    ],
    scenario: Annotated[
        str,
        typer.Option(
            "--scenario",
            metavar="NAME|FILE.toml",
            help="Plan of classes per step (`edgeinc ls scenarios`).",
            rich_help_panel=WHAT,
        ),
    ],
    selection: Annotated[
        str | None,
        typer.Option(
            "--selection",
            metavar="overlapped|disjoint|partitioned|listed",
            help="Which images belong to a step; else the plan's.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="new-only|new-and-old",
            help="Which labels a step sees; else the plan's.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            metavar="FILE",
            help="List of a step's images (.npy or text); repeat it for every step.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            "--hold-out",
            metavar="X",
            min=0,
            max=0.99,
            help="Share of a step's images kept out of training.",
            rich_help_panel=WHAT,
        ),
    ] = 0.0,
    list_ids: Annotated[
        bool, flag("--list", help="List the images of every step.", panel=RESULT)
    ] = False,
    data_root: DataRootOption = None,
) -> None:
    """Show which images every step of a plan trains on."""
    from edgeinc.data._protocol import split as split_data

    result = split_data(
        data,
        scenario=scenario,
        selection=cast("Selection | None", selection),
        labels=cast("Labels | None", labels),
        index=index or (),
        hold_out=hold_out,
        list_ids=list_ids,
        data_root=data_root,
        progress=ui.progress,
    )
    rows = [(s.index, s.classes, s.images, s.held_out, s.test) for s in result.steps]
    columns = ("step", "new classes", "images", "held out", "val images with learned classes")
    listed = [f"{s.index} {image}" for s in result.steps for image in s.ids or ()]
    ui.result(
        result,
        f"{result.scenario} on {result.data.name}: {result.selection}, labels {result.labels}, "
        f"background {result.background}",
        ui.table(columns, rows),
        f"{result.total} images in train, {result.unused} of them in no step",
        *listed,
        essential=listed or [str(s.images) for s in result.steps],
        hint=["edgeinc", "train", "--data", data, "--scenario", scenario],
    )
