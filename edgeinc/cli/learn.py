"""Commands that teach: demo, train, extend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from edgeinc.cli._command import LEARN, RESULT, RUN, WHAT, app, command, flag
from edgeinc.cli._options import (
    ConfigOption,
    DataListOption,
    DataRootOption,
    DryRunOption,
    OverwriteOption,
    ResumeOption,
    RunArgument,
    ScenarioOption,
    SetOption,
    completion,
    names,
    training_settings,
)
from edgeinc.cli._progress import duration
from edgeinc.cli._score import miou_lines, steps_table
from edgeinc.cli._ui import Ui
from edgeinc.config import parse_size
from edgeinc.errors import as_typed
from edgeinc.runs import open_run
from edgeinc.schema import LearnResult


@command(
    app,
    "demo",
    panel=LEARN,
    examples=["edgeinc demo", "edgeinc demo --out /tmp/edgeinc-demo"],
)
def demo(
    ui: Ui,
    out: Annotated[
        str,
        typer.Option("--out", metavar="DIR", help="Folder it works in.", rich_help_panel=RESULT),
    ] = "edgeinc-demo",
) -> None:
    """Run the whole story on generated images: minutes on a CPU.

    Trains a base network, extends it, exports every step, times and scores the files, and
    writes a page and a picture.
    """
    from edgeinc.demo import demo as run_demo

    result = run_demo(out, progress=ui.progress)
    rows = [(r.step, r.classes, r.miou_old, r.miou_new, r.miou_all, r.fps) for r in result.rows]
    ui.remember(result.run)
    ui.result(
        result,
        ui.table(("step", "classes", "old mIoU", "new mIoU", "mIoU", "FPS"), rows),
        f"page     {result.report}",
        f"picture  {result.picture}",
        f"took     {duration(result.seconds)}",
        essential=[result.report],
        hint=["edgeinc", "eval", result.run, "--step", "all"],
    )
    ui.gate(result.failures, hint=f"the run is kept: {as_typed('show', result.run)}")


@command(
    app,
    "train",
    panel=LEARN,
    examples=[
        "edgeinc train --data camvid --classes sky,road,tree --model erfnet",
        "edgeinc train --data camvid --scenario camvid:full --run runs/full",
        "edgeinc train --data ./my-data -e 20 -b 4 --size 256x320 --dry-run",
        "edgeinc train --run runs/full --resume",
    ],
    settings=training_settings(defaults=True),
)
def train(
    ui: Ui,
    data: DataListOption = None,
    data_root: DataRootOption = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="a,b,c",
            help="Classes in the order of their ids; else all, or the scenario's.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Network (`edgeinc ls models`); else erfnet.",
            rich_help_panel=WHAT,
            autocompletion=completion("models"),
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            help="Method of later steps, if it trains something at step 0 already; else ejt.",
            rich_help_panel=WHAT,
            autocompletion=completion("methods"),
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Height x width of the input; else the dataset's.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            "--background",
            metavar="none|virtual|real",
            help="What id 0 is: virtual adds a class for everything else; else as in the data.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    scenario: ScenarioOption = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="DIR",
            help="Folder of the run; else runs/DATA-MODEL.",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    config: ConfigOption = None,
    sets: SetOption = None,
    dry_run: DryRunOption = False,
    **settings: Any,
) -> None:
    """Train the base network of a new run: its step 0.

    With --resume nothing but --run need be said again.
    """
    height_width = parse_size(size) if size else None
    from edgeinc.training import train as run_training

    result = run_training(
        data or None,
        classes=names(classes, "--classes"),
        background=background,
        model=model,
        method=method,
        size=height_width,
        scenario=scenario,
        run=run,
        data_root=data_root,
        config=config or (),
        sets=sets or (),
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=ui.progress,
        **settings,
    )
    made = (Path(result.run) / "run.json").is_file()  # a dry run makes none
    planned = scenario or (made and open_run(result.run).info.scenario)
    more = ["--all"] if planned else ["--new-classes", "NAME,NAME"]
    _learned(ui, result, hint=["edgeinc", "extend", result.run, *more])


@command(
    app,
    "extend",
    panel=LEARN,
    examples=[
        "edgeinc extend --new-classes car,bus",
        "edgeinc extend runs/full --all -m cil",
        "edgeinc extend runs/full --new-classes car --data ./new -e 20",
    ],
    settings=training_settings(defaults=False),
)
def extend(
    ui: Ui,
    run: RunArgument = None,
    new_classes: Annotated[
        str | None,
        typer.Option(
            "--new-classes",
            metavar="a,b",
            help="Classes to add; else those of the scenario's next step.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            help="Method (`edgeinc ls methods`); else that of the step before, or ejt.",
            rich_help_panel=WHAT,
            autocompletion=completion("methods"),
        ),
    ] = None,
    data: DataListOption = None,
    data_root: DataRootOption = None,
    scenario: ScenarioOption = None,
    all_steps: Annotated[
        bool,
        flag("--all", help="Every step left of the scenario.", panel=WHAT),
    ] = False,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    config: ConfigOption = None,
    sets: SetOption = None,
    dry_run: DryRunOption = False,
    **settings: Any,
) -> None:
    """Teach a run new classes: its next step, or every step left.

    Only the data given and the previous step's files are opened. Without --data the run's own
    dataset is used, cut to the images and labels of the new classes. A setting that is not given
    is that of the step before.
    """
    folder = ui.run(run)
    listed = names(new_classes, "--new-classes")
    from edgeinc.training import extend as run_extension

    result = run_extension(
        folder,
        new_classes=listed,
        method=method,
        data=data or None,
        all_steps=all_steps,
        scenario=scenario,
        data_root=data_root,
        config=config or (),
        sets=sets or (),
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=ui.progress,
        **settings,
    )
    _learned(ui, result, hint=["edgeinc", "export", result.run])


def _learned(ui: Ui, result: LearnResult, *, hint: Sequence[str]) -> None:
    """Print what train and extend did or plan to do."""
    ui.remember(result.run)
    blocks: list[str | Table] = [steps_table(ui, result.steps)]
    planned = any(step.status == "planned" for step in result.steps)
    if planned:
        settings = result.steps[-1].settings
        rows = [(name, _setting(s.value), s.source) for name, s in settings.items()]
        blocks += ["", ui.table(("setting", "value", "from"), rows), "", "nothing was written"]
    if result.score:
        blocks += ["", *miou_lines(ui, result.score)]
    blocks.append(f"run {result.run}")
    ui.result(result, *blocks, essential=[result.run], hint=() if planned else hint)


def _setting(value: object) -> str | None:
    """A value as TOML writes it; a column of them is text."""
    if isinstance(value, bool):
        return str(value).lower()
    return None if value in (None, "") else str(value)
