"""Watches the machine while it is timed: watts, clocks, heat, and whether something slowed it.

Rules: the sensors are read ten times a second in a thread of their own; a variant answers for its
own turns only; a watcher that died, or slept, never certifies a turn as clean: its verdict is None,
which is neither yes nor no. Power is that of what the sensor covers, idle included.

    with Monitor(find_sensors()) as monitor:
        begin = monitor.clock()
        ...
        monitor.seen([(begin, monitor.clock())], "gpu").watts
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from time import perf_counter
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinc.deploy._sensors import Ina3221, Nvml, Rapl, Reading, Sensor, Tegrastats
from edgeinc.deploy._thermal import Thermal
from edgeinc.schema import PowerMeter

__all__ = ["Monitor", "Seen", "find_sensors"]

Clock = Callable[[], float]
Window = tuple[float, float]
"""Begin and end of a turn on the monitor's clock, in seconds."""
Log = Sequence[tuple[float, Reading]]
Numbers = npt.NDArray[np.float64]

INTERVAL_S = 0.1
MAX_GAP_S = 0.5
"""A watcher that did not look for this long has missed something."""
LEAST_S = 0.15
"""Power is not taken from less than this."""


@dataclass(frozen=True)
class Seen:
    """What happened in the turns of a variant; None where nothing tells. Clocks are means."""

    watts: float | None = None
    throttled: bool | None = None
    gpu_mhz: float | None = None
    cpu_mhz: float | None = None
    celsius: float | None = None


def find_sensors(
    root: Path = Path("/"), *, gpu: int | None = 0, clock: Clock = perf_counter
) -> list[Sensor]:
    """What this machine can be watched with.

    On a Jetson: the INA3221 in sysfs, else tegrastats, both the whole module's power. Elsewhere:
    NVML for the GPU, RAPL for the processor. Everywhere: throttling and heat from sysfs.

    Args:
        root: Root of the file system.
        gpu: Index of the GPU that computes; None where none does.
        clock: Seconds from any origin.
    """
    power: list[Sensor | None] = [Ina3221.find(root) or _tegrastats(clock)]
    if power == [None]:
        power = [None if gpu is None else Nvml.find(gpu), Rapl.find(root)]
    thermal = Thermal(root)
    return [sensor for sensor in (*power, None if thermal.empty else thermal) if sensor]


def _tegrastats(clock: Clock) -> Tegrastats | None:
    if shutil.which("tegrastats") is None:
        return None
    process = subprocess.Popen(
        ["tegrastats", "--interval", str(round(1000 * INTERVAL_S))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return Tegrastats(process.stdout or (), clock=clock, stop=process.kill)


def gpu_name(root: Path = Path("/")) -> str:
    """The first NVIDIA GPU as its driver names it, without any library; "" where there is none."""
    for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                return value.strip()
    return ""


def gpu_index(device: str) -> int:
    """Which GPU of the machine `cuda:N` is, as CUDA_VISIBLE_DEVICES renumbers them."""
    wanted = int(device.partition(":")[2] or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    chosen = visible[wanted] if wanted < len(visible) else ""
    return int(chosen) if chosen.isdecimal() else wanted


class Monitor:
    """Reads sensors in a thread from `with` to its end.

    Args:
        sensors: What is read; closed at the end. None is needed: everything then is None.
        clock: Seconds from any origin, the clock of the turns.
        interval_s: Seconds between two looks.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        *,
        clock: Clock = perf_counter,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.sensors, self.clock, self._interval = list(sensors), clock, interval_s
        self._logs: list[list[tuple[float, Reading]]] = [[] for _ in self.sensors]
        self._idle: dict[int, float | None] = {}
        self._stop, self._lock = Event(), Lock()
        self._thread: Thread | None = None

    def __enter__(self) -> Monitor:
        if self.sensors:
            self._thread = Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        for sensor in self.sensors:
            sensor.close()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.sample()
            self._stop.wait(self._interval)

    def sample(self) -> None:
        """Look at every sensor once; one that does not answer leaves a gap."""
        with self._lock:
            for sensor, log in zip(self.sensors, self._logs, strict=True):
                try:
                    reading = sensor.read()
                except (OSError, ValueError):
                    continue
                log.append((self.clock(), reading))

    @property
    def lag_s(self) -> float:
        """The longest memory of a sensor of power; a turn must be longer."""
        return max((s.lag_s for s in self.sensors if s.measures_power), default=0.0)

    @property
    def measures_power(self) -> bool:
        """Whether any sensor does."""
        return any(s.measures_power for s in self.sensors)

    def idle(self, window: Window) -> None:
        """Keep the power of a time in which nothing was computed, for `meters`."""
        self.sample()
        self._idle = {
            i: _watts(self._logs[i], [window], lag_s=0.0)
            for i, sensor in enumerate(self.sensors)
            if sensor.measures_power
        }

    def meters(self) -> tuple[PowerMeter, ...]:
        """What measures watts here."""
        return tuple(
            PowerMeter(sensor.name, sensor.covers, self._idle.get(i))
            for i, sensor in enumerate(self.sensors)
            if sensor.measures_power
        )

    def seen(self, turns: Sequence[Window], computes: Literal["gpu", "cpu"]) -> Seen:
        """What happened in some turns.

        Args:
            turns: In order of time.
            computes: What the variant ran on; a sensor of the other says nothing about it.
        """
        self.sample()
        alive = self._thread is None or self._thread.is_alive()
        windows = _joined(turns)
        fitting = [
            (sensor, list(log))
            for sensor, log in zip(self.sensors, self._logs, strict=True)
            if sensor.covers in ("board", computes)
        ]
        meters = [(s, log) for s, log in fitting if s.measures_power]
        verdicts = [_throttled(log, windows) for _, log in fitting if _watches(log)]
        inside = [r for _, log in fitting for t, r in log if any(b <= t <= e for b, e in windows)]
        watts = [_watts(log, windows, lag_s=s.lag_s) for s, log in meters[:1]]
        return Seen(
            watts=watts[0] if watts and alive else None,
            throttled=_verdict(verdicts if alive else [*verdicts, None]),
            gpu_mhz=_mean([r.gpu_mhz for r in inside]),
            cpu_mhz=_mean([r.cpu_mhz for r in inside]),
            celsius=max((r.celsius for r in inside if r.celsius is not None), default=None),
        )


def _joined(turns: Sequence[Window]) -> list[Window]:
    """Turns that follow each other at once as one: nobody else computed between them."""
    joined: list[Window] = []
    for begin, end in turns:
        if joined and begin - joined[-1][1] < 0.01:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((begin, end))
    return joined


def _watched(log: Log, begin: float, end: float) -> bool:
    """Whether somebody looked before the begin, after the end, and often enough in between."""
    times = np.array([t for t, _ in log])
    first = int(np.searchsorted(times, begin, side="right")) - 1
    last = int(np.searchsorted(times, end, side="left"))
    if first < 0 or last >= len(times):
        return False
    return bool((np.diff(times[first : last + 1]) <= MAX_GAP_S).all())


def _watts(log: Log, windows: Sequence[Window], *, lag_s: float) -> float | None:
    """Energy over time, without the begin of each window, which a slow sensor still mixes up."""
    spans = [(b + lag_s, e) for b, e in windows if e - b - lag_s >= LEAST_S]
    known = [(t, r) for t, r in log if r.watts is not None or r.joules is not None]
    if not spans or not all(_watched(known, b, e) for b, e in spans):
        return None
    times = np.array([t for t, _ in known])
    energy = _energy(times, known)
    joules = sum(float(np.interp(e, times, energy) - np.interp(b, times, energy)) for b, e in spans)
    return joules / sum(e - b for b, e in spans)


def _energy(times: Numbers, known: Log) -> Numbers:
    """Joules since the first look at each look."""
    counted = [r.joules for _, r in known]
    if None not in counted:
        return np.array(counted, np.float64)
    power = np.array([r.watts for _, r in known], np.float64)
    parts = np.diff(times) * (power[1:] + power[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(parts)])


def _watches(log: Log) -> bool:
    return any(r.throttled is not None or r.events is not None for _, r in log)


def _throttled(log: Log, windows: Sequence[Window]) -> bool | None:
    """Whether anything slowed the machine in these windows; None where nobody can tell."""
    watching = [(t, r) for t, r in log if r.throttled is not None or r.events is not None]
    counted = [(t, r.events) for t, r in watching if r.events is not None]
    for begin, end in windows:
        if any(r.throttled for t, r in watching if begin <= t <= end):
            return True
        before = [events for t, events in counted if t <= begin]
        after = [events for t, events in counted if t >= end]
        if before and after and after[0] > before[-1]:
            return True
    return False if all(_watched(watching, b, e) for b, e in windows) else None


def _verdict(verdicts: Sequence[bool | None]) -> bool | None:
    if True in verdicts:
        return True
    return False if verdicts and None not in verdicts else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
