"""Commands that look at what was learned: eval, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgeinc.cli._command import LEARN, RESULT, WHAT, app, command, flag
from edgeinc.cli._options import (
    DataListOption,
    DataRootOption,
    DeviceOption,
    LimitOption,
    RuntimeOption,
    TargetArgument,
    ThreadsOption,
)
from edgeinc.cli._score import score_blocks
from edgeinc.cli._ui import Ui
from edgeinc.errors import UsageError, as_typed


def _conventions(incomplete: str) -> list[str]:
    from edgeinc.data._conventions import convention_names

    return [name for name in convention_names() if name.startswith(incomplete)]


@command(
    app,
    "eval",
    panel=LEARN,
    examples=[
        "edgeinc eval",
        "edgeinc eval runs/full --step all --min-miou 55 --max-drop 5 --json",
        "edgeinc eval runs/full/export/step-1.fp32.onnx --data camvid",
        "edgeinc eval runs/full --convention mib --per-task --csv classes.csv",
    ],
)
def evaluate(
    ui: Ui,
    target: TargetArgument = None,
    step: Annotated[
        str | None,
        typer.Option(
            "--step",
            metavar="N|all",
            help="Step to score; else the newest. all: every step, with forgetting.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    data: DataListOption = None,
    data_root: DataRootOption = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Split to score.", rich_help_panel=WHAT)
    ] = "val",
    limit: LimitOption = None,
    convention: Annotated[
        str | None,
        typer.Option(
            "--convention",
            metavar="NAME",
            help="Rules of a published work (`edgeinc ls conventions`), perhaps with changes: "
            "mib,test_future=background; else the run's.",
            rich_help_panel=WHAT,
            autocompletion=_conventions,
        ),
    ] = None,
    eval_size: Annotated[
        str | None,
        typer.Option(
            "--eval-size",
            metavar="full|center512|HxW",
            help="Where pixels are compared; else as the convention says.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    per_task: Annotated[
        bool,
        flag(
            "--per-task",
            help="Also each step's classes among themselves, and steps 0 to k. Runs only.",
            panel=WHAT,
        ),
    ] = False,
    ignore_background: Annotated[
        bool,
        flag(
            "--ignore-background",
            help="Also with a virtual background never decided for. Runs only.",
            panel=WHAT,
        ),
    ] = False,
    min_miou: Annotated[
        float | None,
        typer.Option(
            "--min-miou",
            metavar="X",
            help="Exit 3 when the mIoU is below X percent: the mean that the convention prints.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="X",
            help="Exit 3 when the old classes lost more than X points.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Write one line per class.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    runtime: RuntimeOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
) -> None:
    """Score a run or an exported file, class by class."""
    path = ui.run(target)
    index = _step(step)
    from edgeinc.evaluation import evaluate as score

    result = score(
        path,
        step=index,
        data=data or None,
        data_root=data_root,
        split=split,
        limit=limit,
        convention=convention,
        eval_size=eval_size,
        per_task=per_task,
        ignore_background=ignore_background,
        min_miou=min_miou,
        max_drop=max_drop,
        csv=csv,
        runtime=runtime,
        device=device,
        threads=threads,
        progress=ui.progress,
    )
    ui.remember(path)
    verb = "export" if (Path(path) / "run.json").is_file() else "bench"
    if csv:
        ui.note(f"wrote {csv}")
    essential = [csv] if csv else []
    blocks = score_blocks(ui, result)
    ui.result(result, *blocks, essential=essential, hint=["edgeinc", verb, path])
    ui.gate(
        result.gates, hint=f"train longer; every class is in: {as_typed('eval', path, '--json')}"
    )


@command(
    app,
    "predict",
    panel=LEARN,
    examples=[
        "edgeinc predict street.jpg -o seen.jpg",
        "edgeinc predict runs/full images/ -o masks/ --save mask",
        "edgeinc predict runs/full drive.mp4 -o seen.mp4 --compare runs/full/step-0",
    ],
)
def predict(
    ui: Ui,
    first: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|ARTIFACT",
            help="A run or an exported file; left out: the last run.",
            show_default=False,
        ),
    ] = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="Image, folder, video or camera; a single word is the source.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", metavar="OUT", help="File or folder to write.", rich_help_panel=RESULT
        ),
    ],
    save: Annotated[
        Literal["overlay", "mask", "side-by-side"],
        typer.Option(
            "--save",
            help="overlay: over the image; mask: class ids as PNG with a palette.",
            rich_help_panel=RESULT,
        ),
    ] = "overlay",
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="RUN|ARTIFACT",
            help="A second network, shown beside the first.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            metavar="N",
            min=0,
            help="Step of the run; else the newest.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    runtime: RuntimeOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
) -> None:
    """Segment images, a video or a camera, and write what is seen."""
    source = second or first
    if source is None:
        raise UsageError("no source was named", hint="edgeinc predict IMAGE -o OUT")
    target = ui.run(first if second else None)
    from edgeinc.predict import predict as run_prediction

    result = run_prediction(
        target,
        source,
        out=out,
        step=step,
        compare=compare,
        save=save,
        runtime=runtime,
        device=device,
        threads=threads,
        progress=ui.progress,
    )
    ui.remember(target)
    plural = "" if result.frames == 1 else "s"
    ui.result(
        result,
        f"wrote {out}: {result.frames} picture{plural}, {result.fps:.1f} per second "
        f"({result.runtime})",
        essential=result.outputs,
        hint=["edgeinc", "bench", target],
    )


def _step(text: str | None) -> int | Literal["all"] | None:
    """`--step` as the library takes it.

    Raises:
        UsageError: Neither a number nor `all`.
    """
    if text is None or text == "all":
        return text  # type: ignore[return-value]
    if not text.isdecimal():
        raise UsageError(f"cannot read --step '{text}'", hint="write a number from 0, or all")
    return int(text)
