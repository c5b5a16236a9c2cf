"""What a machine tells about its power, clocks and heat, one class per source.

Rules: nothing needs root; what a source does not tell is None, never 0; a source that has died
raises, so that nobody takes its last word for news. Each takes the root of the file system, or
what it reads from, as a parameter.

    sensor = Ina3221.find(Path("/"))
    sensor.read().watts
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any, Literal

Covers = Literal["board", "gpu", "cpu"]

FRESH_S = 1.0
"""Age at which a line of tegrastats is no longer the present."""
INA_LAG_S = 0.5
"""L4T sets the INA3221 to average 512 conversions of 3 channels: a value is up to this old."""
NVML_LAG_S = 1.0
"""NVML gives power as the mean of the last second on most GPUs, where it counts no energy."""


@dataclass(frozen=True)
class Reading:
    """One look at a sensor.

    `joules` and `events` count up from any origin: energy, and how often a limit slowed the
    machine down. `throttled`: whether one does at this moment. `celsius`: the hottest place.
    """

    watts: float | None = None
    joules: float | None = None
    throttled: bool | None = None
    events: int | None = None
    gpu_mhz: float | None = None
    cpu_mhz: float | None = None
    celsius: float | None = None


class Sensor(ABC):
    """A source of readings.

    Attributes:
        name: What it is, for the result.
        covers: The whole board, or no more than its GPU or CPU.
        measures_power: Whether its readings have `watts` or `joules`.
        lag_s: How long a reading of power remembers the past.
    """

    name: str
    covers: Covers
    measures_power = False
    lag_s = 0.0

    @abstractmethod
    def read(self) -> Reading:
        """Look once.

        Raises:
            OSError: The source is gone.
            ValueError: It tells something else than a number.
        """

    def close(self) -> None:
        """Release what the sensor holds."""


def total_watts(rails: Mapping[str, float]) -> float | None:
    """Power of a Jetson module from that of its rails, in the unit of the rails.

    The rail named `..._IN` is the module's input where there is one (Nano, TX2, NX, Orin Nano).
    Elsewhere (AGX) it is the sum; VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0 and would count twice.
    """
    for name, value in rails.items():
        if name.endswith("_IN"):
            return value
    parts = [value for name, value in rails.items() if name != "VDDQ_VDD2_1V8AO"]
    return sum(parts) if parts else None


class Ina3221(Sensor):
    """The power monitors of a Jetson in sysfs: volts times amperes of every named rail."""

    covers: Covers = "board"
    measures_power = True
    lag_s = INA_LAG_S

    def __init__(self, rails: Mapping[str, tuple[Path, Path]]) -> None:
        self._rails = dict(rails)
        self.name = f"INA3221 ({', '.join(self._rails)})"

    @classmethod
    def find(cls, root: Path = Path("/")) -> Ina3221 | None:
        """The monitors of this machine, None where it has none."""
        rails: dict[str, tuple[Path, Path]] = {}
        for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
            if text(chip / "name") != "ina3221":
                continue
            for n in (1, 2, 3):  # channels 4 to 7 are shunt voltages and sums of these
                name, volts, amperes = (
                    text(chip / f"in{n}_label"),
                    chip / f"in{n}_input",
                    chip / f"curr{n}_input",
                )
                if name not in ("", "NC") and number(volts) is not None:
                    rails[name] = volts, amperes
        return cls(rails) if rails else None

    def read(self) -> Reading:
        milliwatts = {
            name: int(volts.read_text()) * int(amperes.read_text()) / 1000
            for name, (volts, amperes) in self._rails.items()
        }
        total = total_watts(milliwatts)
        return Reading(watts=None if total is None else total / 1000)


_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")
_HEAT = re.compile(r"\b(\w+)@(-?[\d.]+)C\b")
_CORES = re.compile(r"CPU \[([^\]]*)\]")
_GPU = re.compile(r"GR3D_FREQ \d+%@\[?(\d+)")
_EMC = re.compile(r"EMC_FREQ \d+%@(\d+)")
NOT_HEAT = ("PMIC", "PMIC-Die")
"""Says 100 degrees on every board, whatever its temperature."""


def parse_tegrastats(line: str) -> Reading:
    """One line of tegrastats, of L4T 32 (`POM_5V_IN 2532/2532`) to 36 (`VDD_IN 4939mW/4939mW`)."""
    rails = {name: float(now) for name, now in _RAIL.findall(line)}
    total = total_watts(rails)
    heat = [float(value) for name, value in _HEAT.findall(line) if name not in NOT_HEAT]
    cores = _CORES.search(line)
    clocks = re.findall(r"@(\d+)", cores.group(1)) if cores else []
    gpu = _GPU.search(line)
    return Reading(
        watts=None if total is None else total / 1000,
        gpu_mhz=float(gpu.group(1)) if gpu else None,
        cpu_mhz=float(max(map(int, clocks))) if clocks else None,
        celsius=max((value for value in heat if value > -200), default=None),  # off is -256
    )


def emc_mhz(line: str) -> float | None:
    """The memory's clock in a line of tegrastats; sysfs shows it to root only."""
    found = _EMC.search(line)
    return float(found.group(1)) if found else None


class Tegrastats(Sensor):
    """The lines of `tegrastats --interval 100`.

    Args:
        lines: Where lines come from; read in a thread, until there is none.
        clock: Seconds from any origin.
        stop: Ends the source.
    """

    name = "tegrastats"
    covers: Covers = "board"
    measures_power = True
    lag_s = INA_LAG_S

    def __init__(
        self,
        lines: Iterable[str],
        *,
        clock: Callable[[], float] = perf_counter,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock, self._stop = clock, stop
        self._last: tuple[float, str] | None = None
        self.reader = Thread(target=self._follow, args=(lines,), daemon=True)
        self.reader.start()

    def _follow(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._last = self._clock(), line

    @property
    def line(self) -> str:
        """The newest line, "" before the first."""
        return self._last[1] if self._last else ""

    def read(self) -> Reading:
        if self._last is None or self._clock() - self._last[0] > FRESH_S:
            raise OSError("tegrastats is silent")
        return parse_tegrastats(self._last[1])

    def close(self) -> None:
        self._stop()


SLOWED = 0x08 | 0x20 | 0x40 | 0x80
"""Bits of NVML's reasons for low clocks: hardware slowdown, heat by software, heat by hardware,
power brake. Being idle, at a clock that was asked for, or at the board's own power limit is how
the GPU is meant to run."""


class Nvml(Sensor):
    """An NVIDIA GPU of a desktop or server, through nvidia-ml-py where that is installed."""

    covers: Covers = "gpu"
    measures_power = True

    def __init__(self, nvml: Any, index: int = 0) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(self._gpu)
        self.name = f"NVML ({name.decode() if isinstance(name, bytes) else name})"
        self._counts = self._ask("nvmlDeviceGetTotalEnergyConsumption") is not None
        self.lag_s = 0.1 if self._counts else NVML_LAG_S

    @classmethod
    def find(cls, index: int = 0) -> Nvml | None:
        """The GPU of that index, None where it or the package is absent."""
        try:
            return cls(import_module("pynvml"), index)
        except Exception:  # a driver of another version, a container without it: no sensor
            return None

    def read(self) -> Reading:
        nvml = self._nvml
        energy = self._ask("nvmlDeviceGetTotalEnergyConsumption") if self._counts else None
        power = None if self._counts else self._ask("nvmlDeviceGetPowerUsage")
        if energy is None and power is None:
            raise OSError("NVML is silent")
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Reading(
            watts=None if power is None else power / 1000,
            joules=None if energy is None else energy / 1000,
            throttled=None if reasons is None else bool(int(reasons) & SLOWED),
            gpu_mhz=self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            celsius=self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        )

    def _ask(self, name: str, *arguments: int) -> float | None:
        try:
            return float(getattr(self._nvml, name)(self._gpu, *arguments))
        except self._nvml.NVMLError:  # not on this GPU
            return None

    def close(self) -> None:
        self._nvml.nvmlShutdown()


class Rapl(Sensor):
    """The energy counters of an x86 processor, where they are readable without root."""

    name = "RAPL (processor package)"
    covers: Covers = "cpu"
    measures_power = True

    def __init__(self, packages: Iterable[Path]) -> None:
        self._packages = list(packages)
        self._last = [0] * len(self._packages)
        self._total = 0
        self._look()
        self._total = 0

    @classmethod
    def find(cls, root: Path = Path("/")) -> Rapl | None:
        """The processor's packages, None where there is none or the counters are root's."""
        zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
        packages = [zone for zone in zones if text(zone / "name").startswith("package-")]
        readable = packages and all(number(zone / "energy_uj") is not None for zone in packages)
        return cls(packages) if readable else None

    def read(self) -> Reading:
        self._look()
        return Reading(joules=self._total / 1e6)

    def _look(self) -> None:
        for i, zone in enumerate(self._packages):
            now = int((zone / "energy_uj").read_text())
            used = now - self._last[i]
            if used < 0:  # the counter began again
                used += int((zone / "max_energy_range_uj").read_text())
            self._last[i] = now
            self._total += used


def text(path: Path) -> str:
    """What a file of sysfs says, "" where it is absent or does not answer."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """The number in a file of sysfs, None where there is none."""
    try:
        return int(text(path))
    except ValueError:
        return None
