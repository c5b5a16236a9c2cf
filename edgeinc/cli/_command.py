"""What every command has in common: its options, its examples and its way to end.

@command(app, "report", panel="Result", examples=["edgeinc report runs/demo"])
def report(ui: Ui, run: RunArgument = None) -> None: ...
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer

from edgeinc.cli._ui import Ui

Function = TypeVar("Function", bound=Callable[..., None])

HELP = {"help_option_names": ["-h", "--help"]}
WHAT = "What"
OPTIMISATION = "Optimisation"
MACHINE = "Machine"
RUN = "Run"
RESULT = "Result"
OUTPUT = "Every command"
PANELS = (WHAT, OPTIMISATION, MACHINE, RUN, RESULT, OUTPUT)
"""Groups of options in the order of every help."""

LEARN = "Learn"
SHIP = "Ship"
INFORMATION = "Information"

app = typer.Typer(
    name="edgeinc",
    help="Teach a deployed segmentation network new classes and ship the result.",
    epilog="Start with `edgeinc demo`. Every command has examples: `edgeinc train --help`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=HELP,
)
data_app = typer.Typer(
    help="See and prepare labelled images: ls, info, check, preview, convert, split, synth.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings=HELP,
)
device_app = typer.Typer(
    help="Serve on this device and take updates: init, run, update, watch, status and more.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings=HELP,
)

repo_app = typer.Typer(
    help="Publish updates from a signed repository: init, ls, verify, sign, rotate, carrier.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings=HELP,
)


def parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """One option of a command, as Typer reads it from a signature."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def flag(*names: str, help: str, panel: str, count: bool = False) -> Any:
    """An option without a value."""
    return typer.Option(
        *names,
        count=count,
        help=help,
        metavar="",
        rich_help_panel=panel,
        show_default=False,
    )


_COMMON = (
    parameter(
        "json",
        Annotated[bool, flag("--json", help="Print one JSON document.", panel=OUTPUT)],
        False,
    ),
    parameter(
        "quiet",
        Annotated[
            bool,
            flag("--quiet", "-q", help="Print only errors and the essential path.", panel=OUTPUT),
        ],
        False,
    ),
    parameter(
        "verbose",
        Annotated[
            int,
            flag(
                "--verbose",
                "-v",
                count=True,
                help="Say more, with the time; -vv also shows tracebacks.",
                panel=OUTPUT,
            ),
        ],
        0,
    ),
    parameter(
        "no_color",
        Annotated[bool, flag("--no-color", help="No colour; so does NO_COLOR=1.", panel=OUTPUT)],
        False,
    ),
)
FLAGS = ("--json", "--quiet", "-q", "--verbose", "-v", "-vv", "--no-color")
"""The common options as they may stand before the command, too."""


def command(
    app: typer.Typer,
    name: str,
    *,
    examples: Sequence[str],
    panel: str | None = None,
    settings: Sequence[inspect.Parameter] = (),
) -> Callable[[Function], Function]:
    """Register a function `(ui, ...) -> None` as a command.

    Args:
        app: The application or group.
        name: The command's name.
        examples: Command lines for the end of its help.
        panel: Group of commands it is listed in.
        settings: Further options, which the function takes as `**settings`.
    """

    def register(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name not in ("ui", "settings")]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        options = sorted([*own, *settings, *_COMMON], key=_panel_rank)

        @functools.wraps(function)
        def run(*, json: bool, quiet: bool, verbose: int, no_color: bool, **values: Any) -> None:
            ui = Ui(json=json, quiet=quiet, verbose=verbose, color=not no_color)
            code = _ending(ui, function, values)
            if code:
                raise typer.Exit(code)

        # Typer reads both; `wraps` left the annotations of the function, which has `ui`.
        run.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in options}
        app.command(
            name,
            help=_paragraphs(inspect.getdoc(function) or ""),
            epilog="\n\n".join(["Examples:", *(f"  {line}" for line in examples)]),
            rich_help_panel=panel,
            context_settings=HELP,
        )(run)
        return function

    return register


def _paragraphs(doc: str) -> str:
    """The text with one line per paragraph: Typer keeps line breaks, terminals differ in width."""
    return "\n\n".join(" ".join(each.split()) for each in doc.split("\n\n"))


def _panel_rank(option: inspect.Parameter) -> int:
    """Arguments first, then the groups in order."""
    panel = option.annotation.__metadata__[0].rich_help_panel
    return PANELS.index(panel) if panel in PANELS else -1


def _ending(ui: Ui, function: Callable[..., None], values: dict[str, Any]) -> int:
    """Run a command to its exit code."""
    try:
        with warnings.catch_warnings():
            if not ui.verbose:
                warnings.simplefilter("ignore")  # what a library tells its developers
            function(ui, **values)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as err:
        return ui.failed(err)
    return 0
