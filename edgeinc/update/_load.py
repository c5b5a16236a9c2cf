"""A bundle on its way into the place of another, loaded by a thread while frames are answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeinc.schema import Exchange, UpdateResult
from edgeinc.update import serving
from edgeinc.update.seat import Seat
from edgeinc.update.serving import Choice


class Load(threading.Thread):
    """Loads a bundle beside the frames.

    Args:
        root: The device's folder.
        seat: What answers the frames.
        choice: What it shall answer with.
        lock: Held by the frame loop for each frame, and here for the exchange.

    Attributes:
        exchanged: Whether the bundle has taken its place.
        old_classes: Classes of what served before.
        result, error: What came of it, at the end of the thread; neither where both bundles have
            the same file.
        longest_ms: Kept by the frame loop.
    """

    def __init__(self, root: Path, seat: Seat, choice: Choice, lock: threading.Lock) -> None:
        super().__init__(name="load", daemon=True)
        self._root, self._seat, self._lock = root, seat, lock
        self.choice, self.exchanged = choice, False
        self.old_classes = len(seat.session.table.classes)
        self.result: UpdateResult | None = None
        self.error: Exception | None = None
        self.longest_ms = 0.0

    def run(self) -> None:
        """Verify, load, and wait for the end of a frame."""
        try:
            slot = serving.model(self._root, self.choice.bundle).parent
            self.result = self._seat.update(slot, between=self._between_frames())
        except Exception as err:  # it is told by the frame loop
            self.error = err

    def exchange(
        self, was_step: int, frame: int, *, gap_ms: float, usual_ms: float | None
    ) -> Exchange:
        """What there is to tell of the exchange, before its trial; see `Exchange`."""
        assert self.result is not None
        return Exchange(
            step=self.choice.bundle.step,
            was_step=was_step,
            way=self.result.plan.way,
            frame=frame,
            ready_ms=self.result.ready_ms,
            gap_ms=gap_ms,
            usual_ms=usual_ms,
            longest_ms=self.longest_ms,
            verdict="none",
            why="",
        )

    @contextmanager
    def _between_frames(self) -> Iterator[None]:
        with self._lock:
            yield
            self.exchanged = True
