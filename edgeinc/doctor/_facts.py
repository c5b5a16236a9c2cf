"""The facts a diagnosis is made from, gathered once.

Rules: nothing here judges; a library is tried in a process of its own, because a damaged one may
end its process; what the system does not tell is "" or 0, never a guess.

    environment = gather(("cv2", "onnxruntime", "tensorrt"))
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from edgeinc import host
from edgeinc.deploy._thermal import board

OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
TENSORRT = tuple(
    f"tensorrt{cuda}{part}"
    for cuda in ("", "-cu13", "-cu12")
    for part in ("", "-bindings", "-libs")
)
"""Distributions that pip installs for TensorRT; JetPack's is a system package."""

_TIMEOUT_S = 120
_NVIDIA_PCI = "0x10de"
_DISPLAY_PCI = ("0x0300", "0x0302")
"""PCI classes of a GPU with and without a connector."""

_PROBE = """
import base64, json, sys
name = sys.argv[1]
module = __import__(name)
facts = {
    "version": str(getattr(module, "__version__", "")),
    "path": getattr(module, "__file__", "") or "",
}
if name == "torch":
    facts["cuda"] = module.version.cuda or ""
    facts["works"] = module.cuda.is_available()
elif name == "onnxruntime":
    facts["works"] = hasattr(module, "InferenceSession")
    facts["providers"] = module.get_available_providers() if facts["works"] else []
    # The list is what the package was built with; only a session tells what works here.
    if "CUDAExecutionProvider" in facts["providers"]:
        graph = base64.b64decode(sys.argv[2])
        asked = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        facts["active"] = module.InferenceSession(graph, providers=asked).get_providers()
elif name == "tensorrt":
    try:
        facts["works"] = module.Builder(module.Logger()) is not None
    except Exception as err:
        facts["fault"] = (str(err).strip() or type(err).__name__).splitlines()[0]
print("\\n" + json.dumps(facts))
"""

IDENTITY = (
    "CAoSADo3ChAKAXgSAXkiCElkZW50aXR5EgFnWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQEg=="
)
"""The smallest ONNX file: one number in, the same out. Base64, so that no `onnx` is needed."""

_CUDA_PROBE = """
import json
from edgeinc.runtimes._cuda import open_cuda, version_text
cuda = open_cuda()
versions = [version_text(v) for v in (cuda.library_version(), cuda.driver_version())]
print("\\n" + json.dumps([*versions, cuda.compute_capability()]))
"""


@dataclass(frozen=True)
class Module:
    """How the import of a module went.

    Attributes:
        error: Last line of what it died with, "" when it was imported.
        absent: Whether there is no such module at all.
        version: What it calls itself.
        cuda: CUDA version torch was built for, "" for a CPU build.
        works: torch: a CUDA device answers. onnxruntime: it has an InferenceSession. tensorrt: it
            makes a builder.
        providers: Execution providers that ONNX Runtime lists.
        active: Those that a session got which asked for CUDA, () where CUDA is not listed.
        lacks: The shared library that was looked for and not found.
        fault: tensorrt: why it makes no builder.
        path: File it was imported from.
    """

    error: str = ""
    absent: bool = False
    version: str = ""
    cuda: str = ""
    works: bool = False
    providers: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    lacks: str = ""
    fault: str = ""
    path: str = ""


@dataclass(frozen=True)
class Cuda:
    """The CUDA runtime, as `12.6`.

    Attributes:
        runtime: Version of the library.
        driver: The newest version that the driver runs.
        capability: Compute capability of the GPU.
        error: Why it does not answer.
    """

    runtime: str = ""
    driver: str = ""
    capability: str = ""
    error: str = ""


@dataclass(frozen=True)
class Environment:
    """The facts a diagnosis is made from.

    Attributes:
        modules: Import name -> how its import went, for the modules of the purpose.
        packages: Installed distributions and their versions.
        prefix: Folder of the Python environment.
        isolated: Whether it is one that does not see the system's packages.
        system: `platform.system()`.
        machine: `platform.machine()`.
        memory_gb: Physical memory, in GiB, 0 where unknown; `free_memory_gb` what can still be had.
        nvidia: Name of the NVIDIA GPU or driver, "" where there is none.
        pci_gpu: Whether an NVIDIA GPU is on the bus, driver or not.
        cuda: The CUDA runtime.
        driver: Version of the kernel driver.
        l4t: Release of Linux for Tegra on a Jetson, "" elsewhere.
        container: Whether this is a container.
        system_tensorrt: Python versions (`3.10`) that the system has bindings of TensorRT for.
        power_mode: Of a Jetson, as `nvpmodel` calls it.
        power_modes: Every mode there is and its number.
    """

    modules: Mapping[str, Module]
    packages: Mapping[str, str] = field(default_factory=dict)
    python: tuple[int, int, int] = (3, 11, 0)
    prefix: str = ".venv"
    isolated: bool = False
    system: str = "Linux"
    machine: str = "x86_64"
    cpu: str = ""
    cpu_flags: frozenset[str] = frozenset()
    cores: int = 1
    memory_gb: float = 16.0
    free_memory_gb: float = 0.0
    disk_gb: float = 100.0
    nvidia: str = ""
    pci_gpu: bool = False
    cuda: Cuda = Cuda()  # frozen
    driver: str = ""
    l4t: str = ""
    container: bool = False
    system_tensorrt: tuple[str, ...] = ()
    power_mode: str = ""
    power_modes: Mapping[str, int] = field(default_factory=dict)
    data_root: str = ""
    data_root_exists: bool = False

    def imports(self, name: str) -> bool:
        """Whether a module was tried and could be imported."""
        return name in self.modules and not self.modules[name].error


def gather(modules: tuple[str, ...]) -> Environment:
    """The facts of this machine.

    Args:
        modules: What to import, each in a process of its own.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        tried = dict(zip(modules, pool.map(_probe, modules), strict=True))
    names = (*host.PACKAGES, *OPENCV, *TENSORRT)
    data_root = os.environ.get("EDGEINC_DATA_ROOT", "")
    nvidia, jetson = nvidia_gpu(), board()
    return Environment(
        modules=tried,
        packages={name: v for name in names if (v := host.installed(name))},
        python=sys.version_info[:3],
        prefix=sys.prefix,
        isolated=is_isolated(Path(sys.prefix)),
        system=platform.system(),
        machine=platform.machine(),
        cpu=host.cpu_name(),
        cpu_flags=_cpu_flags(),
        cores=host.cores(),
        memory_gb=host.memory_bytes() / 2**30,
        free_memory_gb=host.free_memory_bytes() / 2**30,
        disk_gb=shutil.disk_usage(Path.cwd()).free / 2**30,
        nvidia=nvidia,
        pci_gpu=has_pci_gpu(),
        cuda=_cuda() if nvidia and "tensorrt" in modules else Cuda(),
        driver=host.nvidia_driver(),
        l4t=host.l4t(),
        container=Path("/.dockerenv").exists() or Path("/run/.containerenv").exists(),
        system_tensorrt=system_tensorrt(),
        power_mode=jetson.power_mode if jetson else "",
        power_modes=power_modes(),
        data_root=data_root,
        data_root_exists=Path(data_root).is_dir(),
    )


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """A Python process that did `code`; None when it took too long."""
    try:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return None


def _probe(name: str) -> Module:
    done = _run(_PROBE, name, IDENTITY)
    if done is None:
        return Module(error=f"its import did not end within {_TIMEOUT_S} s")
    lacks = missing_library(done.stderr)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        error = lines[-1] if lines else f"its import ended with exit code {done.returncode}"
        absent = error.startswith("ModuleNotFoundError") and f"'{name}'" in error
        # `import of NAME halted`: the environment forbids it; to the user it is not there.
        halted = f"import of {name} halted" in error
        return Module(error=error.partition(": ")[2] or error, absent=absent or halted, lacks=lacks)
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    lists = {key: tuple(facts.get(key, ())) for key in ("providers", "active")}
    return Module(**{**facts, **lists, "lacks": lacks})


def missing_library(said: str) -> str:
    """The first shared library that a loader did not find, in what a process said."""
    found = re.search(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object", said)
    return found[1] if found else ""


def _cuda() -> Cuda:
    done = _run(_CUDA_PROBE)
    if done is None:
        return Cuda(error=f"CUDA did not answer within {_TIMEOUT_S} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Cuda(error=lines[-1].partition("Error: ")[2] or lines[-1])
    return Cuda(*json.loads(done.stdout.strip().splitlines()[-1]))


def nvidia_gpu() -> str:
    """The GPU's name as the driver tells it, without any library; "" where there is none."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except subprocess.TimeoutExpired:
            return "an NVIDIA GPU that does not answer"
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip().splitlines()[0]
    if Path("/etc/nv_tegra_release").exists():
        return "NVIDIA Jetson"
    gpus = Path("/proc/driver/nvidia/gpus")
    return "an NVIDIA GPU" if gpus.is_dir() and any(gpus.iterdir()) else ""


def has_pci_gpu(root: Path = Path("/")) -> bool:
    """Whether an NVIDIA GPU is on the PCI bus; the kernel lists it without a driver, too.

    Args:
        root: Root of the file system.
    """
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:  # unplugged meanwhile, or hidden by a container
            continue
        if vendor == _NVIDIA_PCI and kind.startswith(_DISPLAY_PCI):
            return True
    return False


def is_isolated(prefix: Path) -> bool:
    """Whether a folder holds a virtual environment without the system's packages.

    Args:
        prefix: As `sys.prefix`.
    """
    settings = prefix / "pyvenv.cfg"
    if not settings.exists():
        return False
    text = settings.read_text(encoding="utf-8", errors="replace").lower()
    return re.search(r"include-system-site-packages\s*=\s*true", text) is None


def system_tensorrt(root: Path = Path("/")) -> tuple[str, ...]:
    """Python versions whose TensorRT bindings the system's packages installed.

    Args:
        root: Root of the file system.
    """
    found = (root / "usr/lib").glob("python3*/dist-packages/tensorrt")
    names = (path.parts[-3].removeprefix("python") for path in found)
    return tuple(sorted(name for name in names if "." in name))


def power_modes(root: Path = Path("/")) -> dict[str, int]:
    """The power modes of a Jetson by name, as nvpmodel reads them; {} elsewhere.

    Args:
        root: Root of the file system.
    """
    file = root / "etc/nvpmodel.conf"
    if not file.exists():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", text)
    return {name: int(number) for number, name in found}


def _cpu_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, flags = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()
