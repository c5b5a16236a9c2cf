"""What answers frames, and what did before: one session whose file is exchanged, or two sessions.

A runtime that executes artifacts exchanges them in its session, and so does one that executes
engines as long as the engine stays the same. For another engine a second session is opened beside.

    seat = Seat(slot, config, message=print)
    seat.update(other_slot, between=between_two_frames)
    ids = seat.session.run(images)
    seat.rollback()
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from edgeinc.runtimes import Session
from edgeinc.runtimes._update import DearerWay
from edgeinc.schema import DeviceConfig, UpdateResult
from edgeinc.update import engines, slots


class Seat:
    """Of one device's server.

    Args:
        slot: What is served first; its files were hashed just now.
        config: What computes it.
        message: Told that an engine has to be built first, which takes minutes.

    Attributes:
        session: What answers; read it once for each frame.

    Raises:
        MissingError: The runtime or the device is not here.
        EdgeincError: The artifact cannot be loaded, or no engine of it can be built.
    """

    def __init__(self, slot: Path, config: DeviceConfig, *, message: Callable[[str], None]) -> None:
        self._config = config
        self._beside: Session | None = None
        """What served before, where that was another session."""
        try:
            self.session = self._opened(slot)
        except engines.NoEngine as err:
            message(f"{err.message}; building one, which takes minutes")
            engines.build(slot, config.provider)
            self.session = self._opened(slot)

    def _opened(self, slot: Path) -> Session:
        """A session that has paid for its memory and kernels."""
        session = engines.opened(slot, self._config.runtime, self._config.provider)
        session.run(np.zeros((1, *session.size, 3), np.uint8))
        return session

    def update(self, slot: Path, *, between: AbstractContextManager[object]) -> UpdateResult:
        """Serve another slot from the next frame on; see `Session.update`.

        Raises:
            UpdateError: Its artifact was refused; the old one still serves.
            NoEngine: It needs an engine that is not here.
            EdgeincError: It cannot be loaded.
        """
        start = perf_counter()
        try:
            result = self.session.update(slot / slots.MODEL, between=between)
        except DearerWay as err:
            if not engines.needed(self._config.runtime):
                raise
            plan = replace(err.plan, way="reload", reason=f"{err.plan.reason}; it has an engine")
        else:
            self._let_go()
            return result
        new = self._opened(slot)
        ready = perf_counter()
        with between:
            switch = perf_counter()
            self.session, before = new, self.session
            end = perf_counter()
        self._let_go()
        self._beside = before
        return UpdateResult(plan, 1000 * (ready - start), 1000 * (end - switch), None)

    def rollback(self) -> None:
        """Serve again what served before the newest update."""
        if self._beside is None:
            self.session.rollback()
        else:
            self.session, self._beside = self._beside, self.session

    def run_before(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """What served before the newest update answers; see `Session.run`."""
        if self._beside is None:
            return self.session.run_before(images)
        return self._beside.run(images)

    def _let_go(self) -> None:
        """Give the memory of the update before back."""
        if self._beside is not None:
            self._beside.close()
            self._beside = None

    def close(self) -> None:
        """Release both."""
        self._let_go()
        self.session.close()
