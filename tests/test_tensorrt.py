"""Engines run what was exported, on the machine they were built on, and nothing else."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from engines import (
    CLASSES,
    SIZE,
    VERSIONS,
    classifier,
    expected,
    loaded,
    scenes,
    write_artifact,
)

from edgeinc import host
from edgeinc.deploy.build import build
from edgeinc.errors import EdgeincError, MissingError, UsageError
from edgeinc.runs import sha256
from edgeinc.runtimes import open_artifact
from edgeinc.runtimes._engine import sidecar_path
from edgeinc.runtimes.tensorrt import TensorRT, TensorRTSession


def built(folder, machine, version="10.16.1", *, head=False, **settings):
    machine(version, **settings)
    path = write_artifact(folder, head=head)
    return Path(build(path, max_rows=8).path)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_decides_as_its_file_does(version, tmp_path, machine):
    engine = built(tmp_path, machine, version)
    images = scenes(4)
    wide = np.repeat(images, 2, axis=2)[:, :, ::2]  # the same, not contiguous
    with open_artifact(engine) as session, open_artifact(engine.with_suffix(".onnx")) as other:
        ids = session.run(images)
        assert np.array_equal(ids, expected(images, *classifier(3)))
        assert np.array_equal(ids, other.run(images))
        assert np.array_equal(session.run(wide), ids)
        assert len(np.unique(ids)) == 3
        assert session.run(images[:0]).shape == (0, *SIZE)
        assert session.device_ms > 0
        with pytest.raises(UsageError, match=f"{SIZE[0]}, {SIZE[1]}, 3"):
            session.run(images[:, :-1])


def test_a_session_says_what_it_is(tmp_path, machine):
    engine = built(tmp_path, machine)
    with open_artifact(engine, threads=2) as session:
        assert (session.runtime, session.provider, session.precision) == (
            "tensorrt",
            "cuda",
            "fp32",
        )
        assert (session.size, session.step, session.threads) == (SIZE, 0, 2)
        assert session.table.classes == CLASSES
        assert (session.path, session.sha256) == (engine, sha256(engine))


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_on_the_gpu_is_given_back(version, tmp_path, machine):
    engine = built(tmp_path, machine, version)
    session = open_artifact(engine)
    session.run(scenes())
    cudart = loaded().cudart
    assert cudart.memory
    assert cudart.streams
    session.close()
    session.close()
    assert (cudart.memory, cudart.streams, cudart.events) == ({}, {}, {})


def test_what_was_taken_is_given_back_when_opening_fails(tmp_path, machine):
    engine = built(tmp_path, machine, head=True)
    with pytest.raises(UsageError, match="head_bias has no value"):
        open_artifact(engine)
    cudart = loaded().cudart
    assert (cudart.memory, cudart.streams, cudart.events) == ({}, {}, {})


@pytest.mark.parametrize("head", [False, True])
def test_a_prepared_call_computes_without_copying(head, tmp_path, machine, monkeypatch):
    engine = built(tmp_path, machine, head=head)
    weight, bias = classifier(3)
    given = {"head_weight": weight, "head_bias": bias} if head else None
    images = scenes(2)
    with TensorRTSession(engine, device="auto", threads=1, constants=given) as session:
        session.run(images)
        cudart, held = loaded().cudart, len(loaded().cudart.memory)
        first, second = session.prepared(images[:1]), session.prepared(images[1:])
        with monkeypatch.context() as patch:
            patch.setattr(cudart, "cudaMemcpyAsync", None)
            for call, image in ((second, images[1:]), (first, images[:1])):
                call()
                ids = expected(image, weight, bias).tobytes()
                assert any(bytes(block) == ids for kind, block in cudart.memory.values())
        assert session.device_ms > 0
        with pytest.raises(UsageError, match=f"{SIZE[0]}, {SIZE[1]}, 3"):
            session.prepared(images[:, :-1])
        assert np.array_equal(session.run(images), expected(images, weight, bias))
        del first, second, call
        assert len(cudart.memory) == held


def test_a_session_knows_what_it_took_of_the_gpus_memory(tmp_path, machine):
    engine = built(tmp_path, machine, kernels=3_000_000)
    with open_artifact(engine) as session:
        opened = session.gpu_mb()
        session.run(scenes())
        assert session.gpu_mb() == pytest.approx(opened + 3)  # CUDA loads kernels when they start
        session.run(scenes())
        cudart = loaded().cudart
        buffers = sum(len(block) for kind, block in cudart.memory.values() if kind == "device")
        assert session.gpu_mb() == pytest.approx((cudart.reserved + buffers) / 1e6)


def test_a_benchmark_of_an_engine_tells_copies_from_computing(tmp_path, machine):
    from edgeinc.deploy.bench import bench

    engine = built(tmp_path, machine, kernels=3_000_000)
    result = bench(engine, scopes=["infer", "io"], duration=0.05)
    assert [(r.scope, r.status in ("ok", "unstable")) for r in result.rows] == [
        ("infer", True),
        ("io", True),
    ]
    assert all(r.gpu_mb > 3 for r in result.rows)
    assert "gpu_mb" in result.scopes


# ---------------------------------------------------------------------------------- a dynamic head


@pytest.mark.parametrize("version", VERSIONS)
def test_the_head_is_replaced_without_a_build(version, tmp_path, machine):
    engine = built(tmp_path, machine, version, head=True)
    images = scenes()
    first, second = classifier(3, seed=0), classifier(5, seed=7)
    given = dict(zip(("head_weight", "head_bias"), first, strict=True))
    session = TensorRTSession(engine, device="auto", threads=1, constants=given)
    with session:
        for array in given.values():
            array.fill(0)  # what was given may be used for something else
        assert np.array_equal(session.run(images), expected(images, *classifier(3, seed=0)))
        session.set_constants({"head_weight": second[0], "head_bias": second[1]})
        ids = session.run(images)
        assert np.array_equal(ids, expected(images, *second))
        assert ids.max() > 2
        bias = second[1][::-1].copy()
        session.set_constants({"head_bias": bias})  # the weight stays
        assert np.array_equal(session.run(images), expected(images, second[0], bias))


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("head_weight", np.zeros((9, 3), np.float32), r"\(1 to 8, 3\)"),
        ("head_weight", np.zeros((0, 3), np.float32), r"\(1 to 8, 3\)"),
        ("head_weight", np.zeros((3, 4), np.float32), r"\(1 to 8, 3\)"),
        ("head_weight", np.zeros((3, 3), np.float64), "takes float32"),
        ("head_weight", np.zeros(3, np.float32), r"not float32 \(3,\)"),
        ("tail", np.zeros(3, np.float32), "no input tail"),
    ],
)
def test_a_head_that_does_not_fit_changes_nothing(name, array, words, tmp_path, machine):
    engine = built(tmp_path, machine, head=True)
    weight, bias = classifier(3)
    given = {"head_weight": weight, "head_bias": bias}
    with TensorRTSession(engine, device="auto", threads=1, constants=given) as session:
        with pytest.raises(UsageError, match=words) as caught:
            session.set_constants({name: array})
        assert caught.value.hint
        assert np.array_equal(session.run(scenes()), expected(scenes(), weight, bias))


# ---------------------------------------------------------------------------------- the sidecar


def refused(engine, words):
    """The engine is refused in one line with the command, and was never deserialised."""
    with pytest.raises(EdgeincError, match=words) as caught:
        open_artifact(engine)
    assert "\n" not in caught.value.message
    assert str(engine) in caught.value.message
    assert caught.value.hint == f"edgeinc build {engine.with_suffix('.onnx')}"
    module = sys.modules.get("tensorrt")
    assert module is None or module.deserialised == []


def test_an_engine_without_sidecar_is_not_touched(tmp_path, machine):
    engine = built(tmp_path, machine)
    sidecar_path(engine).unlink()
    refused(engine, "has no step-0.fp32.engine.json")


def test_an_engine_that_was_changed_is_not_touched(tmp_path, machine):
    engine = built(tmp_path, machine)
    engine.write_bytes(engine.read_bytes()[:-1] + b"!")
    refused(engine, "is not the engine")


@pytest.mark.parametrize(
    ("version", "settings", "words"),
    [
        ("11.4.0", {}, r"TensorRT 10\.16\.1, here is 11\.4\.0"),
        ("10.16.1", {"name": "Orin"}, "GPU NVIDIA Fake, here is Orin"),
        ("10.16.1", {"capability": [8, 7]}, r"compute capability 8\.6, here is 8\.7"),
        ("10.16.1", {"driver": 12040}, r"CUDA 12\.6, here is the older 12\.4"),
    ],
    ids=["tensorrt", "gpu", "capability", "driver"],
)
def test_an_engine_of_another_machine_is_not_touched(version, settings, words, tmp_path, machine):
    engine = built(tmp_path, machine)
    machine(version, **settings)
    refused(engine, words)


def test_all_differences_are_in_one_line(tmp_path, machine):
    engine = built(tmp_path, machine)
    machine("11.4.0", name="Orin")
    refused(engine, "TensorRT.*; .*GPU")


def test_another_release_of_l4t_or_an_older_driver_is_refused(tmp_path, machine, monkeypatch):
    engine = built(tmp_path, machine)
    card = json.loads(sidecar_path(engine).read_text(encoding="utf-8"))
    card["machine"].update(l4t="36.4.0", driver="550.54.14")
    sidecar_path(engine).write_text(json.dumps(card), encoding="utf-8")
    monkeypatch.setattr(host, "l4t", lambda: "36.4.3")
    monkeypatch.setattr(host, "nvidia_driver", lambda: "535.1")
    refused(engine, r"L4T 36\.4\.0, here is 36\.4\.3; .*driver 550\.54\.14.*older 535\.1")
    monkeypatch.setattr(host, "l4t", lambda: "36.4.0")
    monkeypatch.setattr(host, "nvidia_driver", lambda: "551.2")
    open_artifact(engine).close()


def test_a_newer_driver_runs_what_an_older_one_built(tmp_path, machine):
    engine = built(tmp_path, machine)
    machine("10.16.1", driver=13000)
    open_artifact(engine).close()


def test_an_engine_of_an_earlier_export_is_refused(tmp_path, machine):
    engine = built(tmp_path, machine)
    write_artifact(tmp_path, weights="another")
    refused(engine, "has other weights now")
    engine.with_suffix(".onnx").unlink()  # nothing to compare with: the engine stands for itself
    open_artifact(engine).close()


# ---------------------------------------------------------------------------------- faults


def test_what_tensorrt_says_about_an_engine_is_passed_on(tmp_path, machine):
    """An engine whose sidecar fits and whose content does not."""
    engine = built(tmp_path, machine)
    head, _, content = engine.read_bytes().partition(b"\n")
    other = json.dumps({**json.loads(head), "version": "10.3.0"}).encode()
    engine.write_bytes(other + b"\n" + content)
    card = json.loads(sidecar_path(engine).read_text(encoding="utf-8"))
    sidecar_path(engine).write_text(json.dumps({**card, "sha256": sha256(engine)}))
    with pytest.raises(EdgeincError, match="Version tag does not match") as caught:
        open_artifact(engine)
    assert "edgeinc build" in caught.value.hint


@pytest.mark.parametrize("device", ["cpu", "tpu", "cuda:x", "auto:0", ""])
def test_another_device_is_refused(device, tmp_path, machine):
    engine = built(tmp_path, machine)
    with pytest.raises(MissingError, match="device") as caught:
        open_artifact(engine, device=device)
    assert caught.value.hint


def test_a_gpu_that_is_not_here_is_never_replaced(tmp_path, machine):
    engine = built(tmp_path, machine)
    with pytest.raises(MissingError, match="no GPU 3"):
        open_artifact(engine, device="cuda:3")


def test_a_tensorrt_whose_library_is_gone_is_told_from_none(tmp_path, machine):
    engine = built(tmp_path, machine)
    site = next(tmp_path.glob("site"))
    (site / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    with pytest.raises(MissingError, match=r"libnvinfer\.so\.10"):
        TensorRT.open(engine)


def test_its_version_is_found_without_importing_it(machine):
    machine("10.16.1")
    state = TensorRT.availability()
    assert (state.ok, state.version) == (True, "10.16.1")
    assert "tensorrt" not in sys.modules


# ---------------------------------------------------------------------------------- this machine


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3"),
        ("# R32 (release), REVISION: 7.1, GCID: 29818004", "32.7.1"),
        ("something else", ""),
    ],
)
def test_the_release_of_a_jetson(text, release, tmp_path):
    (tmp_path / "release").write_text(text)
    assert host.l4t(tmp_path / "release") == release
    assert host.l4t(tmp_path / "absent") == ""


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22",
            "550.54.14",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build",
            "580.65.06",
        ),
        ("GCC version", ""),
    ],
)
def test_the_version_of_the_kernel_driver(text, driver, tmp_path):
    (tmp_path / "version").write_text(text)
    assert host.nvidia_driver(tmp_path / "version") == driver
    assert host.nvidia_driver(tmp_path / "absent") == ""
