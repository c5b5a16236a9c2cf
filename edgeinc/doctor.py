"""What works on this machine, and the command that mends what does not.

Rules: facts are gathered once (`gather`), every finding is a function of facts (`examine`), so a
machine that is broken in any way can be examined without being broken; libraries are tried in
processes of their own, because a damaged one may end its process; `missing` is only what the
purpose cannot do without.

    diagnosis = diagnose("device")
    diagnosis.ok or print(diagnosis.checks)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from edgeinc import __version__, host
from edgeinc.errors import UsageError
from edgeinc.registry import suggest
from edgeinc.schema import Check, Diagnosis

__all__ = ["Environment", "Module", "diagnose", "examine", "gather"]


MODULES: Mapping[str, tuple[str, ...]] = {
    "train": ("cv2", "torch"),
    "export": ("cv2", "torch", "onnx", "onnxscript", "onnxruntime", "tensorrt"),
    "device": ("cv2", "onnxruntime", "tensorrt"),
    "all": ("cv2", "torch", "onnx", "onnxscript", "onnxruntime", "tensorrt"),
}
"""Purpose -> the modules that are tried."""

_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
_TIMEOUT_S = 120
_MIN_DISK_GB = 2.0
_MIN_MEMORY_GB = {"train": 4.0, "export": 2.0, "device": 0.5, "all": 4.0}
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"})
"""Flags of /proc/cpuinfo: x86 names the instruction set, Arm only `bf16`."""

_PROBE = """
import json, sys
name = sys.argv[1]
module = __import__(name)
facts = {"version": str(getattr(module, "__version__", ""))}
if name == "torch":
    facts["cuda"] = module.version.cuda or ""
    facts["works"] = module.cuda.is_available()
elif name == "onnxruntime":
    facts["works"] = hasattr(module, "InferenceSession")
    facts["providers"] = module.get_available_providers() if facts["works"] else []
print("\\n" + json.dumps(facts))
"""


@dataclass(frozen=True)
class Module:
    """How the import of a module went.

    Attributes:
        error: Last line of what it died with, "" when it was imported.
        absent: Whether there is no such module at all.
        version: What it calls itself.
        cuda: CUDA version torch was built for, "" for a CPU build.
        works: torch: a CUDA device answers. onnxruntime: it has an InferenceSession.
        providers: ONNX Runtime's execution providers.
    """

    error: str = ""
    absent: bool = False
    version: str = ""
    cuda: str = ""
    works: bool = False
    providers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Environment:
    """The facts a diagnosis is made from.

    Attributes:
        modules: Import name -> how its import went, for the modules of the purpose.
        packages: Installed distributions and their versions.
        nvidia: Name of the NVIDIA GPU or driver, "" where there is none.
        system: `platform.system()`.
        machine: `platform.machine()`.
    """

    modules: Mapping[str, Module]
    packages: Mapping[str, str] = field(default_factory=dict)
    python: tuple[int, int, int] = (3, 11, 0)
    system: str = "Linux"
    machine: str = "x86_64"
    cpu: str = ""
    cpu_flags: frozenset[str] = frozenset()
    cores: int = 1
    memory_gb: float = 16.0
    disk_gb: float = 100.0
    nvidia: str = ""
    data_root: str = ""
    data_root_exists: bool = False


def diagnose(purpose: str = "all") -> Diagnosis:
    """Examine this machine.

    Args:
        purpose: `train`, `export`, `device` or `all`.

    Raises:
        UsageError: Another purpose.
    """
    if purpose not in MODULES:
        raise UsageError(f"unknown purpose '{purpose}'", hint=suggest(purpose, tuple(MODULES)))
    return examine(gather(MODULES[purpose]), purpose)


def examine(env: Environment, purpose: str = "all") -> Diagnosis:
    """Every finding about a machine for a purpose."""
    checks = tuple(_checks(env, purpose))
    return Diagnosis(purpose, checks, ok=all(c.status != "missing" for c in checks))


# ---------------------------------------------------------------------------------- findings


def _checks(env: Environment, purpose: str) -> Iterator[Check]:
    yield _python(env)
    yield Check("edgeinc", "ok", __version__)
    yield Check("processor", "ok", f"{env.cpu or 'unknown'}, {env.cores} cores; {_bf16(env)}")
    yield _memory(env, purpose)
    yield _disk(env)
    yield Check("GPU", "ok", env.nvidia or "no NVIDIA GPU")
    yield _opencv(env)
    if "torch" in MODULES[purpose]:
        yield _torch(env)
    for name in ("onnx", "onnxscript"):
        if name in MODULES[purpose]:
            yield _plain(env, name)
    if "onnxruntime" in MODULES[purpose]:
        yield _onnxruntime(env, needed=purpose != "device" or not _imports(env, "tensorrt"))
        yield _tensorrt(env)
    if purpose in ("train", "all"):
        yield _data_root(env)


def _python(env: Environment) -> Check:
    text = ".".join(map(str, env.python))
    if env.python >= (3, 10):
        return Check("Python", "ok", text)
    return Check("Python", "missing", f"{text}, edgeinc needs 3.10", "install Python 3.10 or newer")


def _bf16(env: Environment) -> str:
    found = sorted(_BF16_FLAGS & env.cpu_flags)
    return f"computes in bf16 ({', '.join(found)})" if found else "no bf16, so fp32"


def _memory(env: Environment, purpose: str) -> Check:
    if not env.memory_gb:
        return Check("memory", "ok", "unknown")
    detail, needed = f"{env.memory_gb:.1f} GB", _MIN_MEMORY_GB[purpose]
    if env.memory_gb >= needed:
        return Check("memory", "ok", detail)
    fix = "edgeinc train --batch-size 1 --accumulate 6" if purpose != "device" else "free memory"
    return Check("memory", "warn", f"{detail}, {needed:.1f} GB is comfortable", fix)


def _disk(env: Environment) -> Check:
    detail = f"{env.disk_gb:.1f} GB free here"
    if env.disk_gb >= _MIN_DISK_GB:
        return Check("disk", "ok", detail)
    return Check("disk", "warn", detail, "free some space, or work in a folder on another disk")


def _opencv(env: Environment) -> Check:
    module = env.modules["cv2"]
    both = [name for name in _OPENCV if name in env.packages]
    fix = (
        f"pip uninstall -y {' '.join(both)} && pip install opencv-python-headless"
        if both
        else "pip install opencv-python-headless"
    )
    if module.absent:
        return Check("OpenCV", "missing", "not installed", fix)
    if "libGL" in module.error or "libgthread" in module.error:
        detail = f"the desktop build needs a library that is not here ({module.error})"
        return Check("OpenCV", "missing", detail, fix)
    if module.error:
        return Check("OpenCV", "missing", module.error, fix)
    if len(both) > 1:
        detail = f"{' and '.join(both)} are installed over each other"
        return Check("OpenCV", "warn", detail, fix)
    return Check("OpenCV", "ok", module.version)


def _torch(env: Environment) -> Check:
    module = env.modules["torch"]
    if module.absent:
        return Check("torch", "missing", "not installed", 'pip install "edgeinc[train]"')
    if module.error:
        fix = 'pip install --force-reinstall "edgeinc[train]"'
        return Check("torch", "missing", module.error, fix)
    if not env.nvidia:
        return Check("torch", "ok", module.version)
    if not module.cuda:
        detail = f"{module.version} is a CPU build, but there is {env.nvidia}"
        return Check("torch", "warn", detail, _cuda_torch(env))
    if not module.works:
        detail = f"{module.version} is for CUDA {module.cuda} and finds no device"
        fix = "update the NVIDIA driver, then see what `nvidia-smi` says"
        return Check("torch", "warn", detail, fix)
    return Check("torch", "ok", f"{module.version}, CUDA {module.cuda}")


def _cuda_torch(env: Environment) -> str:
    """The command that replaces a CPU build of torch."""
    index = ""  # for x86-64 Linux the build on PyPI is for CUDA
    if env.machine == "aarch64":
        index = " --index-url https://pypi.jetson-ai-lab.io/jp6/cu126"
    elif env.system == "Windows":
        index = " --index-url https://download.pytorch.org/whl/cu126"
    return f"pip uninstall -y torch && pip install torch{index}"


def _plain(env: Environment, name: str) -> Check:
    module = env.modules[name]
    if module.absent:
        return Check(name, "missing", "not installed", 'pip install "edgeinc[train]"')
    if module.error:
        return Check(name, "missing", module.error, f"pip install --force-reinstall {name}")
    return Check(name, "ok", module.version)


def _onnxruntime(env: Environment, *, needed: bool) -> Check:
    """ONNX Runtime; its two packages hold one module, so the second breaks the first."""
    module = env.modules["onnxruntime"]
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in env.packages]
    extra = "gpu" if env.nvidia and env.machine != "aarch64" else "cpu"
    install = f'pip install "edgeinc[{extra}]"'
    clean = f"pip uninstall -y onnxruntime onnxruntime-gpu && {install}"
    if module.absent:
        return Check("onnxruntime", "missing" if needed else "warn", "not installed", install)
    if module.error:
        return Check("onnxruntime", "missing" if needed else "warn", module.error, clean)
    if not module.works:
        detail = "an empty shell without InferenceSession, as an uninstall leaves it"
        return Check("onnxruntime", "missing" if needed else "warn", detail, clean)
    if len(both) > 1:
        detail = "onnxruntime and onnxruntime-gpu are installed over each other"
        return Check("onnxruntime", "warn", detail, clean)
    if both == ["onnxruntime-gpu"] and "CUDAExecutionProvider" not in module.providers:
        return Check("onnxruntime", "warn", "onnxruntime-gpu without its CUDA provider", clean)
    providers = ", ".join(p.removesuffix("ExecutionProvider") for p in module.providers)
    return Check("onnxruntime", "ok", f"{module.version} ({providers})")


def _tensorrt(env: Environment) -> Check:
    module = env.modules["tensorrt"]
    if not module.error:
        return Check("tensorrt", "ok", module.version)
    detail = "not installed" if module.absent else module.error
    if not env.nvidia:
        return Check("tensorrt", "ok", f"{detail}; there is no NVIDIA GPU to use it")
    fix = 'pip install "edgeinc[trt]"'
    if env.machine == "aarch64":  # JetPack brings it as a system package
        fix = "python3 -m venv --system-site-packages .venv  # JetPack's own TensorRT"
    return Check("tensorrt", "warn", detail, fix)


def _data_root(env: Environment) -> Check:
    if not env.data_root:
        return Check("data root", "ok", "EDGEINC_DATA_ROOT is not set: ./data is looked in")
    if env.data_root_exists:
        return Check("data root", "ok", env.data_root)
    detail = f"EDGEINC_DATA_ROOT={env.data_root} is not a folder"
    return Check("data root", "warn", detail, "export EDGEINC_DATA_ROOT=FOLDER, or unset it")


def _imports(env: Environment, name: str) -> bool:
    return name in env.modules and not env.modules[name].error


# ---------------------------------------------------------------------------------- facts


def gather(modules: tuple[str, ...]) -> Environment:
    """The facts of this machine; every module is imported in a process of its own."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        tried = dict(zip(modules, pool.map(_probe, modules), strict=True))
    packages = {name: v for name in (*host.PACKAGES, *_OPENCV) if (v := host.installed(name))}
    data_root = os.environ.get("EDGEINC_DATA_ROOT", "")
    return Environment(
        modules=tried,
        packages=packages,
        python=sys.version_info[:3],
        system=platform.system(),
        machine=platform.machine(),
        cpu=host.cpu_name(),
        cpu_flags=_cpu_flags(),
        cores=host.cores(),
        memory_gb=host.memory_bytes() / 2**30,
        disk_gb=shutil.disk_usage(Path.cwd()).free / 2**30,
        nvidia=_nvidia(),
        data_root=data_root,
        data_root_exists=Path(data_root).is_dir(),
    )


def _probe(name: str) -> Module:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, name],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Module(error=f"its import did not end within {_TIMEOUT_S} s")
    lines = done.stderr.strip().splitlines()
    if done.returncode:
        error = lines[-1] if lines else f"its import ended with exit code {done.returncode}"
        absent = error.startswith("ModuleNotFoundError") and f"'{name}'" in error
        # `import of NAME halted`: the environment forbids it; to the user it is not there.
        halted = f"import of {name} halted" in error
        return Module(error=error.partition(": ")[2] or error, absent=absent or halted)
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    return Module(**{**facts, "providers": tuple(facts.get("providers", ()))})


def _nvidia() -> str:
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


def _cpu_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, flags = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()
