"""What every runtime plug-in promises. A new one adds how to make its artifact to `ARTIFACTS`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeinc import registry
from edgeinc.errors import MissingError, UsageError
from edgeinc.runs import create_run, sha256
from edgeinc.runtimes import Availability, Runtime, Session, open_artifact
from edgeinc.schema import ClassInfo, ClassTable, DataRef, Host, RunInfo, StepInfo

RUNTIMES = registry.names("runtimes")
SIZE = (48, 64)
TABLE = ClassTable(
    (
        ClassInfo(0, "road", (128, 64, 128), 0),
        ClassInfo(1, "building", (90, 90, 90), 0),
        ClassInfo(2, "sky", (70, 130, 180), 0),
    )
)


def _step(run: Path) -> Path:
    return run / "step-0"


def _onnx(run: Path) -> Path:
    from edgeinc.deploy.export import export

    return Path(export(run, output="both").path)


def _engine(run: Path) -> Path:
    from edgeinc.deploy.build import build
    from edgeinc.deploy.export import export

    return Path(build(export(run).path).path)


ARTIFACTS: dict[str, Callable[[Path], Path]] = {
    "torch": _step,
    "torch_compiled": _step,
    "onnxruntime": _onnx,
    "openvino": _onnx,
    "openvino_bf16": _onnx,
    "tensorrt": _engine,
}
PRECISIONS = {"openvino_bf16": "bf16"}
"""Runtimes that compute an fp32 artifact in something else."""
ON_GPU = ("tensorrt",)
"""Runtimes that never compute on the CPU; `make tensorrt` tests them where there is a GPU."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a machine that is busy with other tests, torch's threads would wait for one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinc.host.cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One step of a small ERFNet with random weights."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from edgeinc.models import create

    info = RunInfo("erfnet", {"width": 0.25}, SIZE, "2026-01-01T00:00:00Z")
    run = create_run(tmp_path_factory.mktemp("runs") / "tiny", info)
    torch.manual_seed(0)
    run.folder(0).mkdir()
    weights = run.folder(0) / "weights.safetensors"
    save_file(create("erfnet", (3,), {"width": 0.25}).state_dict(), weights)
    run.write_step(
        StepInfo(
            index=0,
            status="done",
            method="base",
            method_options={},
            new_classes=TABLE.names,
            classes=TABLE.classes,
            background="none",
            data=DataRef("streets", "/nowhere"),
            images=1,
            images_sha256="",
            settings={},
            host=Host("Linux x86_64", "3.12", "cpu", 2, 8.0, {}),
            command="",
            started="2026-01-01T00:00:00Z",
            iterations=1,
            weights_sha256=sha256(weights),
        )
    )
    return run.path


@pytest.fixture(scope="module")
def artifacts():
    """Artifacts that were made already, by runtime."""
    return {}


COMPILES = ("torch_compiled",)
"""Runtimes that take a minute for the first images of every size of a batch."""


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in COMPILES else [])
        for name in RUNTIMES
    ]
)
def name(request):
    return request.param


@pytest.fixture
def plugin(name):
    return registry.load("runtimes", name)


@pytest.fixture
def artifact(name, plugin, run, artifacts):
    if not plugin.availability().ok:
        pytest.skip(plugin.availability().reason)
    if name in ON_GPU:
        pytest.skip(f"{name} computes on a GPU only")
    if name not in artifacts:
        artifacts[name] = ARTIFACTS[name](run)
    return artifacts[name]


def images(count=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def test_it_is_a_runtime_with_suffixes(plugin):
    assert issubclass(plugin, Runtime)
    assert plugin.suffixes
    assert all(s == "" or s.startswith(".") for s in plugin.suffixes)


def test_its_availability_is_a_version_or_a_reason_and_the_way_out(plugin):
    state = plugin.availability()
    assert isinstance(state, Availability)
    if state.ok:
        assert state.version
        assert not state.reason
        assert not state.fix
    else:
        assert state.reason
        assert "pip" in state.fix or "`edgeinc" in state.fix


def test_asking_for_its_availability_imports_nothing_heavy(name):
    if name == "torch":
        pytest.skip("its own module may import torch")
    code = (
        "import sys\nfrom edgeinc import registry\n"
        f"registry.load('runtimes', {name!r}).availability()\n"
        f"print([m for m in ('torch', 'onnx', {name!r}) if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_session_says_what_it_is(name, artifact, plugin):
    with plugin.open(artifact, device="cpu", threads=1) as session:
        assert isinstance(session, Session)
        assert session.runtime == name
        assert session.provider
        assert session.provider in plugin.providers or "" in plugin.suffixes
        assert session.precision == PRECISIONS.get(name, "fp32")
        assert session.size == SIZE
        assert session.table == TABLE
        assert session.step == 0
        assert session.path == artifact
        weights = artifact / "weights.safetensors" if artifact.is_dir() else artifact
        assert session.sha256 == sha256(weights)
        assert session.threads == 1


def test_no_thread_count_means_every_core(artifact, plugin, monkeypatch):
    monkeypatch.setattr("edgeinc.host.cores", lambda: 3)
    with plugin.open(artifact, device="cpu") as session:
        assert session.threads == 3


def test_a_batch_is_segmented_image_by_image(artifact, plugin):
    batch = images()
    before = batch.copy()
    with plugin.open(artifact, device="cpu", threads=1) as session:
        ids = session.run(batch)
        assert (ids.dtype, ids.shape) == (np.uint8, (3, *SIZE))
        assert ids.max() < len(TABLE.classes)
        assert np.array_equal(batch, before)
        single = np.concatenate([session.run(image[None]) for image in batch])
        assert np.mean(single == ids) > 0.999
        assert session.run(batch[:0]).shape == (0, *SIZE)


def test_what_it_decides_is_the_highest_of_its_logits_if_it_gives_them(artifact, plugin):
    batch = images()
    with plugin.open(artifact, device="cpu", threads=1) as session:
        reason = ""
        try:
            logits = session.logits(batch)
        except MissingError as refused:
            reason = refused.message
        if reason:
            assert artifact.name in reason
            return
        assert (logits.dtype, logits.shape) == (np.float32, (3, len(TABLE.classes), *SIZE))
        assert np.array_equal(logits.argmax(1), session.run(batch))


def test_results_stay_what_they_are_when_more_is_run(artifact, plugin):
    with plugin.open(artifact, device="cpu", threads=1) as session:
        first = session.run(images(1, seed=1))
        kept = first.copy()
        session.run(images(1, seed=2))
        assert np.array_equal(first, kept)
        assert np.array_equal(session.run(images(1, seed=1)), kept)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, SIZE[0], SIZE[1] + 8, 3), np.uint8),
        np.zeros((SIZE[0], SIZE[1], 3), np.uint8),
        np.zeros((1, 3, *SIZE), np.uint8),
        np.zeros((1, *SIZE, 3), np.float32),
    ],
    ids=["size", "no batch", "channels first", "float"],
)
def test_other_images_are_refused(artifact, plugin, wrong):
    with (
        plugin.open(artifact, device="cpu", threads=1) as session,
        pytest.raises(UsageError, match=f"{SIZE[0]}, {SIZE[1]}, 3") as caught,
    ):
        session.run(wrong)
    assert caught.value.hint


def test_slices_that_are_not_contiguous_are_taken(artifact, plugin):
    wide = np.zeros((2, SIZE[0], 2 * SIZE[1], 3), np.uint8)
    wide[:, :, ::2] = images(2)
    with plugin.open(artifact, device="cpu", threads=1) as session:
        assert np.array_equal(session.run(wide[:, :, ::2]), session.run(images(2)))


@pytest.mark.parametrize("device", ["tpu", "cuda:x", ""])
def test_an_unknown_device_is_refused(artifact, plugin, device):
    with pytest.raises(MissingError, match="device") as caught:
        plugin.open(artifact, device=device)
    assert caught.value.hint


def test_a_device_that_is_not_here_is_never_replaced(artifact, plugin):
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    with pytest.raises(MissingError, match="cuda") as caught:
        plugin.open(artifact, device="cuda")
    assert caught.value.exit_code == 4
    assert caught.value.hint


def test_it_opens_by_name_and_agrees_with_the_trained_network(name, artifact, run):
    with (
        open_artifact(artifact, runtime=name, device="cpu", threads=1) as session,
        open_artifact(run, runtime="torch", device="cpu", threads=1) as network,
    ):
        gate = 99.5 if name in PRECISIONS else 99.9
        assert 100 * np.mean(session.run(images(4)) == network.run(images(4))) >= gate


# ---------------------------------------------------------------------------------- installation


STATE = (
    "from edgeinc import registry\n"
    "s = registry.load('runtimes', 'onnxruntime').availability()\n"
    "print(s.ok, s.reason, s.fix, sep='|')"
)


def installed(folder, *distributions):
    for distribution in distributions:
        info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
    return folder


def onnxruntime_state(python, repository, **arguments):
    code = f"import sys; sys.path.append({str(repository)!r})\n{STATE}"
    done = python("-c", code, **arguments)
    assert done.stderr == ""
    return done.stdout.strip().split("|")


def test_onnxruntime_that_is_not_installed_says_so(python, repository):
    ok, reason, fix = onnxruntime_state(python, repository, without=["onnxruntime"])
    assert (ok, reason) == ("False", "onnxruntime is not installed")
    assert "pip install" in fix


def test_both_onnxruntime_packages_are_one_too_many(python, repository, tmp_path):
    first = installed(tmp_path / "both", "onnxruntime", "onnxruntime-gpu")
    ok, reason, fix = onnxruntime_state(python, repository, first=first)
    assert ok == "False"
    assert "onnxruntime-gpu" in reason
    assert "pip uninstall" in fix


@pytest.mark.parametrize("files", [[], ["__init__.py"], ["__init__.py", "capi/left.txt"]])
def test_an_empty_shell_of_onnxruntime_is_recognised(python, repository, tmp_path, files):
    first = installed(tmp_path / "shell", "onnxruntime")
    (first / "onnxruntime").mkdir()
    for name in files:
        (first / "onnxruntime" / name).parent.mkdir(exist_ok=True)
        (first / "onnxruntime" / name).touch()
    without = ["onnxruntime"]
    ok, reason, fix = onnxruntime_state(python, repository, first=first, without=without)
    assert ok == "False"
    assert "shell" in reason
    assert "pip uninstall" in fix


def test_a_runtime_that_compiles_is_benchmarked_only_when_it_is_named(run):
    from edgeinc.deploy._variants import variants

    usual = {variant.runtime for variant in variants([run], None)}
    assert "torch" in usual
    assert not usual & set(COMPILES)
    for name in COMPILES:
        assert [variant.runtime for variant in variants([run], [name])] == [name]
