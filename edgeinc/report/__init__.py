"""A run folder in, one page out: what was learned, what was forgotten, how fast it runs.

Rules: the page stands alone (no network, no scripts, pictures inside); every figure says under
which conditions it was obtained; what is not in the run's files is named as missing, never
guessed; nothing from a file can become markup.

    report("runs/a")            # writes runs/a/report.html
"""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote

from edgeinc.errors import UsageError
from edgeinc.progress import SILENT, Progress
from edgeinc.report._evidence import read
from edgeinc.report._overlays import overlays
from edgeinc.report._page import page
from edgeinc.runs import open_run, write_atomic
from edgeinc.schema import ReportResult

__all__ = ["report"]


def report(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> ReportResult:
    """Write the page of a run.

    Args:
        run: The run folder.
        out: File to write; None is `report.html` in the run folder.
        progress: Told about the pictures, which are the slow part.

    Raises:
        UsageError: `run` is not a run, or `out` is a folder.
        RunError: The run has no finished step, or the disk is full.
        EdgeincError: A file of the run is damaged; the message names it.
    """
    evidence = read(open_run(run))
    target = Path(out) if out is not None else evidence.run.path / "report.html"
    if target.is_dir():
        raise UsageError(
            f"{target} is a folder", hint=f"name a file: --out {quote(str(target / 'report.html'))}"
        )
    content = page(evidence, overlays(evidence, progress=progress)).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, content)
    return ReportResult(
        path=str(target),
        run=str(evidence.run.path),
        steps=len(evidence.steps),
        bytes=len(content),
    )
