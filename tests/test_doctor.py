"""Doctor: every known fault of a machine is named, with the command that mends it."""

import dataclasses
import re

import pytest

from edgeinc import doctor, host
from edgeinc.doctor import Environment, Module
from edgeinc.errors import UsageError

HEALTHY = Environment(
    modules={
        "cv2": Module(version="4.10.0"),
        "torch": Module(version="2.6.0+cpu"),
        "onnx": Module(version="1.17.0"),
        "onnxscript": Module(version="0.5.0"),
        "onnxruntime": Module(version="1.20.0", works=True, providers=("CPUExecutionProvider",)),
        "tensorrt": Module(error="No module named 'tensorrt'", absent=True),
        "openvino": Module(version="2026.4.1"),
    },
    packages={"onnxruntime": "1.20.0", "opencv-python-headless": "4.10.0"},
)
ABSENT = Module(error="No module named it", absent=True)


def machine(modules=None, **facts):
    return dataclasses.replace(HEALTHY, modules={**HEALTHY.modules, **(modules or {})}, **facts)


def finding(env, name, purpose="all"):
    return next(c for c in doctor.examine(env, purpose).checks if c.name == name)


@pytest.mark.parametrize("purpose", ["train", "export", "device", "all"])
def test_a_healthy_machine_is_ok(purpose):
    found = doctor.examine(HEALTHY, purpose)
    assert found.ok
    assert {c.status for c in found.checks} == {"ok"}


FAULTS = {
    "old python": (machine(python=(3, 9, 7)), "Python", "missing", "3.10"),
    "no torch": (machine({"torch": ABSENT}), "torch", "missing", "edgeinc[train]"),
    "torch dies": (
        machine({"torch": Module(error="undefined symbol: ncclCommShrink")}),
        "torch",
        "missing",
        "--force-reinstall",
    ),
    "cpu torch beside a gpu": (machine(nvidia="NVIDIA L4"), "torch", "warn", "pip install torch"),
    "cpu torch on jetson": (
        machine(nvidia="NVIDIA Jetson", machine="aarch64"),
        "torch",
        "warn",
        "jetson",
    ),
    "cuda torch without a driver that works": (
        machine({"torch": Module(version="2.6.0", cuda="12.6")}, nvidia="NVIDIA L4"),
        "torch",
        "warn",
        "driver",
    ),
    "no onnx": (machine({"onnx": ABSENT}), "onnx", "missing", "edgeinc[train]"),
    "no onnxscript": (machine({"onnxscript": ABSENT}), "onnxscript", "missing", "edgeinc[train]"),
    "no onnxruntime": (machine({"onnxruntime": ABSENT}), "onnxruntime", "missing", "edgeinc[cpu]"),
    "empty onnxruntime": (
        machine({"onnxruntime": Module(works=False)}),
        "onnxruntime",
        "missing",
        "pip uninstall -y onnxruntime onnxruntime-gpu",
    ),
    "both onnxruntimes": (
        machine(packages={"onnxruntime": "1.20.0", "onnxruntime-gpu": "1.20.0"}),
        "onnxruntime",
        "warn",
        "pip uninstall -y onnxruntime onnxruntime-gpu",
    ),
    "gpu onnxruntime without cuda": (
        machine(packages={"onnxruntime-gpu": "1.20.0"}, nvidia="NVIDIA L4"),
        "onnxruntime",
        "warn",
        "edgeinc[gpu]",
    ),
    "no opencv": (machine({"cv2": ABSENT}), "OpenCV", "missing", "opencv-python-headless"),
    "libGL": (
        machine(
            {"cv2": Module(error="libGL.so.1: cannot open shared object file")},
            packages={"opencv-python": "4.10.0"},
        ),
        "OpenCV",
        "missing",
        "pip uninstall -y opencv-python && pip install opencv-python-headless",
    ),
    "both opencvs": (
        machine(packages={"opencv-python": "4.10.0", "opencv-python-headless": "4.10.0"}),
        "OpenCV",
        "warn",
        "pip uninstall -y opencv-python opencv-python-headless",
    ),
    "no tensorrt beside a gpu": (machine(nvidia="NVIDIA L4"), "tensorrt", "warn", "edgeinc[trt]"),
    "openvino that dies": (
        machine({"openvino": Module(error="libopenvino.so.2641: cannot open shared object file")}),
        "openvino",
        "warn",
        'pip install --force-reinstall "edgeinc[openvino]"',
    ),
    "full disk": (machine(disk_gb=0.3), "disk", "warn", "free"),
    "little memory": (machine(memory_gb=1.9), "memory", "warn", "--batch-size"),
    "data root is gone": (
        machine(data_root="/mnt/gone"),
        "data root",
        "warn",
        "EDGEINC_DATA_ROOT",
    ),
}


@pytest.mark.parametrize(("env", "name", "status", "fix"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_found_with_its_fix(env, name, status, fix):
    check = finding(env, name)
    assert (check.status, fix in check.fix) == (status, True), check
    assert doctor.examine(env).ok == (status != "missing")


@pytest.mark.parametrize(
    ("name", "extra", "purposes"),
    [
        ("openvino", "openvino", {"export", "device", "all"}),
        ("nncf", "quant", {"export", "all"}),
        ("tensorrt-rtx", "trtcheck", {"export", "all"}),
        ("pycocotools", "train", {"train", "all"}),
    ],
)
def test_an_optional_package_has_its_version_or_the_extra_that_brings_it(name, extra, purposes):
    absent = machine({"openvino": ABSENT})
    present = machine({"openvino": Module(version="7.8.9")}, packages={name: "7.8.9"})
    for purpose in doctor.MODULES:
        names = {c.name for c in doctor.examine(absent, purpose).checks}
        assert (name in names) is (purpose in purposes)
    check = finding(absent, name)
    assert (check.status, f"extra [{extra}]" in check.detail) == ("ok", True)
    assert finding(present, name).detail == "7.8.9"


def test_the_packages_of_every_extra_are_recorded_with_figures(repository):
    """Extras that users install; `dev` makes no figures."""
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    table = text.partition("[project.optional-dependencies]")[2].partition("dev = [")[0]
    packages = set(re.findall(r'^(?:\w+ = \[)?\s*"([\w-]+)', table, re.MULTILINE))
    packages |= set(re.findall(r'", "([\w-]+)', table))
    assert {"torch", "nncf", "openvino", "tensorrt-rtx", "onnxruntime-gpu"} <= packages
    assert packages <= set(host.PACKAGES)


def test_only_a_missing_part_of_the_purpose_counts():
    without_torch = machine({"torch": ABSENT, "onnx": ABSENT, "onnxscript": ABSENT})
    verdicts = {p: doctor.examine(without_torch, p).ok for p in doctor.MODULES}
    assert verdicts == {"train": False, "export": False, "device": True, "all": False}


def test_a_device_needs_one_runtime_of_two():
    engines = {"onnxruntime": ABSENT, "tensorrt": Module(version="10.3.0", works=True)}
    assert doctor.examine(machine(engines, nvidia="NVIDIA L4"), "device").ok
    assert not doctor.examine(machine(engines), "device").ok, "engines need a GPU"
    assert not doctor.examine(machine({"onnxruntime": ABSENT}), "device").ok


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"sse2", "avx512_bf16"}, True),
        ({"amx_bf16"}, True),
        ({"asimd", "bf16"}, True),
        ({"avx2", "avx512f"}, False),
    ],
)
def test_bf16_is_read_from_the_flags_of_the_processor(flags, expected):
    detail = finding(machine(cpu_flags=frozenset(flags)), "processor").detail
    assert ("computes in bf16" in detail) is expected


def test_data_root_that_exists_is_ok():
    check = finding(machine(data_root="/data", data_root_exists=True), "data root")
    assert (check.status, check.detail) == ("ok", "/data")


def test_a_module_that_dies_is_told_from_one_that_is_absent(tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("import os; os._exit(3)")
    (tmp_path / "onnx.py").write_text("raise ImportError('libstdc++.so.6: too old')")
    (tmp_path / "onnxruntime").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = doctor.gather(("cv2", "onnx", "onnxruntime", "no_such_module"))
    assert "exit code 3" in facts.modules["cv2"].error
    assert facts.modules["onnx"].error == "libstdc++.so.6: too old"
    assert facts.modules["no_such_module"].absent
    assert not facts.modules["cv2"].absent
    assert not facts.modules["onnx"].absent


def test_an_unknown_purpose_is_refused_with_the_nearest():
    with pytest.raises(UsageError) as error:
        doctor.diagnose("trian")
    assert "train" in error.value.hint
