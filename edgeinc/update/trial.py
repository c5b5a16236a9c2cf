"""The trial: real frames for a while, and one verdict at the end of it.

The server shows every frame; it need not know the rules. Faults end the trial at once, what needs
numbers is judged when the window is full. The clock is given, so that an hour is tested in no time.

    window = Window(gates, classes=6, old_classes=5)
    for ...:
        judgement = window.frame(ms, ids, before)      # None until it is decided
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import numpy as np
import numpy.typing as npt

from edgeinc.schema import DeviceGates
from edgeinc.update.serving import Judgement

Ids = npt.NDArray[np.uint8]
STRIDE = 4
"""Every fourth row and column is counted: shares and agreements need no more."""


class Window:
    """The frames of one trial.

    Args:
        gates: What has to be passed.
        classes: Classes of the new bundle.
        old_classes: Classes of the bundle that was served, which have the lowest ids; 0 for none.
        clock: Seconds that never jump.
    """

    def __init__(
        self,
        gates: DeviceGates,
        *,
        classes: int,
        old_classes: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._gates, self._clock = gates, clock
        self._classes, self._old_classes = classes, old_classes
        self._begun = clock()
        self._ms: list[float] = []
        self._pixels = np.zeros(256, np.int64)
        self._asked = self._agreed = 0

    def frame(self, ms: float, ids: Ids, before: Ids | None = None) -> Judgement | None:
        """Take a frame into account.

        Args:
            ms: How long it took.
            ids: What the new bundle answered, (H, W).
            before: What the old one answered to the same frame, where it was asked too.

        Returns:
            The verdict, or None while the trial goes on.
        """
        seen = ids[::STRIDE, ::STRIDE]
        if int(seen.max()) >= self._classes:
            return self.fault(f"id {int(seen.max())} is no class: there are {self._classes}")
        self._ms.append(ms)
        self._pixels += np.bincount(seen.ravel(), minlength=256)
        if before is not None:
            old = seen < self._old_classes
            self._asked += int(old.sum())
            self._agreed += int((before[::STRIDE, ::STRIDE][old] == seen[old]).sum())
        gates = self._gates
        enough = len(self._ms) >= gates.trial_frames
        if not enough or self._clock() - self._begun < gates.trial_seconds:
            return None
        why = self._slow() or self._constant() or self._other()
        return Judgement("bad", why) if why else Judgement("good", "")

    def fault(self, why: str) -> Judgement:
        """End the trial: a frame got no answer, or one that cannot be."""
        return Judgement("bad", f"after {len(self._ms)} frames: {why}")

    @property
    def p95_ms(self) -> float | None:
        """Of the frames so far; None before the first."""
        return float(np.percentile(self._ms, 95)) if self._ms else None

    def _slow(self) -> str:
        limit, p95 = self._gates.max_p95_ms, self.p95_ms
        if limit is None or p95 is None or p95 <= limit:
            return ""
        return f"a frame took {p95:.1f} ms (p95 of {len(self._ms)}), the gate is {limit:.1f} ms"

    def _constant(self) -> str:
        share = 100 * self._pixels.max() / max(1, self._pixels.sum())
        if self._classes < 2 or share <= self._gates.max_single_class_percent:
            return ""
        return f"class {int(self._pixels.argmax())} filled {share:.1f} % of all pixels"

    def _other(self) -> str:
        limit = self._gates.min_agreement_old_percent
        if limit is None or not self._asked:
            return ""
        percent = 100 * self._agreed / self._asked
        if percent >= limit:
            return ""
        return (
            f"only {percent:.1f} % of the pixels of old classes are decided as before, "
            f"the gate is {limit:.1f} %"
        )
