"""The scores of every class as a CSV file."""

from __future__ import annotations

import csv
import os
from io import StringIO
from pathlib import Path

from edgeinc.errors import UsageError
from edgeinc.runs import write_atomic
from edgeinc.schema import ClassScore, EvalResult

__all__ = ["check_writable", "write_table"]

COLUMNS = ("id", "name", "step", "iou", "forgetting", "pixels_true", "pixels_predicted")
"""Fields of `ClassScore`; where a figure is None, nothing stands between the commas."""


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is scored for it.

    Raises:
        UsageError: It is a folder, or its own folder is missing or not to be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file: --csv classes.csv")
    if not path.parent.is_dir():
        raise UsageError(f"no such folder: {path.parent}", hint="make it, or name another file")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write to {path.parent}", hint="name a file in another folder")


def write_table(result: EvalResult, path: Path) -> None:
    """Write one line per class.

    Raises:
        RunError: The disk is full; an older file is as it was.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_row(score) for score in result.classes)
    write_atomic(path, text.getvalue().encode())


def _row(score: ClassScore) -> list[object]:
    return [getattr(score, name) for name in COLUMNS]
