"""The only place that prints: results on standard output, everything else on standard error.

Rules: `--json` prints one document and nothing else, an error then is a document on standard
error; `-q` leaves errors and the essential path; colour only in a terminal, and never needed to
understand a line; None is a dash, a figure has one decimal.

    ui.result(document, ui.table(("class", "IoU"), rows), essential=[path], hint=["edgeinc", ...])
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeinc import runs
from edgeinc.cli._progress import shown_on
from edgeinc.errors import EdgeincError, GateError, Interrupted, MissingError
from edgeinc.progress import SILENT, Progress
from edgeinc.schema import to_json

_EXTRAS = {
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "onnxruntime": "cpu",
    "nncf": "quant",
    "openvino": "openvino",
    "pkcs11": "hsm",
    "prometheus_client": "metrics",
    "tensorrt": "trt",
    "tensorrt_rtx": "trtcheck",
}
"""Module -> the extra of edgeinc that brings it."""

EN_DASH = "\u2013"
_UNLIMITED = 10_000
"""Columns of an output that is not a terminal: a line of a table stays one line."""


class Ui:
    """How one command talks, as its `--json`, `-q`, `-v` and `--no-color` say."""

    def __init__(
        self, *, json: bool = False, quiet: bool = False, verbose: int = 0, color: bool = True
    ) -> None:
        self.json, self.quiet = json, quiet
        self.verbose = verbose
        self.out = _console(sys.stdout, color)
        self.err = _console(sys.stderr, color)
        silent = json or quiet
        self.progress: Progress = SILENT if silent else shown_on(self.err, self.note)
        if verbose:
            _log_to(self.err.file, logging.DEBUG if verbose > 1 else logging.INFO)

    # ------------------------------------------------------------------------------ results

    def result(
        self,
        document: Any,
        *blocks: str | Table,
        essential: Iterable[str] = (),
        hint: Sequence[str] = (),
    ) -> None:
        """Print what a command found.

        Args:
            document: The dataclass that `--json` prints.
            blocks: Lines and tables for people.
            essential: Lines that `-q` leaves.
            hint: The command that people run next.
        """
        if self.json:
            _utf8(sys.stdout)
            sys.stdout.write(to_json(document))
        elif self.quiet:
            for line in essential:
                self._print(self.out, line)
        else:
            for block in blocks:
                self._print(self.out, block)
            sys.stdout.flush()
            if hint:
                self.note(f"next: {shlex.join(hint)}")

    def table(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        title: str = "",
    ) -> Table:
        """A table whose columns of figures stand at the right."""
        rows = [list(row) for row in rows]
        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            title=title or None,
            title_justify="left",
            title_style="bold",
            header_style="bold",
            show_header=any(headers),
        )
        for i, header in enumerate(headers):
            column = [row[i] for row in rows if row[i] is not None]
            figures = bool(column) and all(
                isinstance(v, int | float) and not isinstance(v, bool) for v in column
            )
            table.add_column(header, justify="right" if figures else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(self.text(value)) for value in row))
        return table

    def facts(self, *pairs: tuple[str, Any]) -> Table:
        """Names and values, one pair per line; pairs without a value are left out."""
        return self.table(("", ""), [pair for pair in pairs if pair[1] not in (None, "", ())])

    def text(self, value: Any) -> str:
        """A value as people read it."""
        if value is None:
            return self.dash
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:.1f}"
        if isinstance(value, list | tuple):
            return ", ".join(self.text(v) for v in value)
        return str(value)

    @property
    def dash(self) -> str:
        """What stands for None, in a character the output can show."""
        try:
            EN_DASH.encode(getattr(self.out.file, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            return "-"
        return EN_DASH

    # ------------------------------------------------------------------------------ messages

    def note(self, text: str) -> None:
        """Say one line on standard error, unless the user asked for silence."""
        if self.quiet or (self.json and not self.verbose):
            return
        stamp = f"{time.strftime('%H:%M:%S')} " if self.verbose else ""
        self._print(self.err, f"{stamp}{text}")

    def gate(self, unmet: Sequence[str], *, hint: str) -> None:
        """End with exit code 3 when a threshold was not met; call it after `result`.

        Raises:
            GateError: `unmet` is not empty.
        """
        if unmet:
            raise GateError("; ".join(unmet), hint=hint)

    def failed(self, error: BaseException) -> int:
        """Say what went wrong in one line and how to go on in another.

        Returns:
            The exit code.
        """
        if self.verbose > 1 or os.environ.get("EDGEINC_DEBUG") == "1":
            traceback.print_exception(error, file=sys.stderr)
        known = _explained(error)
        sys.stdout.flush()
        if self.json:
            _utf8(sys.stderr)
            fields = {
                "message": known.message,
                "hint": known.hint,
                "exit_code": known.exit_code,
            }
            reason = getattr(known, "reason", "")  # of an update that was refused
            if reason:
                fields["reason"] = reason
            sys.stderr.write(json.dumps({"error": fields}, ensure_ascii=False) + "\n")
            return known.exit_code
        self.err.print(Text.assemble(("error:", "bold red"), " ", known.message), soft_wrap=True)
        if known.hint:
            self.err.print(Text.assemble(("hint:", "bold"), " ", known.hint), soft_wrap=True)
        return known.exit_code

    def _print(self, console: Console, block: str | Table) -> None:
        if isinstance(block, Table) and not console.is_terminal:
            with console.capture() as drawn:
                console.print(block)
            console.file.writelines(f"{line.rstrip()}\n" for line in drawn.get().splitlines())
        elif isinstance(block, Table):
            console.print(block)
        else:
            console.print(Text(block), soft_wrap=True)

    # ------------------------------------------------------------------------------ the last run

    def run(self, given: str | None) -> str:
        """The run or artifact that was given, else the run last used in this folder.

        Raises:
            UsageError: None was given and none was used.
        """
        if given is not None:
            return given
        path = str(runs.last_run())
        self.note(f"run: {path} (the last one used in this folder)")
        return path

    def remember(self, path: str) -> None:
        """Note a run for the next command in this folder; an artifact is not one."""
        if (Path(path) / "run.json").is_file():
            runs.remember(Path(path))


def wants_color(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours and the user does not mind them."""
    dumb = os.environ.get("TERM") == "dumb"
    return stream.isatty() and not dumb and not os.environ.get("NO_COLOR")


def _console(stream: TextIO, color: bool) -> Console:
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        color_system="auto" if color and wants_color(stream) else None,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if terminal else _UNLIMITED,
    )


def _log_to(stream: Any, level: int) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("edgeinc")
    logger.handlers = [handler]
    logger.setLevel(level)


def _utf8(stream: TextIO) -> None:
    """JSON is UTF-8 whatever the terminal's encoding."""
    with suppress(AttributeError):
        stream.reconfigure(encoding="utf-8")  # type: ignore[attr-defined]


def _explained(error: BaseException) -> EdgeincError:
    """The error in words a user can act on; a bug is called internal."""
    if isinstance(error, EdgeincError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    if isinstance(error, ImportError) and not (error.name or "edgeinc").startswith("edgeinc"):
        return _missing(error)
    if isinstance(error, OSError) and error.filename is not None:
        return EdgeincError(f"{error.filename}: {error.strerror}", hint="check the path")
    reason = " ".join(str(error).split())
    return EdgeincError(
        f"internal: {type(error).__name__}: {reason}",
        hint="repeat with -vv, or with EDGEINC_DEBUG=1, to see the traceback",
    )


def _missing(error: ImportError) -> MissingError:
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        return MissingError(f"{module} cannot be imported: {error}", hint="edgeinc doctor")
    extra = _EXTRAS.get(module)
    fix = f'pip install "edgeinc[{extra}]"' if extra else "see `edgeinc doctor`"
    return MissingError(f"{module} is not installed", hint=fix)
