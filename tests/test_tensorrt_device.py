"""On a machine with TensorRT and a GPU: `make tensorrt` runs this and prints a report."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from engines import classifier, expected, scenes, write_artifact

pytestmark = pytest.mark.tensorrt


@pytest.fixture(scope="module", autouse=True)
def _here():
    """Skips where there is nothing to test on, with the reason."""
    from edgeinc.errors import MissingError
    from edgeinc.runtimes._cuda import open_cuda
    from edgeinc.runtimes.tensorrt import load_tensorrt

    try:
        load_tensorrt()
        open_cuda()
    except MissingError as error:
        pytest.skip(f"{error.message} ({error.hint})")


@pytest.fixture(scope="module", params=["erfnet", "bisenet"])
def exported(request, tmp_path_factory):
    """A network of the size that is deployed, exported; random weights."""
    torch = pytest.importorskip("torch")
    from edgeinc.deploy._graph import to_onnx
    from edgeinc.models import create
    from edgeinc.runs import sha256

    size = (512, 1024)
    torch.manual_seed(0)
    path = write_artifact(tmp_path_factory.mktemp(request.param))
    path.write_bytes(to_onnx(create(request.param, (3,)).eval(), size).SerializeToString())
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    card.update(sha256=sha256(path), size=size, model=request.param)
    path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    return path


def test_an_engine_agrees_with_onnx_runtime(exported, record_property):
    from edgeinc.deploy.build import build
    from edgeinc.runtimes import open_artifact

    result = build(exported)
    record_property("build s", round(result.card.seconds, 1))
    record_property("MB", round(result.card.bytes / 1e6, 1))
    height, width = result.card.artifact.size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, height // 16, width // 16, 3), np.uint8)
    images = coarse.repeat(16, 1).repeat(16, 2)
    with open_artifact(result.path) as session, open_artifact(exported, device="cpu") as other:
        agreement = 100 * np.mean(session.run(images) == other.run(images))
        record_property("agreement %", round(float(agreement), 3))
        times, device = [], []
        for i in range(60):
            start = time.perf_counter()
            session.run(images[i % 4 : i % 4 + 1])
            times.append(1000 * (time.perf_counter() - start))
            device.append(session.device_ms)
    record_property("p50 ms with copies", round(float(np.median(times[10:])), 2))
    record_property("p50 ms on the GPU", round(float(np.median(device[10:])), 2))
    assert agreement > 99.5  # TF32 and other kernels: ties go either way


@pytest.mark.parametrize("refit", ["head", "all"])
def test_an_engine_that_can_be_refitted_decides_the_same(refit, tmp_path, record_property):
    from edgeinc.deploy.build import build
    from edgeinc.runtimes import open_artifact
    from edgeinc.runtimes.tensorrt import load_tensorrt

    if refit == "head" and load_tensorrt().version.startswith("8."):
        pytest.skip("needs TensorRT 10")
    result = build(write_artifact(tmp_path), refit=refit)
    record_property("build s", round(result.card.seconds, 1))
    with open_artifact(result.path) as session:
        same = np.mean(session.run(scenes()) == expected(scenes(), *classifier(3)))
    assert same > 0.99


@pytest.mark.parametrize("refit", ["head", "all"])
def test_an_engine_takes_other_weights_without_a_build(refit, tmp_path, record_property):
    from edgeinc.deploy.build import build
    from edgeinc.runtimes import open_artifact
    from edgeinc.runtimes.tensorrt import load_tensorrt

    if refit == "head" and load_tensorrt().version.startswith("8."):
        pytest.skip("needs TensorRT 10")
    old = write_artifact(tmp_path / "old", gain=1.0, golden=True)
    gain = 1.5 if refit == "all" else 1.0
    new = write_artifact(tmp_path / "new", seed=5, weights="v", gain=gain, golden=True)
    engine = build(old, refit=refit).path
    weight, bias = classifier(3, seed=5)
    with open_artifact(engine) as session:
        result = session.update(new)
        record_property("ready ms", round(result.ready_ms, 1))
        record_property("golden %", result.golden_percent)
        assert result.plan.way == "weights"
        same = np.mean(session.run(scenes()) == expected(scenes(), weight * gain, bias))
        assert same > 0.99
        session.rollback()
        assert np.mean(session.run(scenes()) == expected(scenes(), *classifier(3))) > 0.99


def test_a_network_of_full_size_is_refitted_while_it_serves(tmp_path, record_property):
    """What refit costs: the frame of an engine that can be refitted, and of one that cannot."""
    torch = pytest.importorskip("torch")
    from edgeinc.deploy._graph import to_onnx
    from edgeinc.deploy.build import build
    from edgeinc.models import create
    from edgeinc.runs import sha256
    from edgeinc.runtimes import _golden, open_artifact

    onnx = pytest.importorskip("onnx")
    size, paths = (512, 1024), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        path = write_artifact(tmp_path / str(seed), weights=str(seed))
        model = to_onnx(create("erfnet", (3,)).eval(), size)
        path.write_bytes(model.SerializeToString())
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        card.update(sha256=sha256(path), size=size)
        path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
        with open_artifact(path, device="cpu") as session:
            onnx.helper.set_model_props(model, _golden.ask(session.run, size))
        path.write_bytes(model.SerializeToString())
        card.update(sha256=sha256(path))
        path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
        paths.append(path)
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    for refit in ("none", "all"):
        engine = build(paths[0], refit=refit, out=tmp_path / "0" / f"{refit}.engine").path
        with open_artifact(engine) as session:
            call, times = session.prepared(image), []
            for _ in range(60):
                call()
                times.append(session.device_ms)
            record_property(f"p50 ms on the GPU, refit {refit}", round(np.median(times[10:]), 2))
            record_property(f"GPU MB, refit {refit}", round(session.gpu_mb(), 1))
            if refit == "all":
                result = session.update(paths[1])
                assert result.plan.way == "weights"
                record_property("ready ms", round(result.ready_ms, 1))
                record_property("golden %", result.golden_percent)


def test_a_dynamic_head_grows_without_a_build(tmp_path):
    from edgeinc.deploy.build import build
    from edgeinc.runtimes.tensorrt import TensorRTSession

    engine = Path(build(write_artifact(tmp_path, head=True)).path)
    weight, bias = classifier(3)
    given = {"head_weight": weight, "head_bias": bias}
    with TensorRTSession(engine, device="auto", threads=1, constants=given) as session:
        assert np.mean(session.run(scenes()) == expected(scenes(), weight, bias)) > 0.99
        more = classifier(20, seed=5)
        session.set_constants({"head_weight": more[0], "head_bias": more[1]})
        assert np.mean(session.run(scenes()) == expected(scenes(), *more)) > 0.99


def test_timings_make_the_second_build_faster(exported, tmp_path, monkeypatch, record_property):
    from edgeinc.deploy.build import build

    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path))
    first, second = (build(exported, out=tmp_path / f"{i}.engine").card for i in (1, 2))
    record_property("first s", round(first.seconds, 1))
    record_property("second s", round(second.seconds, 1))
    assert (first.timing_cache, second.timing_cache) == ("new", "used")


def test_many_sessions_leave_no_memory_behind(tmp_path, record_property):
    from edgeinc.deploy.build import build
    from edgeinc.runtimes import open_artifact
    from edgeinc.runtimes._cuda import open_cuda

    engine = build(write_artifact(tmp_path)).path
    open_artifact(engine).close()
    before = open_cuda().memory()[0]
    for _ in range(20):
        with open_artifact(engine) as session:
            session.run(scenes())
    lost = (before - open_cuda().memory()[0]) / 1e6
    record_property("MB lost", round(lost, 1))
    assert lost < 32
