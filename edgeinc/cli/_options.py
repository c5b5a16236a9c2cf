"""Arguments and options that more than one command has, declared once.

The options of training are the fields of `config.TrainSettings`: name, type, default and text come
from there, so a new setting needs no line here unless it wants a short flag.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_args, get_type_hints

import typer

from edgeinc import registry
from edgeinc.catalogue import attributes
from edgeinc.cli._command import MACHINE, OPTIMISATION, RUN, WHAT, flag, parameter
from edgeinc.config import TrainSettings, split_names

_MACHINE = ("precision", "device", "threads", "workers", "seed", "deterministic", "compile")
_RUN = ("limit",)
_WHAT = ("selection", "labels", "index", "hold_out", "convention")
_SHORT = {"epochs": "-e", "batch_size": "-b"}
_METAVAR = {bool: "", float: "X", str: "TEXT"}


def completion(*kinds: str) -> Callable[[str], list[str]]:
    """A shell completion of plug-in names."""

    def complete(incomplete: str) -> list[str]:
        known = [name for kind in kinds for name in registry.names(kind)]
        return [name for name in known if name.startswith(incomplete)]

    return complete


RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="Folder of a run; left out: the last one.", show_default=False
    ),
]
TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN|ARTIFACT",
        help="A run, RUN/step-N or an exported file; left out: the last run.",
        show_default=False,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|PATH",
        help="Dataset: a name (`edgeinc ls datasets`) or a folder.",
        rich_help_panel=WHAT,
        autocompletion=completion("datasets"),
    ),
]
DataListOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME|PATH",
        help="Dataset: a name (`edgeinc ls datasets`), a folder or a .zip; repeatable.",
        rich_help_panel=WHAT,
        autocompletion=completion("datasets"),
        show_default=False,
    ),
]
DataRootOption = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        help="Where named datasets lie; else EDGEINC_DATA_ROOT, else ./data.",
        rich_help_panel=WHAT,
    ),
]
ScenarioOption = Annotated[
    str | None,
    typer.Option(
        "--scenario",
        metavar="NAME|FILE.toml",
        help="Plan of classes and images per step (`edgeinc ls scenarios`).",
        rich_help_panel=WHAT,
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", min=1, help="Only the first N images.", rich_help_panel=WHAT
    ),
]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="What executes it (`edgeinc ls runtimes`); else by the file.",
        rich_help_panel=MACHINE,
        autocompletion=completion("runtimes"),
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="auto, cpu, cuda or cuda:N; never replaced.",
        rich_help_panel=MACHINE,
    ),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        "--threads", metavar="N", min=0, help="0 takes every core.", rich_help_panel=MACHINE
    ),
]
ConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="TOML file with settings; repeatable, the later wins.",
        rich_help_panel=RUN,
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="K=V",
        help="One setting: lr=0.001, method.KEY=VALUE, model.KEY=VALUE; repeatable.",
        rich_help_panel=RUN,
        show_default=False,
    ),
]
ResumeOption = Annotated[
    bool,
    flag("--resume", help="Continue an interrupted step as it was begun.", panel=RUN),
]
OverwriteOption = Annotated[
    bool,
    flag("--overwrite", help="Discard what is there and start again.", panel=RUN),
]
DryRunOption = Annotated[
    bool,
    flag("--dry-run", help="Check everything, print the plan, write nothing.", panel=RUN),
]


def training_settings(*, defaults: bool) -> list[inspect.Parameter]:
    """An option for every field of `TrainSettings`; None means not given.

    Args:
        defaults: Whether help shows the fields' own defaults.
    """
    hints = get_type_hints(TrainSettings)
    docs = attributes(TrainSettings.__doc__ or "")
    options = []
    for field in fields(TrainSettings):
        hint, doc = hints[field.name], docs.get(field.name, "")
        if defaults and field.default not in (None, False, ""):
            doc = f"{doc} Default: {field.default}."
        options.append(_setting(field.name, hint, doc))
    return options


def _setting(name: str, hint: Any, doc: str) -> inspect.Parameter:
    groups = ((MACHINE, _MACHINE), (RUN, _RUN), (WHAT, _WHAT))
    panel = next((panel for panel, members in groups if name in members), OPTIMISATION)
    flags = ["--" + name.replace("_", "-"), *([_SHORT[name]] if name in _SHORT else [])]
    choices = "|".join(str(value) for value in get_args(hint) if isinstance(value, str))
    option = typer.Option(
        *flags,
        help=doc,
        metavar=_METAVAR.get(hint, choices or "N"),
        rich_help_panel=panel,
        show_default=False,
    )
    return parameter(name, Annotated[hint | None, option], None)


def names(text: str | None, flag: str) -> list[str] | None:
    """`a,b,c` as a list; None stays None.

    Raises:
        UsageError: There is an empty name.
    """
    return None if text is None else split_names(text, flag)
