"""Doctor on devices: JetPack's matrix, TensorRT, CUDA, and what really runs."""

import base64
import dataclasses
import subprocess
import sys

import pytest

from edgeinc import doctor
from edgeinc.doctor import Cuda, Environment, Module
from edgeinc.doctor._facts import (
    IDENTITY,
    has_pci_gpu,
    is_isolated,
    missing_library,
    power_modes,
    system_tensorrt,
)
from edgeinc.doctor._jetpack import MATRIX, jetpack

CPU, CUDA, TRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
ABSENT = Module(error="No module named 'tensorrt'", absent=True)
SYSTEM = "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py"
PIPS = "/home/me/.venv/lib/python3.10/site-packages/tensorrt/__init__.py"


def trt(version, **facts):
    return Module(version=version, works=True, **facts)


ORIN = Environment(
    modules={
        "cv2": Module(version="4.10.0"),
        "onnxruntime": Module(version="1.23.2", works=True, providers=(CPU,)),
        "tensorrt": trt("10.3.0", path=SYSTEM),
        "openvino": Module(error="No module named 'openvino'", absent=True),
    },
    packages={"onnxruntime": "1.23.2", "opencv-python-headless": "4.10.0"},
    python=(3, 10, 12),
    machine="aarch64",
    memory_gb=7.4,
    free_memory_gb=5.0,
    nvidia="NVIDIA Jetson",
    cuda=Cuda("12.6", "12.6", "8.7"),
    l4t="36.4.3",
    system_tensorrt=("3.10",),
    power_mode="MAXN_SUPER",
    power_modes={"15W": 0, "25W": 1, "MAXN_SUPER": 2},
)
THOR = dataclasses.replace(
    ORIN,
    modules={**ORIN.modules, "tensorrt": trt("10.16.2", path=SYSTEM.replace("3.10", "3.12"))},
    python=(3, 12, 3),
    cuda=Cuda("13.2", "13.2", "11.0"),
    l4t="39.2.0",
    system_tensorrt=("3.12",),
)
DESKTOP = Environment(
    modules={
        "cv2": Module(version="4.10.0"),
        "onnxruntime": Module(
            version="1.31.1", works=True, providers=(TRT, CUDA, CPU), active=(CUDA, CPU)
        ),
        "tensorrt": trt("10.16.1", path=PIPS),
        "openvino": Module(version="2026.4.1"),
    },
    packages={"onnxruntime-gpu": "1.31.1", "tensorrt": "10.16.1"},
    nvidia="NVIDIA L4",
    cuda=Cuda("13.0", "13.2", "8.9"),
    driver="595.10",
)


def but(env, modules=None, **facts):
    return dataclasses.replace(env, modules={**env.modules, **(modules or {})}, **facts)


def finding(env, name):
    return next(c for c in doctor.examine(env, "device").checks if c.name == name)


@pytest.mark.parametrize("env", [ORIN, THOR, DESKTOP], ids=["orin", "thor", "desktop"])
def test_a_healthy_device_has_nothing_to_mend(env):
    found = doctor.examine(env, "device")
    assert found.ok
    assert [c for c in found.checks if c.status != "ok" or c.fix] == []


ORT = "onnxruntime"
FAULTS = {
    # name: (machine, check, words of the finding, the command)
    "python of another minor than JetPack's": (
        but(ORIN, {"tensorrt": ABSENT}, python=(3, 11, 4), isolated=True),
        ("tensorrt", "Python 3.11 here, the TensorRT of JetPack 6.1/6.2 is for Python 3.10"),
        "python3.10 -m venv --system-site-packages --clear .venv"
        ' && .venv/bin/pip install "edgeinc[cpu]"',
    ),
    "python of JetPack 6 on JetPack 7": (
        but(THOR, {"tensorrt": ABSENT}, python=(3, 10, 12)),
        ("tensorrt", "Python 3.10 here, the TensorRT of JetPack 7.2 is for Python 3.12"),
        "python3.12 -m venv --system-site-packages --clear .venv"
        ' && .venv/bin/pip install "edgeinc[cpu]"',
    ),
    "environment without the system's packages": (
        but(ORIN, {"tensorrt": ABSENT}, isolated=True, prefix="/opt/app"),
        ("tensorrt", "does not see JetPack's"),
        "python3 -m venv --system-site-packages /opt/app",
    ),
    "JetPack without its bindings": (
        but(ORIN, {"tensorrt": ABSENT}, system_tensorrt=()),
        ("tensorrt", "not installed"),
        "sudo apt-get install -y python3-libnvinfer",
    ),
    "TensorRT 11 on JetPack 6": (
        but(
            ORIN,
            {"tensorrt": trt("11.4.1", path=PIPS)},
            packages={"tensorrt": "11.4.1", "tensorrt-cu13": "11.4.1"},
        ),
        ("tensorrt", "TensorRT 11.4.1 does not support JetPack 6.1/6.2, which stays on 10.x"),
        "pip uninstall -y tensorrt tensorrt-cu13",
    ),
    "TensorRT 11.4.0 on JetPack 7.2": (
        but(THOR, {"tensorrt": trt("11.4.0", path=PIPS)}),
        ("tensorrt", "11.4.0 does not support JetPack 7.2"),
        'sudo apt-get install -y --allow-downgrades "tensorrt=10.16*"',
    ),
    "pip's TensorRT over JetPack's": (
        but(
            ORIN,
            {"tensorrt": trt("10.9.0", path=PIPS)},
            packages={"tensorrt": "10.9.0", "tensorrt-cu12-libs": "10.9.0"},
        ),
        ("tensorrt", "pip's 10.9.0 in /home/me"),
        "pip uninstall -y tensorrt tensorrt-cu12-libs",
    ),
    "pip's TensorRT that does not load on a Jetson": (
        but(
            ORIN,
            {"tensorrt": Module(error="libnvinfer.so.11: cannot open", lacks="libnvinfer.so.11")},
            packages={"tensorrt-cu13-bindings": "11.4.0"},
        ),
        ("tensorrt", "libnvinfer.so.11"),
        "pip uninstall -y tensorrt-cu13-bindings",
    ),
    "TensorRT 10.2.0": (
        but(DESKTOP, {"tensorrt": trt("10.2.0", path=PIPS)}),
        ("tensorrt", "10.2.0 cannot build: it asks for libnvinfer_builder_resource_win.so"),
        'pip install --upgrade "tensorrt>10.2.0,<11" --extra-index-url https://pypi.nvidia.com',
    ),
    "no TensorRT on a desktop": (
        but(DESKTOP, {"tensorrt": ABSENT}),
        ("tensorrt", "not installed"),
        'pip install "edgeinc[trt]" --extra-index-url https://pypi.nvidia.com',
    ),
    "bindings of pip without their libraries": (
        but(
            DESKTOP,
            {"tensorrt": Module(error="libnvinfer.so.10: cannot open", lacks="libnvinfer.so.10")},
        ),
        ("tensorrt", "pip's bindings are here, their libraries are not"),
        "pip install --force-reinstall tensorrt --extra-index-url https://pypi.nvidia.com",
    ),
    "no builder": (
        but(
            DESKTOP,
            {
                "tensorrt": Module(
                    version="10.16.1",
                    fault="pybind11::init(): factory function returned nullptr",
                )
            },
        ),
        ("tensorrt", "10.16.1 makes no builder: pybind11::init(): factory function"),
        "sudo ubuntu-drivers install && sudo reboot",
    ),
    "driver too old": (
        but(DESKTOP, cuda=Cuda(error="the NVIDIA driver is older than this CUDA needs")),
        ("GPU", "NVIDIA L4: the NVIDIA driver is older than this CUDA needs"),
        "sudo ubuntu-drivers install && sudo reboot",
    ),
    "GPU without a driver": (
        but(DESKTOP, nvidia="", pci_gpu=True, cuda=Cuda()),
        ("GPU", "no driver answers for it"),
        "sudo ubuntu-drivers install && sudo reboot",
    ),
    "container without the GPU": (
        but(DESKTOP, nvidia="", pci_gpu=True, cuda=Cuda(), container=True),
        ("GPU", "no driver answers for it"),
        "docker run --rm -it --gpus all IMAGE",
    ),
    "Jetson's container without the runtime": (
        but(ORIN, cuda=Cuda(error="CUDA cannot start"), container=True),
        ("GPU", "CUDA cannot start"),
        "docker run --rm -it --runtime nvidia IMAGE",
    ),
    "no libcudart": (
        but(DESKTOP, cuda=Cuda(error="the CUDA runtime (libcudart) is not on this machine")),
        ("GPU", "libcudart"),
        "pip install nvidia-cuda-runtime-cu12",
    ),
    "providers that are listed and do not start": (
        but(
            DESKTOP,
            {
                "onnxruntime": Module(
                    version="1.31.1",
                    works=True,
                    providers=(TRT, CUDA, CPU),
                    active=(CPU,),
                    lacks="libcublasLt.so.13",
                )
            },
        ),
        (ORT, "lists CUDA and computes on the CPU: libcublasLt.so.13 is not found"),
        'pip install --upgrade "onnxruntime-gpu[cuda,cudnn]"',
    ),
    "no cuDNN": (
        but(
            ORIN,
            {
                "onnxruntime": Module(
                    version="1.23.0",
                    works=True,
                    providers=(CUDA, CPU),
                    active=(CPU,),
                    lacks="libcudnn.so.9",
                )
            },
        ),
        (ORT, "libcudnn.so.9 is not found"),
        "sudo apt-get install -y nvidia-cudnn",
    ),
    "CUDA provider and an old driver": (
        but(
            DESKTOP,
            {
                "onnxruntime": Module(
                    version="1.31.1", works=True, providers=(CUDA, CPU), active=(CPU,)
                )
            },
        ),
        (ORT, "lists CUDA and computes on the CPU: it does not start"),
        "sudo ubuntu-drivers install && sudo reboot",
    ),
    "no onnxruntime-gpu for aarch64": (
        but(ORIN, {"tensorrt": ABSENT}),
        (ORT, "PyPI has no onnxruntime-gpu for aarch64"),
        "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        " --index-url https://pypi.jetson-ai-lab.io/jp6/cu126",
    ),
    "no onnxruntime-gpu for JetPack 7": (
        but(THOR, {"tensorrt": ABSENT}),
        (ORT, "PyPI has no onnxruntime-gpu for aarch64"),
        "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        " --index-url https://pypi.jetson-ai-lab.io/sbsa/cu130",
    ),
    "little free memory on a Jetson": (
        but(ORIN, free_memory_gb=0.8),
        ("memory", "0.8 GB free: building an engine may be killed"),
        "sudo systemctl isolate multi-user.target",
    ),
    "JetPack whose Python is too old": (
        but(ORIN, l4t="35.4.1"),
        ("JetPack", "JetPack 5.1 (L4T 35.4.1): Python 3.8"),
        "sdkmanager --cli  # on a PC: install JetPack 6.2",
    ),
}


@pytest.mark.parametrize(("env", "said", "fix"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_of_a_device_has_one_command(env, said, fix):
    name, words = said
    check = finding(env, name)
    assert check.status == "warn"
    assert words in check.detail
    assert check.fix == fix


NOTES = {
    "another power mode": (
        but(ORIN, power_mode="15W"),
        ("power mode", "15W, not MAXN"),
        "sudo nvpmodel -m 2",
    ),
    "a board whose modes are not known": (
        but(ORIN, power_mode="15W", power_modes={}),
        ("power mode", "15W, not MAXN"),
        "sudo nvpmodel -p --verbose",
    ),
    "ONNX Runtime's TensorRT provider beside TensorRT 11": (
        but(DESKTOP, {"tensorrt": trt("11.4.0", path=PIPS)}),
        (ORT, "its TensorRT provider needs libnvinfer.so.10, here is TensorRT 11.4.0"),
        "edgeinc build FILE.onnx  # TensorRT itself",
    ),
}


@pytest.mark.parametrize(("env", "said", "fix"), NOTES.values(), ids=NOTES.keys())
def test_what_is_no_fault_is_a_note(env, said, fix):
    name, words = said
    check = finding(env, name)
    assert (check.status, check.fix) == ("ok", fix)
    assert words in check.detail
    assert doctor.examine(env, "device").ok


def test_tensorrt_11_runs_on_the_jetpack_that_takes_it():
    env = but(THOR, {"tensorrt": trt("11.4.1", path="/usr/lib/python3.12/dist-packages/x.py")})
    assert finding(env, "tensorrt").status == "ok"


def test_a_device_with_neither_runtime_cannot_serve():
    broken = {"tensorrt": trt("11.4.1", path=PIPS), "onnxruntime": ABSENT}
    assert not doctor.examine(but(ORIN, broken), "device").ok


def test_the_matrix_is_that_of_nvidia():
    assert {row.name: (row.python, row.cuda, row.tensorrt) for row in MATRIX} == {
        "JetPack 4.6": ("3.6", "10.2", "8.2"),
        "JetPack 5.1": ("3.8", "11.4", "8.5"),
        "JetPack 6.0": ("3.10", "12.2", "8.6"),
        "JetPack 6.1/6.2": ("3.10", "12.6", "10.3"),
        "JetPack 7.0/7.1": ("3.12", "13.0", "10.13"),
        "JetPack 7.2": ("3.12", "13.2", "10.16"),
    }


@pytest.mark.parametrize(
    ("l4t", "name"),
    [
        ("32.7.1", "JetPack 4.6"),
        ("35.4.1", "JetPack 5.1"),
        ("36.3.0", "JetPack 6.0"),
        ("36.4.3", "JetPack 6.1/6.2"),
        ("36.5", "JetPack 6.1/6.2"),
        ("38.4", "JetPack 7.0/7.1"),
        ("39.2.0", "JetPack 7.2"),
        ("34.1", None),
        ("41.0", None),
    ],
)
def test_a_release_of_l4t_belongs_to_a_jetpack(l4t, name):
    row = jetpack(l4t)
    assert (row and row.name) == name


def test_an_unknown_release_is_said_and_judged_by_no_rule():
    env = but(ORIN, {"tensorrt": trt("12.0.0", path=SYSTEM)}, l4t="41.0")
    assert "not in the table" in finding(env, "JetPack").detail
    assert finding(env, "tensorrt").status == "ok"


# ---------------------------------------------------------------------------------- facts


def test_the_graph_that_is_tried_is_one():
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(base64.b64decode(IDENTITY))
    onnx.checker.check_model(model, full_check=True)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(base64.b64decode(IDENTITY), providers=[CPU])
    (answer,) = session.run(None, {"x": [7.0]})
    assert answer.tolist() == [7.0]


def test_a_provider_that_is_only_listed_is_found_out(tmp_path, monkeypatch):
    """What onnxruntime-gpu does without its CUDA libraries: it lists, logs and falls back."""
    (tmp_path / "onnxruntime.py").write_text(
        "import sys\n"
        "def get_available_providers():\n"
        "    return ['CUDAExecutionProvider', 'CPUExecutionProvider']\n"
        "class InferenceSession:\n"
        "    def __init__(self, graph, providers):\n"
        "        assert graph and providers[0] == 'CUDAExecutionProvider'\n"
        "        print('Failed to load: libcublasLt.so.13: cannot open shared object file: No'\n"
        "              ' such file', file=sys.stderr)\n"
        "    def get_providers(self):\n"
        "        return ['CPUExecutionProvider']\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.gather(("onnxruntime",)).modules["onnxruntime"]
    assert found.providers == (CUDA, CPU)
    assert found.active == (CPU,)
    assert found.lacks == "libcublasLt.so.13"
    assert found.path == str(tmp_path / "onnxruntime.py")


@pytest.mark.parametrize(
    ("builder", "works", "fault"),
    [
        ("lambda logger: object()", True, ""),
        ("lambda logger: None", False, ""),
        (
            "type('Builder', (), {'__init__': lambda self, logger: (_ for _ in ()).throw("
            "TypeError('pybind11::init(): factory function returned nullptr'))})",
            False,
            "pybind11::init(): factory function returned nullptr",
        ),
    ],
    ids=["works", "none", "nullptr"],
)
def test_a_tensorrt_is_asked_for_a_builder(tmp_path, monkeypatch, builder, works, fault):
    (tmp_path / "tensorrt.py").write_text(
        f"__version__ = '10.3.0'\nLogger = object\nBuilder = {builder}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.gather(("tensorrt",)).modules["tensorrt"]
    assert (found.version, found.works, found.fault) == ("10.3.0", works, fault)


def test_a_bindings_missing_library_is_named(tmp_path, monkeypatch):
    message = "libnvinfer.so.11: cannot open shared object file: No such file or directory"
    (tmp_path / "tensorrt.py").write_text(f"raise ImportError({message!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.gather(("tensorrt",)).modules["tensorrt"]
    assert (found.lacks, found.absent) == ("libnvinfer.so.11", False)


def test_other_words_name_no_library():
    assert missing_library("ImportError: undefined symbol in libfoo.so.1") == ""


def test_a_gpu_is_seen_on_the_bus_without_its_driver(tmp_path):
    def device(name, vendor, kind):
        folder = tmp_path / "sys/bus/pci/devices" / name
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")

    assert not has_pci_gpu(tmp_path)
    device("0000:00:02.0", "0x8086", "0x030000")  # Intel graphics
    device("0000:01:00.1", "0x10de", "0x040300")  # the sound of an NVIDIA card
    assert not has_pci_gpu(tmp_path)
    device("0000:01:00.0", "0x10de", "0x030200")
    assert has_pci_gpu(tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, False),
        ("home = /usr/bin\ninclude-system-site-packages = false\n", True),
        ("home = /usr/bin\ninclude-system-site-packages = true\n", False),
    ],
    ids=["no environment", "isolated", "with the system's"],
)
def test_an_environment_is_isolated_or_not(tmp_path, settings, expected):
    if settings:
        (tmp_path / "pyvenv.cfg").write_text(settings)
    assert is_isolated(tmp_path) is expected


def test_the_command_for_an_isolated_environment_keeps_what_is_in_it(tmp_path):
    """The fix that is printed, on a real environment."""
    make = [sys.executable, "-m", "venv", "--without-pip"]
    subprocess.run([*make, str(tmp_path / "env")], check=True)
    kept = tmp_path / "env" / "kept"
    kept.touch()
    assert is_isolated(tmp_path / "env")
    subprocess.run([*make, "--system-site-packages", str(tmp_path / "env")], check=True)
    assert not is_isolated(tmp_path / "env")
    assert kept.exists()


def test_bindings_of_the_system_belong_to_a_python(tmp_path):
    assert system_tensorrt(tmp_path) == ()
    (tmp_path / "usr/lib/python3/dist-packages/numpy").mkdir(parents=True)
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    assert system_tensorrt(tmp_path) == ("3.10",)


def test_power_modes_are_read_as_nvpmodel_has_them(tmp_path):
    assert power_modes(tmp_path) == {}
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nvpmodel.conf").write_text(
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    )
    assert power_modes(tmp_path) == {"15W": 0, "MAXN_SUPER": 2}
