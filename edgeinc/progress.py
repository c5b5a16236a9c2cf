"""How long work reports on itself without printing.

A library function takes `progress: Progress = SILENT` and opens one task per stretch of work; the
command line shows a bar, a test counts, a notebook does what it likes.

    with progress.task("train", total=120, unit="it") as task:
        for _ in range(120):
            task.advance(note="loss 0.41")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running stretch of work."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units as done and show `note` beside the bar."""


class Progress(Protocol):
    """Something that can show tasks and one-line messages while work is going on."""

    def task(
        self, name: str, total: int | None, unit: str = "it", done: int = 0
    ) -> AbstractContextManager[Task]:
        """Open a task of `total` units (None: unknown), `done` of which are already done."""

    def message(self, text: str) -> None:
        """Say one thing the user should know now (a warning or a decision that was taken)."""


class _SilentTask:
    def advance(self, n: int = 1, note: str = "") -> None:
        pass


class _Silent:
    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "it", done: int = 0) -> Iterator[Task]:
        yield _SilentTask()

    def message(self, text: str) -> None:
        pass


SILENT: Progress = _Silent()
