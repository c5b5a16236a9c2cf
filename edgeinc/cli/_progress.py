"""Progress on standard error: a bar in a terminal, a line every few seconds elsewhere.

Rules: every line says how far, how fast and how long still; nothing is drawn before there is
something to say; when all tasks have ended the bars are gone and the result stands alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from edgeinc.progress import Progress, Task

EVERY_S = 5.0
"""Seconds between two lines where there is no terminal."""


def shown_on(console: Console, say: Callable[[str], None]) -> Progress:
    """The progress that suits a console; `say` prints one line above whatever is drawn."""
    if console.is_terminal and not console.is_dumb_terminal:
        return Bars(console, say)
    return Lines(say)


class Bars:
    """Bars that are drawn while at least one task runs."""

    def __init__(self, console: Console, say: Callable[[str], None]) -> None:
        self.message = say
        self._console = console
        self._live: RichProgress | None = None

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "it", done: int = 0) -> Iterator[Task]:
        """Draw a bar until the block is left."""
        outermost = self._live is None
        if self._live is None:
            self._live = _bars(self._console)
            self._live.start()
        live = self._live
        bar = live.add_task(name, total=total, completed=done, unit=unit, note="")
        try:
            yield _Bar(live, bar)
        finally:
            live.remove_task(bar)
            if outermost:
                live.stop()
                self._live = None


class _Bar:
    def __init__(self, live: RichProgress, bar: TaskID) -> None:
        self._live = live
        self._bar = bar

    def advance(self, n: int = 1, note: str = "") -> None:
        if note:
            self._live.update(self._bar, note=note)
        self._live.advance(self._bar, n)


class _Rate(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        return Text(pace(task.speed, task.fields["unit"]) if task.speed else "")


def _bars(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class Lines:
    """One line per task every `EVERY_S` seconds, and a last one for a task that took as long."""

    def __init__(
        self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.message = say
        self._clock = clock

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "it", done: int = 0) -> Iterator[Task]:
        """Report on the task until the block is left."""
        line = _Line(self.message, self._clock, name, total, unit, done)
        yield line
        line.end()


class _Line:
    def __init__(
        self,
        say: Callable[[str], None],
        clock: Callable[[], float],
        name: str,
        total: int | None,
        unit: str,
        done: int,
    ) -> None:
        self._say, self._clock = say, clock
        self._name, self._total, self._unit = name, total, unit
        self._done = self._first = done
        self._note = ""
        self._start = self._last = clock()

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        self._note = note or self._note
        if self._clock() - self._last >= EVERY_S:
            self._last = self._clock()
            self._say(self._text())

    def end(self) -> None:
        if self._last > self._start:
            elapsed = duration(self._clock() - self._start)
            self._say(f"{self._name} {self._count()} in {elapsed}")

    def _count(self) -> str:
        return f"{self._done}{f'/{self._total}' if self._total else ''} {self._unit}"

    def _text(self) -> str:
        rate = (self._done - self._first) / max(self._clock() - self._start, 1e-9)
        parts = [f"{self._name} {self._count()}", pace(rate, self._unit)]
        if self._total and rate:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        return "  ".join([*parts, self._note] if self._note else parts)


def pace(per_second: float, unit: str) -> str:
    """A rate with a figure people can read: `12.3 img/s`, or `4.1 s/img` when it is slow."""
    if 0 < per_second < 1:
        return f"{1 / per_second:.1f} s/{unit}"
    return f"{per_second:.1f} {unit}/s"


def duration(seconds: float) -> str:
    """Seconds as people read them: `3.2 s`, `4 min 10 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
