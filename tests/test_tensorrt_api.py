"""What the adapter calls exists, with these parameters, in the real TensorRT of every version.

`tensorrt_api.json` was recorded from NVIDIA's own bindings of 8.6, 10 and 11. The fake may have
nothing that they have not; what the adapter used of the fake is then looked up in the packages that
can be imported without a GPU, TensorRT for RTX and the lean runtime.
"""

import ctypes
import inspect
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from engines import SIZE, VERSIONS, write_artifact
from fake_cuda import Cudart
from fake_tensorrt import API, interface
from record_tensorrt_api import interface as recorded

from edgeinc.runtimes._tensorrt import Bindings
from edgeinc.schema import InputShapes

EXECUTES = ("ICudaEngine", "IExecutionContext", "Refitter", "Runtime")
"""What the lean runtime has: it cannot build."""
LACKING = {
    "tensorrt_rtx": {
        # Builds for RTX are typed by the file in every version.
        ("BuilderFlag", "FP16"),
        ("BuilderFlag", "INT8"),
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    },
    "tensorrt_lean": set(),
}
"""Members the adapter uses in some version and a package lacks, with the reason."""


class Module:
    """The names of `interface` as attributes."""

    def __init__(self, version):
        self.__version__ = version
        self.cudart = Cudart()
        self.__dict__.update(interface(version, self.cudart, {}))


@cache
def used(version, folder):
    """Every (class, member) that the adapter used of a version, in all it can do."""
    module = Module(version)
    trt = Bindings(module)
    plain, dynamic = (
        write_artifact(folder / name, head=head).read_bytes()
        for name, head in (("plain", False), ("dynamic", True))
    )
    network = trt.parse(plain)
    old = version.startswith("8.")
    for refit in ("none", "all") if old else ("none", "all", "head"):
        engine = trt.build(
            network,
            precision="fp16",
            workspace=1 << 20,
            timing_cache=b"",
            refit=refit,
            weights=("head.weight",),
            watch=lambda *_: None,
        ).engine
    _, opened = trt.deserialise(bytes(engine))
    weight = np.zeros(9, np.float32)
    trt.refit(opened, {name: weight for name in trt.replaceable(opened) if "weight" in name})
    network = trt.parse(dynamic)
    shapes = {
        t.name: InputShapes(*[(n, *t.shape[1:]) for n in (1, 3, 8)])
        for t in trt.inputs(network)
        if -1 in t.shape
    }
    engine = trt.build(network, precision="fp32", profile=shapes).engine
    with pytest.raises(Exception, match="cannot read"):
        trt.parse(b"junk")
    _, opened = trt.deserialise(bytes(engine))
    context = trt.context(opened)
    stream = trt_stream(module.cudart)
    for tensor in trt.tensors(opened):
        context.set_tensor_address(tensor.name, 1)
        if -1 in tensor.shape:
            assert trt.limits(opened, tensor.name)[1][0] == 8
            context.set_input_shape(tensor.name, shapes[tensor.name].opt)
    trt.execute(context, stream)
    flags = {"STRONGLY_TYPED"} if trt.typed else {"EXPLICIT_BATCH"}
    members = {("NetworkDefinitionCreationFlag", name) for name in flags}
    members |= {("MemoryPoolType", "WORKSPACE"), ("TensorIOMode", "INPUT"), ("ILogger", "ERROR")}
    own = ("FP16", "INT8", "REFIT") if old else ("REFIT_INDIVIDUAL",)
    members |= {("BuilderFlag", name) for name in own}
    return {*module.trace, *members}


def trt_stream(cudart):
    handle = ctypes.c_void_p()
    cudart.cudaStreamCreate(ctypes.byref(handle))
    return handle.value


def fits(own, real):
    """Whether a call that suits parameters suits the real ones, of which some have defaults."""
    names = [name.removesuffix("=") for name in real]
    return names[: len(own)] == own and all(name.endswith("=") for name in real[len(own) :])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    assert SIZE
    return tmp_path_factory.mktemp("api")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_has_nothing_that_the_real_bindings_have_not(version):
    for name, kind in Module(version).originals.items():
        for member, value in vars(kind).items():
            if member.startswith("_") or not inspect.isfunction(value):
                continue
            if member not in API[version][name]:
                continue  # left out of the fake of this version
            own = [p for p in inspect.signature(value).parameters if p != "self"]
            assert any(fits(own, real) for real in API[version][name][member]), (name, member)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_member_of_another_version_is_not_there(version):
    module = Module(version)
    assert hasattr(module, "IProgressMonitor") is not version.startswith("8.")
    assert hasattr(module.BuilderFlag, "FP16") is not version.startswith("11.")
    assert hasattr(module.INetworkDefinition, "mark_weights_refittable") is not (
        version.startswith("8.")
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_adapter_uses_exists_in_the_real_bindings(version, folder):
    found = used(version, folder)
    assert len(found) > 30
    assert {(c, m) for c, m in found if m not in API[version][c]} == set()


@pytest.mark.parametrize(
    ("package", "classes"), [("tensorrt_rtx", None), ("tensorrt_lean", EXECUTES)]
)
def test_what_the_adapter_uses_exists_in_packages_that_need_no_gpu(package, classes, folder):
    pytest.importorskip(package, reason=f"{package} is not installed")
    real = recorded(import_module(package))
    wanted = set().union(*(used(version, folder) for version in VERSIONS))
    wanted = {(c, m) for c, m in wanted if classes is None or c in classes}
    assert len(wanted) > 8
    assert {(c, m) for c, m in wanted if m not in real.get(c, {})} == LACKING[package]
    newest = API[VERSIONS[-1]]
    for name, member in wanted - LACKING[package]:
        overloads = newest[name].get(member)
        if overloads:
            assert any(each in real[name][member] for each in overloads), (name, member)


@pytest.mark.parametrize("package", ["tensorrt_rtx", "tensorrt_lean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_are_passed_as_the_real_bindings_take_them(package, dtype):
    """A flat array becomes what a refitter takes: as many values, of its type."""
    real = pytest.importorskip(package, reason=f"{package} is not installed")
    made = real.Weights(np.arange(12, dtype=dtype))
    assert made.size == 12
    assert made.dtype.name == {np.float32: "FLOAT", np.float16: "HALF"}[dtype]


def test_the_adapter_names_no_member_that_no_version_has():
    """Names in the source that look like TensorRT's flags are flags of some version."""
    import re
    from pathlib import Path

    import edgeinc.runtimes._tensorrt as module

    source = Path(module.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:flags|Flag|Type|Mode)\.([A-Z][A-Z_0-9]+)", source))
    known = {m for classes in API.values() for kind in classes.values() for m in kind}
    assert named
    assert named <= known
