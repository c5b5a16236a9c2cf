"""OpenCV, torch, onnx and ONNX Runtime: what is wrong, and the one command that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeinc.doctor._facts import OPENCV, Environment
from edgeinc.doctor._gpu import driver_fix
from edgeinc.doctor._jetpack import jetpack, numbers
from edgeinc.schema import Check

_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_PROVIDERS_TENSORRT = 10
"""ONNX Runtime's TensorRT provider is linked with libnvinfer.so.10, up to 1.31 at least."""

_OPTIONAL: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "nncf": (("export",), "quant", "int8 for OpenVINO"),
    "tensorrt-rtx": (("export",), "trtcheck", "--trt-check"),
    "pycocotools": (("train",), "train", "masks in COCO files"),
}
"""Package -> purposes, the extra that brings it, and what is not there without it."""


def opencv(env: Environment) -> Check:
    """OpenCV; its packages hold one module, and the desktop build needs libraries of a desktop."""
    module = env.modules["cv2"]
    both = [name for name in OPENCV if name in env.packages]
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


def torch(env: Environment) -> Check:
    """Torch; and that it uses the GPU there is."""
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
        index = f" --index-url {_jetson_wheels(env)}"
    elif env.system == "Windows":
        index = " --index-url https://download.pytorch.org/whl/cu126"
    return f"pip uninstall -y torch && pip install torch{index}"


def _jetson_wheels(env: Environment) -> str:
    """The index of wheels for this JetPack's CUDA; that of JetPack 6 where it is not known."""
    row = jetpack(env.l4t) if env.l4t else None
    return (row.wheels if row else "") or "https://pypi.jetson-ai-lab.io/jp6/cu126"


def plain(env: Environment, name: str) -> Check:
    """A module that only has to be there."""
    module = env.modules[name]
    if module.absent:
        return Check(name, "missing", "not installed", 'pip install "edgeinc[train]"')
    if module.error:
        return Check(name, "missing", module.error, f"pip install --force-reinstall {name}")
    return Check(name, "ok", module.version)


def openvino(env: Environment) -> Check:
    """OpenVINO, which nothing needs: without it two runtimes are skipped."""
    module = env.modules["openvino"]
    if module.absent:
        detail = "not installed: no runtime openvino and openvino_bf16, extra [openvino]"
        return Check("openvino", "ok", detail)
    if module.error:
        fix = 'pip install --force-reinstall "edgeinc[openvino]"'
        return Check("openvino", "warn", module.error, fix)
    return Check("openvino", "ok", module.version)


def optional(env: Environment, purpose: str) -> Iterator[Check]:
    """Packages that one feature needs each; they are not imported, their version is told."""
    for name, (purposes, extra, feature) in _OPTIONAL.items():
        if purpose in (*purposes, "all"):
            found = env.packages.get(name)
            yield Check(name, "ok", found or f"not installed: no {feature}, extra [{extra}]")


def onnxruntime(env: Environment, *, needed: bool) -> Check:
    """ONNX Runtime; its two packages hold one module, so the second breaks the first.

    Args:
        env: The facts.
        needed: Whether there is no other runtime for the purpose.
    """
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
    if both == ["onnxruntime-gpu"] and _CUDA not in module.providers:
        return Check("onnxruntime", "warn", "onnxruntime-gpu without its CUDA provider", clean)
    return _providers(env, needed=needed)


def _providers(env: Environment, *, needed: bool) -> Check:
    """What an ONNX Runtime that imports really computes with."""
    module = env.modules["onnxruntime"]
    if env.nvidia and _CUDA in module.providers and _CUDA not in module.active:
        said = f"{module.lacks} is not found" if module.lacks else "it does not start"
        detail = f"{module.version} lists CUDA and computes on the CPU: {said}"
        return Check("onnxruntime", "warn", detail, _cuda_provider_fix(env))
    # Of those a package lists, the last is the one that works everywhere: the CPU.
    listed = module.active or module.providers[-1:]
    names = ", ".join(p.removesuffix("ExecutionProvider") for p in listed)
    detail = f"{module.version} ({names})"
    tensorrt = env.modules["tensorrt"].version if env.imports("tensorrt") else ""
    if _TENSORRT in module.providers and numbers(tensorrt)[0] > _PROVIDERS_TENSORRT:
        detail += f"; its TensorRT provider needs libnvinfer.so.10, here is TensorRT {tensorrt}"
        return Check("onnxruntime", "ok", detail, "edgeinc build FILE.onnx  # TensorRT itself")
    if env.nvidia and env.machine == "aarch64" and _CUDA not in module.providers:
        detail += "; PyPI has no onnxruntime-gpu for aarch64"
        if not needed:  # engines are the way on a Jetson
            return Check("onnxruntime", "ok", detail)
        index = _jetson_wheels(env)
        fix = f"pip uninstall -y onnxruntime && pip install onnxruntime-gpu --index-url {index}"
        return Check("onnxruntime", "warn", detail, fix)
    return Check("onnxruntime", "ok", detail)


def _cuda_provider_fix(env: Environment) -> str:
    lacks = env.modules["onnxruntime"].lacks
    if not lacks:
        return driver_fix(env)
    if env.machine == "aarch64":
        return f"sudo apt-get install -y {'nvidia-cudnn' if 'cudnn' in lacks else 'nvidia-cuda'}"
    return 'pip install --upgrade "onnxruntime-gpu[cuda,cudnn]"'
