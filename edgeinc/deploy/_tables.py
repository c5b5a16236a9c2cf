"""A benchmark on disk: JSON after every row, and the tables people paste elsewhere."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from edgeinc.deploy._scopes import SCOPES
from edgeinc.errors import UsageError
from edgeinc.runs import write_atomic
from edgeinc.schema import BenchDelta, BenchResult, BenchRow, to_json

SUFFIXES = (".json", ".csv", ".md")


def check_suffix(path: Path) -> None:
    """Refuse a file that no table is written to.

    Raises:
        UsageError: Its name ends otherwise than in .json, .csv or .md.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"cannot write a benchmark to {path}",
            hint=f"end its name in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
        )


class Report:
    """The result so far; on disk from the first row on, so that an earlier file lives until then.

    Args:
        result: What is known before any timing.
        path: The JSON file.
        table: A .csv or .md to write at the end; None writes none.
        order: Artifact and runtime of the variants in the order of the rows.
    """

    def __init__(
        self,
        result: BenchResult,
        path: Path,
        *,
        table: Path | None,
        order: Sequence[tuple[str, str]],
    ) -> None:
        self._order = list(order)
        rows = tuple(sorted(result.rows, key=self._place))
        self.result = replace(
            result, rows=rows, path=str(path), table=str(table or ""), finished=False
        )
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def measured(self) -> int:
        """Rows with figures."""
        return sum(row.fps is not None for row in self.result.rows)

    def add(self, row: BenchRow) -> None:
        """Keep a row."""
        rows = sorted((*self.result.rows, row), key=self._place)
        self.change(replace(self.result, rows=tuple(rows)))

    def update(self, artifact: Path, runtime: str, figures: Mapping[str, Any]) -> None:
        """Put further figures into the rows of a variant that were measured."""
        rows = tuple(
            replace(row, **figures)
            if (row.artifact, row.runtime) == (str(artifact), runtime) and row.frames
            else row
            for row in self.result.rows
        )
        self.change(replace(self.result, rows=rows))

    def change(self, result: BenchResult) -> None:
        """Replace the result, in memory and on disk."""
        self.result = result
        write_atomic(Path(result.path), to_json(result).encode())

    def finish(self) -> BenchResult:
        """Write everything once more, and the table."""
        self.change(replace(self.result, finished=True))
        if self.result.table:
            write_table(self.result, Path(self.result.table))
        return self.result

    def _place(self, row: BenchRow) -> tuple[int, int]:
        return list(SCOPES).index(row.scope), self._order.index((row.artifact, row.runtime))


def write_table(result: BenchResult, path: Path) -> None:
    """Write the rows as CSV or Markdown, by the suffix."""
    text = csv_text(result) if path.suffix == ".csv" else markdown(result)
    write_atomic(path, text.encode())


def csv_text(result: BenchResult) -> str:
    """Every figure of every row, with the names of the JSON; empty where there is none."""
    file = io.StringIO()
    names = [field.name for field in fields(BenchRow)]
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in result.rows:
        values = asdict(row)
        values["size"] = "x".join(map(str, row.size))
        writer.writerow({k: "" if v is None else v for k, v in values.items()})
    return file.getvalue()


def short_names(rows: Sequence[BenchRow | BenchDelta]) -> dict[str, str]:
    """Artifacts by the shortest name that no other of them has: `step-1.fp32`, `RUN/step-1.fp32`.

    The runtime tells the suffix, unless two files differ in nothing else.
    """
    paths = sorted({row.artifact for row in rows})

    def stem(path: str) -> str:
        return re.sub(r"\.[a-z]+$", "", Path(path).name)

    def in_run(path: str) -> str:
        above = [part for part in Path(path).parts[:-1] if part != "export"]
        return "/".join([*above[-1:], stem(path)])

    for shorten in (stem, lambda path: Path(path).name, in_run):
        if len({shorten(path) for path in paths}) == len(paths):
            return {path: shorten(path) for path in paths}
    return {path: path for path in paths}


def _figure(name: str, digits: int = 1) -> Callable[[BenchRow], str]:
    def cell(row: BenchRow) -> str:
        value = getattr(row, name)
        return "" if value is None else f"{value:.{digits}f}"

    return cell


_COLUMNS: dict[str, Callable[[BenchRow], str]] = {
    "runtime": lambda r: r.runtime,
    "provider": lambda r: r.provider.removesuffix("ExecutionProvider"),
    "precision": lambda r: r.precision,
    "size": lambda r: "x".join(map(str, r.size)),
    "threads": lambda r: str(r.threads),
    "scope": lambda r: r.scope,
    "p50 ms": _figure("p50_ms", 2),
    "p90 ms": _figure("p90_ms", 2),
    "p99 ms": _figure("p99_ms", 2),
    "FPS": _figure("fps"),
    "CoV %": _figure("cov_percent"),
    "mIoU": _figure("miou"),
    "mIoU old": _figure("miou_old"),
    "mIoU new": _figure("miou_new"),
    "agreement %": _figure("agreement", 3),
    "gate": lambda r: r.gate.partition(":")[0],
    "update": lambda r: r.update_way,
    "update bytes": lambda r: "" if r.update_bytes is None else str(r.update_bytes),
    "update s": _figure("update_s", 3),
    "frames lost": lambda r: "" if r.update_lost is None else str(r.update_lost),
    "W": _figure("watts", 2),
    "J/frame": _figure("joules", 3),
    "throttled": lambda r: "" if r.throttled is None else "yes" if r.throttled else "no",
    "MB": lambda r: "" if r.file_bytes is None else f"{r.file_bytes / 1e6:.2f}",
    "peak MB": _figure("peak_mb", 0),
    "GPU MB": _figure("gpu_mb", 1),
    "status": lambda r: r.status,
}
_TEXT = (
    *("artifact", "runtime", "provider", "precision", "size", "scope", "gate", "update"),
    *("throttled", "status"),
)


def markdown(result: BenchResult) -> str:
    """The rows as a table without its empty columns, and the conditions they hold under."""
    called = short_names(result.rows)
    columns = {
        "artifact": [called[row.artifact] for row in result.rows],
        **{name: [cell(row) for row in result.rows] for name, cell in _COLUMNS.items()},
    }
    kept = {name: cells for name, cells in columns.items() if any(cells) or name == "status"}
    lines = [
        _line(kept),
        _line("---" if name in _TEXT else "---:" for name in kept),
        *(_line(cells) for cells in zip(*kept.values(), strict=True)),
        "",
        *(f"- {line}" for line in (*findings(result), *conditions(result))),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def findings(result: BenchResult) -> list[str]:
    """What was found out about the variants, one line each: which to take, and why not others."""
    called = short_names(result.rows)
    lines = [f"best at {'x'.join(map(str, b.size))}: {b.why}" for b in result.best]
    reasons: dict[str, dict[str, None]] = {}
    for row in result.rows:
        name = f"{called[row.artifact]} on {row.runtime}"
        if ": " in row.gate:
            reasons.setdefault(row.gate, {})[name] = None
        if row.update_from:
            why = f"update from {Path(row.update_from).name}: {row.update_why}"
            reasons.setdefault(why, {})[name] = None
    return lines + [f"{why} ({', '.join(names)})" for why, names in reasons.items()]


def conditions(result: BenchResult) -> list[str]:
    """What a figure of this benchmark means nothing without, one line each."""
    host, board = result.host, result.board
    lines = [f"{scope}: {meaning}" for scope, meaning in result.scopes.items()]
    if board:
        locked = {True: "clocks locked", False: "clocks not locked", None: ""}[board.clocks_locked]
        mhz = ", ".join(f"{name} {value:.0f} MHz" for name, value in board.mhz.items())
        parts = [board.model, f"L4T {board.l4t}" if board.l4t else "", board.power_mode]
        lines.append(f"board: {', '.join(filter(None, [*parts, locked, mhz]))}")
    for meter in result.meters:
        idle = "" if meter.idle_watts is None else f", {meter.idle_watts:.2f} W before timing"
        lines.append(f"power: {meter.name}, the {meter.covers}{idle}, idle included")
    machine = " + ".join(filter(None, [host.gpu, host.cpu]))
    scored = f"; mIoU on {result.images} images of {result.data.name}" if result.data else ""
    lines.append(f"on {machine}, {host.cores} cores, {result.created}{scored}")
    return lines
