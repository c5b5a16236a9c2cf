"""What works on this machine, and the command that mends what does not.

Rules: facts are gathered once (`gather`), every finding is a function of facts (`examine`), so a
machine that is broken in any way can be examined without being broken; `missing` is only what the
purpose cannot do without; a finding names the value and one command.

    diagnosis = diagnose("device")
    diagnosis.ok or print(diagnosis.checks)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeinc import __version__
from edgeinc.doctor._facts import Cuda, Environment, Module, gather
from edgeinc.doctor._gpu import gpu, tensorrt
from edgeinc.doctor._jetpack import jetson_checks
from edgeinc.doctor._libraries import onnxruntime, opencv, openvino, optional, plain, torch
from edgeinc.errors import UsageError
from edgeinc.registry import suggest
from edgeinc.schema import Check, Diagnosis

__all__ = ["MODULES", "Cuda", "Environment", "Module", "diagnose", "examine", "gather"]

MODULES: Mapping[str, tuple[str, ...]] = {
    "train": ("cv2", "torch"),
    "export": ("cv2", "torch", "onnx", "onnxscript", "onnxruntime", "tensorrt", "openvino"),
    "device": ("cv2", "onnxruntime", "tensorrt", "openvino"),
    "all": ("cv2", "torch", "onnx", "onnxscript", "onnxruntime", "tensorrt", "openvino"),
}
"""Purpose -> the modules that are tried."""

_MIN_DISK_GB = 2.0
_MIN_MEMORY_GB = {"train": 4.0, "export": 2.0, "device": 0.5, "all": 4.0}
_BUILD_MEMORY_GB = 2.0
"""Free memory from which a build on a Jetson is not expected to be killed: a rule of thumb."""
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"})
"""Flags of /proc/cpuinfo: x86 names the instruction set, Arm only `bf16`."""


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
    """Every finding about a machine for a purpose.

    Args:
        env: The facts.
        purpose: As `diagnose` takes it.
    """
    checks = tuple(_checks(env, purpose))
    return Diagnosis(purpose, checks, ok=all(c.status != "missing" for c in checks))


def _checks(env: Environment, purpose: str) -> Iterator[Check]:
    modules = MODULES[purpose]
    yield _python(env)
    yield Check("edgeinc", "ok", __version__)
    yield from jetson_checks(env)
    yield Check("processor", "ok", f"{env.cpu or 'unknown'}, {env.cores} cores; {_bf16(env)}")
    yield _memory(env, purpose)
    yield _disk(env)
    yield gpu(env)
    yield opencv(env)
    if "torch" in modules:
        yield torch(env)
    for name in ("onnx", "onnxscript"):
        if name in modules:
            yield plain(env, name)
    if "onnxruntime" in modules:
        engines = tensorrt(env)
        runs_engines = bool(env.nvidia) and env.imports("tensorrt") and engines.status == "ok"
        yield onnxruntime(env, needed=purpose != "device" or not runs_engines)
        yield engines
    if "openvino" in modules:
        yield openvino(env)
    yield from optional(env, purpose)
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
    if env.memory_gb < needed:
        fix = "ps -eo rss,pid,comm --sort=-rss | head  # end what takes most of it"
        if purpose != "device":
            fix = "edgeinc train --batch-size 1 --accumulate 6"
        return Check("memory", "warn", f"{detail}, {needed:.1f} GB is comfortable", fix)
    # On a Jetson, GPU and CPU share it: a build that finds too little is killed.
    if env.l4t and purpose != "train" and 0 < env.free_memory_gb < _BUILD_MEMORY_GB:
        detail += f", {env.free_memory_gb:.1f} GB free: building an engine may be killed"
        return Check("memory", "warn", detail, "sudo systemctl isolate multi-user.target")
    return Check("memory", "ok", detail)


def _disk(env: Environment) -> Check:
    detail = f"{env.disk_gb:.1f} GB free here"
    if env.disk_gb >= _MIN_DISK_GB:
        return Check("disk", "ok", detail)
    return Check("disk", "warn", detail, "free some space, or work in a folder on another disk")


def _data_root(env: Environment) -> Check:
    if not env.data_root:
        return Check("data root", "ok", "EDGEINC_DATA_ROOT is not set: ./data is looked in")
    if env.data_root_exists:
        return Check("data root", "ok", env.data_root)
    detail = f"EDGEINC_DATA_ROOT={env.data_root} is not a folder"
    return Check("data root", "warn", detail, "export EDGEINC_DATA_ROOT=FOLDER, or unset it")
