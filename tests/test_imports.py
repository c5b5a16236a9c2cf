"""What a device needs: the package and its information commands work where torch is not."""

import pytest

LIGHT = [
    "edgeinc",
    "edgeinc.cli",
    "edgeinc.config",
    "edgeinc.data",
    "edgeinc.predict.serve",
    "edgeinc.update.device",
    "edgeinc.update.reports",
    "edgeinc.update.server",
    "edgeinc.update.source",
    "edgeinc.update.status",
    "edgeinc.doctor",
    "edgeinc.draw",
    "edgeinc.evaluation",
    "edgeinc.host",
    "edgeinc.metrics",
    "edgeinc.predict",
    "edgeinc.registry",
    "edgeinc.report",
    "edgeinc.runs",
    "edgeinc.runtimes",
    "edgeinc.schema",
    "edgeinc.deploy.bench",
    "edgeinc.update.ceremony",
    "edgeinc.update.fetch",
    "edgeinc.update.serving_files",
    "edgeinc.update.verify",
    "edgeinc.update.watch",
]
HEAVY = ["torch", "onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx", "openvino"]
BASE = {"without": ["torch", "onnx", "onnxscript", "onnxruntime"]}


@pytest.mark.parametrize("module", LIGHT)
def test_importing_loads_nothing_heavy(python, module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_importing_every_dataset_and_runtime_loads_nothing_heavy(python):
    code = (
        "import sys; from edgeinc import registry\n"
        "for kind in ('datasets', 'runtimes'):\n"
        "    for name in registry.names(kind):\n"
        "        if (kind, name) != ('runtimes', 'torch'):\n"
        "            registry.load(kind, name)\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_importing_changes_nothing_of_the_process(python):
    code = (
        "import os, random, sys, warnings, numpy\n"
        "import rich.style  # draws a random number of its own\n"
        "def state():\n"
        "    return (dict(os.environ), os.getcwd(), list(sys.path), list(warnings.filters),\n"
        "            random.getstate(), str(numpy.random.get_state()))\n"
        "before = state()\n"
        "import edgeinc, edgeinc.cli\n"
        "print([a == b for a, b in zip(before, state())])"
    )
    done = python("-c", code)
    assert (done.stdout, done.stderr) == (f"{[True] * 6}\n", "")


def test_every_public_name_is_there(python):
    pytest.importorskip("torch")
    code = (
        "import edgeinc\n"
        "print([n for n in edgeinc.__all__ if not callable(getattr(edgeinc, n))])\n"
        "print(set(edgeinc.__all__) <= set(dir(edgeinc)), hasattr(edgeinc, 'no_such_name'))"
    )
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("[]\nTrue False\n", "")


def test_public_functions_stay_functions_after_their_work_is_loaded(python):
    pytest.importorskip("torch")
    code = (
        "import edgeinc, edgeinc.training, edgeinc.evaluation, edgeinc.cli\n"
        "edgeinc.export, edgeinc.bench\n"
        "import edgeinc.deploy.export, edgeinc.deploy.bench\n"
        "print([n for n in edgeinc.__all__ if not callable(getattr(edgeinc, n))])"
    )
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["ls", "models"],
        ["ls", "methods"],
        ["ls", "datasets"],
        ["ls", "runtimes"],
        ["show", "cil"],
    ],
    ids=" ".join,
)
def test_information_needs_no_torch(python, command):
    done = python("-m", "edgeinc", *command, **BASE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("purpose", ["device", "train", "export", "all"])
def test_doctor_reports_a_machine_without_torch(python, purpose):
    done = python("-m", "edgeinc", "doctor", "--for", purpose, **BASE)
    assert done.returncode == 4, done.stderr  # the base install has no ONNX Runtime either
    assert "Traceback" not in done.stdout + done.stderr
    assert ("onnxruntime" if purpose == "device" else "torch") in done.stderr


def test_training_without_torch_says_how_to_get_it(python):
    done = python("-m", "edgeinc", "train", "--data", "camvid", "--classes", "sky,road", **BASE)
    assert (done.returncode, done.stdout) == (4, "")
    assert "torch" in done.stderr
    assert 'pip install "edgeinc[train]"' in done.stderr
    assert "Traceback" not in done.stderr
