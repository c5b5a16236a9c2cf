"""Facts about this machine that belong beside every figure, gathered without importing torch."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeinc.schema import Host

PACKAGES = (
    "edgeinc",
    "torch",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "openvino",
    "nncf",
    "prometheus-client",
    "python-pkcs11",
    "pycocotools",
    "safetensors",
)
"""What a figure may depend on: the packages of every extra but `dev`, and the base's own."""


def host(gpu: str = "") -> Host:
    """The machine and the installed versions of what edgeinc stands on.

    Args:
        gpu: Name of the accelerator in use, "" for none; the caller knows, this module cannot.
    """
    return Host(
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cpu=cpu_name(),
        cores=cores(),
        memory_gb=round(memory_bytes() / 2**30, 1),
        versions={name: v for name in PACKAGES if (v := installed(name))},
        gpu=gpu,
    )


def cores() -> int:
    """Cores this process may use (cgroup and affinity included where the system tells)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder() -> Path:
    """Where work is kept that can be done again: `$EDGEINC_CACHE`, else the user's cache folder."""
    own = os.environ.get("EDGEINC_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "edgeinc"


def installed(package: str) -> str:
    """The installed version of a distribution, or ""."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def computes_bf16() -> bool:
    """Whether the processor multiplies bf16 natively; elsewhere bf16 is slower than fp32."""
    flags = f" {_cpuinfo('flags') or _cpuinfo('features')} "
    return any(f" {flag} " in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def _cpuinfo(key: str) -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(key):
                return line.partition(":")[2].strip()
    return ""


def memory_bytes() -> int:
    """Physical memory, 0 where the system does not tell."""
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory_bytes() -> int:
    """Memory that programs can still get, caches given back; 0 where the system does not tell."""
    info = Path("/proc/meminfo")
    if info.exists():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", info.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return 0


def l4t(release: Path = Path("/etc/nv_tegra_release")) -> str:
    """The release of Linux for Tegra (`36.4.3`) on a Jetson, "" elsewhere."""
    if not release.exists():
        return ""
    text = release.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def nvidia_driver(version: Path = Path("/proc/driver/nvidia/version")) -> str:
    """The version of NVIDIA's kernel driver (`550.54.14`), "" where the system does not tell."""
    if not version.exists():
        return ""
    text = version.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else ""
