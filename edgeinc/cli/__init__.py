"""The command line: parses, calls one library function, renders its dataclass.

Nothing heavy is imported here or by a command's `--help`. Exit codes: 0 ok, 1 failed, 2 usage,
3 a gate was not met, 4 hardware or software is missing, 5 an update was refused, 130
interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from itertools import takewhile
from typing import Annotated

import typer

from edgeinc import __version__
from edgeinc.cli._command import FLAGS, INFORMATION, SHIP, app, data_app, device_app, repo_app
from edgeinc.cli._ui import Ui, wants_color
from edgeinc.errors import EdgeincError, UsageError

__all__ = ["app", "main"]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgeinc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            metavar="",
            help="Print the version.",
        ),
    ] = False,
) -> None:
    pass


for _module in (
    "learn",
    "adopt",
    "invert",
    "look",
    "ship",
    "engine",
    "measure",
    "info",
    "data",
    "protocol",
    "publish",
    "repo",
    "offer",
    "enrol",
    "device",
    "serve",
):  # in the order of the help
    import_module(f"edgeinc.cli.{_module}")
_GROUPS = {"data": data_app, "repo": repo_app, "device": device_app}
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name, rich_help_panel=INFORMATION if _name == "data" else SHIP)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line and end the process with its exit code.

    Args:
        argv: The words after `edgeinc`; None takes those of this process.
    """
    try:
        code = _run(_common_last(list(sys.argv[1:] if argv is None else argv)))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone; without this the interpreter complains while it shuts down.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _run(words: list[str]) -> int:
    color = "--no-color" not in words
    bare = not words or (len(words) == 1 and words[0] in _GROUPS)
    if bare or not {"-h", "--help"}.isdisjoint(words):
        _help_without_color(wanted=color)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        arguments = [*words, "--help"] if bare else words
        code = app(arguments, prog_name="edgeinc", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return Ui(json="--json" in words, color=color).failed(KeyboardInterrupt())
    except Exception as err:
        message = _usage_message(err)
        if message is None:
            raise
        return Ui(json="--json" in words, color=color).failed(_usage_error(message, words))
    return 2 if bare else int(code or 0)


def _help_without_color(*, wanted: bool) -> None:
    """Typer draws help by itself and takes its orders from the environment only."""
    if not (wanted and wants_color(sys.stdout)):
        os.environ.update(NO_COLOR="1", TERM="dumb")


def _usage_message(error: Exception) -> str | None:
    """What the parser complains about; None for any other error.

    The parser's exceptions have no public name that holds for every Typer since 0.24.
    """
    describe = getattr(error, "format_message", None)
    return str(describe()) if describe is not None else None


def _usage_error(message: str, words: Sequence[str]) -> EdgeincError:
    said = message[:1].lower() + message[1:].rstrip(".") if message[1:2].islower() else message
    return UsageError(said, hint=f"see `{' '.join(['edgeinc', *_command_in(words)])} --help`")


def _command_in(words: Sequence[str]) -> list[str]:
    """The command that is meant, as far as it exists: [], one word, or a group and its command."""
    level, found = app, list[str]()
    for word in words:
        if word in [command.name for command in level.registered_commands]:
            return [*found, word]
        if word in _GROUPS and level is app:
            level, found = _GROUPS[word], [word]
    return found


def _common_last(words: list[str]) -> list[str]:
    """Move `-v`, `--json` and their like from before the command to after it."""
    leading = list(takewhile(lambda word: word in FLAGS, words))
    rest = words[len(leading) :]
    if not rest or rest[0].startswith("-"):
        return words
    end = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:end], *leading, *rest[end:]]
