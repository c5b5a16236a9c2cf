"""Heat, clocks and what slows a machine down, from sysfs; and how a Jetson is set."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeinc.deploy._sensors import NOT_HEAT, Covers, Reading, Sensor, emc_mhz, number, text
from edgeinc.schema import Board

L4T = "etc/nv_tegra_release"
_SLOWS = re.compile(r"throttle-alert$|^(thermal-)?(cpufreq|devfreq)|^Processor$")
"""Types of cooling devices that take speed; a fan takes none."""
Command = Callable[[Sequence[str]], str]


class Thermal(Sensor):
    """Cooling devices, counters of throttling, clocks and temperatures.

    The counters catch what happens between two looks: over-current events of an Orin
    (`soctherm_oc`), and the throttle counts of an x86 processor.
    """

    name = "sysfs"

    def __init__(self, root: Path = Path("/")) -> None:
        jetson = (root / L4T).exists()
        self.covers: Covers = "board" if jetson else "cpu"
        devices = sorted((root / "sys/class/thermal").glob("cooling_device*"))
        self._slowing = [d / "cur_state" for d in devices if _SLOWS.search(text(d / "type"))]
        chips = (root / "sys/class/hwmon").glob("hwmon*")
        over_current = [c for c in chips if text(c / "name") == "soctherm_oc"]
        self._counters = sorted(
            [file for chip in over_current for file in chip.glob("oc*_event_cnt")]
            + [*(root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count")]
        )
        self._zones = heat_zones(root)
        # On x86 a look at the clocks interrupts every core; there only a Jetson is asked for them.
        self._cpu = cpu_clocks(root, "scaling_cur_freq") if jetson else []
        self._gpu = gpu_clocks(root, "cur_freq") if jetson else []

    @property
    def empty(self) -> bool:
        """Whether there is nothing to look at."""
        return not (self._slowing or self._counters or self._zones or self._cpu or self._gpu)

    def read(self) -> Reading:
        states = [int(file.read_text()) > 0 for file in self._slowing]
        counts = [int(file.read_text()) for file in self._counters]
        return Reading(
            throttled=any(states) if states else None,
            events=sum(counts) if counts else None,
            gpu_mhz=_fastest(self._gpu, 1e6),
            cpu_mhz=_fastest(self._cpu, 1e3),
            celsius=max((c for _, c in temperatures(self._zones)), default=None),
        )


def heat_zones(root: Path) -> list[Path]:
    """The thermal zones that measure heat."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    return [zone for zone in zones if text(zone / "type") not in NOT_HEAT]


def temperatures(zones: Sequence[Path]) -> list[tuple[str, float]]:
    """Degrees Celsius by zone; a part that is switched off does not answer and is left out."""
    found = [(text(zone / "type"), number(zone / "temp")) for zone in zones]
    return [(name, value / 1000) for name, value in found if value is not None and value > -200_000]


def cpu_clocks(root: Path, name: str) -> list[Path]:
    """A file of each group of cores that share a clock, in kHz."""
    return sorted((root / "sys/devices/system/cpu/cpufreq").glob(f"policy*/{name}"))


def gpu_clocks(root: Path, name: str) -> list[Path]:
    """The file of a Jetson's GPU, in Hz; its name differs between generations."""
    devices = sorted((root / "sys/class/devfreq").glob("*"))
    gpus = [d for d in devices if re.search(r"\.(gpu|ga10b|gv11b|gp10b)$", d.name)]
    return [d / name for d in gpus if (d / name).exists()]


def _fastest(files: Sequence[Path], unit: float) -> float | None:
    found = [value for file in files if (value := number(file)) is not None]
    return max(found) / unit if found else None


def board(
    root: Path = Path("/"), *, command: Command | None = None, tegrastats: str = ""
) -> Board | None:
    """How this Jetson is set; None on any other machine.

    Args:
        root: Root of the file system.
        command: Gives the output of a command, "" where it cannot run.
        tegrastats: A line of it, for the clock of the memory.
    """
    release = text(root / L4T)
    if not release:
        return None
    mode = re.search(r"NV Power Mode: *(\S.*)", (command or output)(["nvpmodel", "-q"]))
    mhz = {
        "cpu": _fastest(cpu_clocks(root, "scaling_cur_freq"), 1e3),
        "gpu": _fastest(gpu_clocks(root, "cur_freq"), 1e6),
        "emc": emc_mhz(tegrastats),
    }
    return Board(
        model=text(root / "proc/device-tree/model"),
        l4t=l4t_release(release),
        power_mode=mode.group(1).strip() if mode else "",
        clocks_locked=_clocks_locked(root),
        mhz={name: value for name, value in mhz.items() if value is not None},
        celsius=dict(temperatures(heat_zones(root))),
    )


def l4t_release(release: str) -> str:
    """`36.4.3` from `# R36 (release), REVISION: 4.3, GCID: ...`."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found.group(1)}.{found.group(2)}" if found else ""


def _clocks_locked(root: Path) -> bool | None:
    """`jetson_clocks` raises every lowest clock to the highest: files anyone may read."""
    lowest = cpu_clocks(root, "scaling_min_freq") + gpu_clocks(root, "min_freq")
    highest = cpu_clocks(root, "scaling_max_freq") + gpu_clocks(root, "max_freq")
    if not lowest or len(lowest) != len(highest):
        return None
    return [number(file) for file in lowest] == [number(file) for file in highest]


def output(words: Sequence[str]) -> str:
    """What a command prints; "" where it is absent, fails or takes longer than 5 seconds."""
    if shutil.which(words[0]) is None:
        return ""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
