"""The GPU, its driver, and TensorRT: what is wrong, and the one command that mends it."""

from __future__ import annotations

from shlex import quote

from edgeinc.doctor._facts import TENSORRT, Environment
from edgeinc.doctor._jetpack import JetPack, jetpack, numbers
from edgeinc.schema import Check

NULLPTR = "elsewhere: `pybind11::init(): factory function returned nullptr`"
_BROKEN = (10, 2, 0)
"""It looks on Linux for a library of Windows, and builds nothing (ultralytics#24367)."""
_INDEX = "--extra-index-url https://pypi.nvidia.com"
"""Where the libraries are: what PyPI has under that name only points there."""


def gpu(env: Environment) -> Check:
    """The GPU and whether driver and CUDA answer."""
    if not env.nvidia:
        if not env.pci_gpu:
            return Check("GPU", "ok", "no NVIDIA GPU")
        detail = "an NVIDIA GPU is in this machine, and no driver answers for it"
        return Check("GPU", "warn", detail, driver_fix(env))
    if env.cuda.error:
        fix = driver_fix(env)
        if "libcudart" in env.cuda.error:
            fix = "pip install nvidia-cuda-runtime-cu12"
            fix = "sudo apt-get install -y nvidia-cuda" if env.l4t else fix
        return Check("GPU", "warn", f"{env.nvidia}: {env.cuda.error}", fix)
    facts = [env.nvidia]
    facts += [f"compute capability {env.cuda.capability}"] if env.cuda.capability else []
    facts += [f"driver {env.driver}"] if env.driver else []
    if env.cuda.runtime:
        facts += [f"CUDA {env.cuda.runtime}, the driver runs up to {env.cuda.driver}"]
    return Check("GPU", "ok", ", ".join(facts))


def driver_fix(env: Environment) -> str:
    """The command that brings a driver, or lets a container use the one outside."""
    if env.container:
        runtime = "--runtime nvidia" if env.machine == "aarch64" else "--gpus all"
        return f"docker run --rm -it {runtime} IMAGE"
    if env.l4t:
        return "sudo apt-get install -y --reinstall nvidia-l4t-core nvidia-l4t-cuda"
    if env.system == "Windows":
        return "start https://www.nvidia.com/drivers"
    return "sudo ubuntu-drivers install && sudo reboot"


def tensorrt(env: Environment) -> Check:
    """TensorRT: absent, of the wrong Python, of the wrong version, or without a driver."""
    module = env.modules["tensorrt"]
    row = jetpack(env.l4t) if env.l4t else None
    if not env.nvidia:
        detail = "not installed" if module.absent else (module.error or module.version)
        return Check("tensorrt", "ok", f"{detail}; there is no NVIDIA GPU to use it")
    if module.error:
        return _not_importable(env, row)
    version = numbers(module.version)
    if row is not None and version[0] >= 11 and not (row.newest and version >= row.newest):
        stays = (
            "which stays on 10.x" if row.l4t[0] == 36 else "11.4.1 on JetPack 7.2.2 is the first"
        )
        detail = f"TensorRT {module.version} does not support {row.name}, {stays}"
        return Check("tensorrt", "warn", detail, _own_again(env, row))
    if _hides_the_systems(env):
        theirs = f"JetPack's {row.tensorrt}" if row else "the system's"
        detail = f"pip's {module.version} in {module.path} hides {theirs}"
        return Check("tensorrt", "warn", detail, _own_again(env, row))
    if version[:3] == _BROKEN:
        detail = f"{module.version} cannot build: it asks for libnvinfer_builder_resource_win.so"
        fix = f'pip install --upgrade "tensorrt>10.2.0,<11" {_INDEX}'
        return Check("tensorrt", "warn", detail, _own_again(env, row) if row else fix)
    if not module.works:
        cause = env.cuda.error or module.fault or "no GPU, or no driver that fits it"
        detail = f"{module.version} makes no builder: {cause} ({NULLPTR})"
        return Check("tensorrt", "warn", detail, driver_fix(env))
    return Check("tensorrt", "ok", module.version)


def _not_importable(env: Environment, row: JetPack | None) -> Check:
    module = env.modules["tensorrt"]
    python, prefix = ".".join(map(str, env.python[:2])), quote(env.prefix)
    said = "not installed" if module.absent else module.error
    if row is not None and module.absent and python != row.python:
        detail = f"Python {python} here, the TensorRT of {row.name} is for Python {row.python}"
        fix = (
            f"python{row.python} -m venv --system-site-packages --clear {prefix}"
            f' && {prefix}/bin/pip install "edgeinc[cpu]"'
        )
        return Check("tensorrt", "warn", detail, fix)
    if env.l4t or env.machine == "aarch64":
        if _pip_packages(env) and not module.absent:
            detail = f"pip's TensorRT cannot be imported: {said}"
            return Check("tensorrt", "warn", detail, _own_again(env, row))
        if env.isolated:
            detail = f"{said}: this environment does not see JetPack's"
            fix = f"python3 -m venv --system-site-packages {prefix}"
            return Check("tensorrt", "warn", detail, fix)
        return Check("tensorrt", "warn", said, "sudo apt-get install -y python3-libnvinfer")
    if module.absent:
        return Check("tensorrt", "warn", said, f'pip install "edgeinc[trt]" {_INDEX}')
    fix = f"pip install --force-reinstall tensorrt {_INDEX}"
    if module.lacks or "tensorrt_libs" in said:
        said = f"{said}: pip's bindings are here, their libraries are not"
    return Check("tensorrt", "warn", said, fix)


def _pip_packages(env: Environment) -> list[str]:
    return [name for name in TENSORRT if name in env.packages]


def _hides_the_systems(env: Environment) -> bool:
    """Whether the import took pip's although the system has one for this Python."""
    python = ".".join(map(str, env.python[:2]))
    path = env.modules["tensorrt"].path
    return bool(env.l4t) and python in env.system_tensorrt and not path.startswith("/usr/lib/")


def _own_again(env: Environment, row: JetPack | None) -> str:
    """The command that leaves the TensorRT of the system."""
    if names := _pip_packages(env):
        return f"pip uninstall -y {' '.join(names)}"
    version = f"={row.tensorrt}*" if row else ""
    return f'sudo apt-get install -y --allow-downgrades "tensorrt{version}"'
