"""How time is measured, apart from what is measured.

Variants take turns (A B A B ...) instead of running one after the other, so that a machine that
becomes slower in the meantime slows all of them. A turn begins with frames that do not count: the
threads of the variant before spin for some time in wait of more work, and with ONNX Runtime before
PyTorch that doubled the first two frames of every turn. A frame is timed by itself, from the call
to the returned result; nothing else happens inside the timed part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

Clock = Callable[[], float]
Frame = Callable[[int], object]
"""Processes the frame of that running number."""

WINDOW = 10
STEADY_COV = 2.5
UNSTABLE_COV = 10.0
TURN_S = 0.5
SETTLE_S = 0.1
MIN_FRAMES = 30
MIN_WARM_UP_S = 1.0
SLOW = 4
"""A slow variant stops after this many times the duration, however few frames it had by then."""


@dataclass
class Timed:
    """What was measured of a variant, in seconds.

    `seconds`: each frame, in order. `turns`: begin and end of each turn on the clock, the frames
    that do not count left out.
    """

    seconds: list[float] = field(default_factory=list)
    turns: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Statistics:
    """Time per frame. `fps` is 1000 / p50, `cov_percent` see the function of that name."""

    frames: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    fps: float
    cov_percent: float

    @property
    def status(self) -> str:
        """`ok`, or `unstable` where the times scatter by more than `UNSTABLE_COV` percent."""
        return "ok" if self.cov_percent <= UNSTABLE_COV else "unstable"


def statistics(seconds: Sequence[float]) -> Statistics:
    """Summarise the times of single frames.

    Raises:
        ValueError: There is none.
    """
    if not seconds:
        raise ValueError("no frame was timed")
    times_ms = 1000 * np.asarray(seconds)
    p50, p90, p99 = (float(p) for p in np.percentile(times_ms, (50, 90, 99)))
    return Statistics(
        frames=len(seconds),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        fps=1000 / p50,
        cov_percent=cov_percent(seconds),
    )


def cov_percent(seconds: Sequence[float]) -> float:
    """Coefficient of variation: standard deviation in percent of the mean."""
    return float(100 * np.std(seconds) / np.mean(seconds))


def warm_up(frame: Frame, *, duration: float, clock: Clock = perf_counter) -> int:
    """Run frames until their time is steady; returns how many.

    Steady means that the last ten scatter by less than 2.5 percent, after a second at least. Twice
    `duration` ends the wait in any case, after at least one frame.
    """
    start = clock()
    times: list[float] = []
    while True:
        begin = clock()
        frame(len(times))
        end = clock()
        times.append(end - begin)
        waited = end - start
        if waited >= 2 * duration:
            return len(times)
        steady = len(times) >= WINDOW and cov_percent(times[-WINDOW:]) < STEADY_COV
        if steady and waited >= min(MIN_WARM_UP_S, duration):
            return len(times)


def interleave(
    frames: Sequence[Frame],
    *,
    duration: float,
    turn: float | None = None,
    clock: Clock = perf_counter,
) -> Iterator[tuple[int, Timed]]:
    """Time several variants in turns and give each one as soon as it is done.

    A variant is done after `duration` seconds of its own and 30 frames, or after four times
    `duration`.

    Args:
        frames: One callable per variant.
        duration: Seconds to measure each variant.
        turn: Seconds of a turn; None takes half a second, or a fifth of a shorter duration.
        clock: Seconds from any origin.

    Yields:
        The variant's index in `frames`, and what was measured.
    """
    found = [Timed() for _ in frames]
    open_variants = set(range(len(frames)))
    turn = min(TURN_S, duration / 5) if turn is None else turn
    while open_variants:
        for index in sorted(open_variants):
            if len(frames) > 1:
                _spend(frames[index], min(SETTLE_S, turn / 5), clock)
            timed = found[index]
            begin = clock()
            timed.seconds += _spend(frames[index], turn, clock, first=len(timed.seconds))
            timed.turns.append((begin, clock()))
            spent = sum(timed.seconds)
            enough = spent >= duration and len(timed.seconds) >= MIN_FRAMES
            if enough or spent >= SLOW * duration:
                open_variants.remove(index)
                yield index, timed


def _spend(frame: Frame, seconds: float, clock: Clock, *, first: int = 0) -> list[float]:
    """Run frames, at least one, until their times reach `seconds`."""
    times: list[float] = []
    spent = 0.0
    while spent < seconds:
        begin = clock()
        frame(first + len(times))
        times.append(clock() - begin)
        spent += times[-1]
    return times
