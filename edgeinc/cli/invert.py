"""The command that shows what a network remembers: invert."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeinc.cli._command import LEARN, MACHINE, RESULT, WHAT, app, command
from edgeinc.cli._options import ConfigOption, OverwriteOption, RunArgument, SetOption
from edgeinc.cli._progress import duration
from edgeinc.cli._ui import Ui


@command(
    app,
    "invert",
    panel=LEARN,
    examples=[
        "edgeinc invert",
        "edgeinc invert runs/full -o pictures --set method.per_class=4",
        "edgeinc invert runs/full --step 0 --set method.iterations=300",
    ],
)
def invert(
    ui: Ui,
    run: RunArgument = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            metavar="N",
            min=0,
            help="Network after this step; else the newest.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="auto, cpu, cuda or cuda:N; else the step's.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="NAME",
            help="auto, fp32 or bf16; else the step's.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=0,
            help="0 takes every core; else the step's.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder to copy the pictures to; else they stay in the run only.",
            rich_help_panel=RESULT,
        ),
    ] = None,
) -> None:
    """Make images of a network's classes from the network alone.

    `extend --method hrhf` uses them in place of old images, and makes them itself where they are
    missing; stopped, they are continued. Options are those of `edgeinc show hrhf`. They resemble
    the training data: mind who gets to see them.
    """
    path = ui.run(run)
    from edgeinc.training.inverting import invert as make

    result = make(
        path,
        step=step,
        out=out,
        overwrite=overwrite,
        config=config or (),
        sets=sets or (),
        device=device,
        precision=precision,
        threads=threads,
        progress=ui.progress,
    )
    ui.remember(path)
    # With other options `extend` would make other images.
    given = [word for file in config or () for word in ("--config", file)]
    given += [word for item in sets or () for word in ("--set", item)]
    rows = [(c.name, c.images, c.found, c.area) for c in result.classes]
    ui.result(
        result,
        ui.table(("class", "images", "found %", "area %"), rows),
        "",
        f"the network finds the class it was asked for in {result.found} % of {result.images} "
        "images; area is its share of their pixels",
        f"BatchNorm statistics: {result.bn_noise:.2f} from noise, {result.bn_images:.2f} from "
        f"the images; took {duration(result.seconds)}",
        f"images {result.folder}",
        *([f"copied {result.out}"] if result.out else []),
        essential=[result.out or result.folder],
        hint=["edgeinc", "extend", path, "--new-classes", "NAME,NAME", "--method", "hrhf", *given],
    )
